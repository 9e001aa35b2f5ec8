"""A held call ends when its caller leaves: the connection says so, at no cost while it lasts."""

from __future__ import annotations

import asyncio
from types import TracebackType

from broker.disconnect import ClientGoneError
from broker_services.api.delivery import Connection


class ConnectionWatch:
    """While a call is held: ends it with ClientGoneError as soon as its caller's socket is closed.

    Args:
        connection: That the call came by.
        loop: The running loop.
    """

    __slots__ = ("_connection", "_gone", "_holder", "_loop")

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._gone = False

    def __enter__(self) -> None:
        holder = asyncio.current_task(self._loop)
        if holder is None:
            raise RuntimeError("A call is held inside a task.")
        self._holder = holder
        self._connection.on_closed = self._lose
        if self._connection.transport.is_closing():
            self._lose()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.on_closed = None
        if self._gone and kind is asyncio.CancelledError:
            self._holder.uncancel()
            raise ClientGoneError

    def _lose(self) -> None:
        self._gone = True
        self._holder.cancel()
