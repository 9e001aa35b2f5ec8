"""What happens to a call that is held in an ASGI application when its caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Final

from broker.deadlines import Deadlines

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""ASGI's."""

WATCH_AFTER_S: Final = 0.25
"""A held call's socket is watched from this age on: most are answered before, and pay nothing for it."""


class ClientGoneError(Exception):
    """The caller closed its socket: there is nobody to answer."""


class DisconnectWatch:
    """While a call is held: ends it with ClientGoneError soon after its caller's socket is closed."""

    __slots__ = ("_deadlines", "_gone", "_holder", "_receive", "_tick", "_watcher")

    def __init__(self, receive: Receive, deadlines: Deadlines) -> None:
        self._receive = receive
        self._deadlines = deadlines
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> DisconnectWatch:
        holder = asyncio.current_task(self._deadlines.loop)
        if holder is None:
            raise RuntimeError("A call is held inside a task.")
        self._holder = holder
        self._tick = self._deadlines.start(self, WATCH_AFTER_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.stop(self, self._tick)
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and kind is asyncio.CancelledError:
            self._holder.uncancel()
            raise ClientGoneError

    def expire(self) -> None:
        """The call is still held: from now on its socket is watched."""
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._holder.cancel()
