"""One socket to Redis: bytes in, replies to the oldest call, pushes to their listener."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import hiredis
from hiredis import PushNotification

from broker.store.commands import Call, Push, Reply

log = logging.getLogger("broker.store")

_NOT_YET: Final = object()


class Connection(asyncio.Protocol):
    """A connection from its opening to its loss.

    Args:
        on_reply: Takes each reply with the call that it answers.
        on_push: Takes each RESP3 push; must not block.
    """

    def __init__(self, on_reply: Callable[[Call, Reply], None], on_push: Callable[[Push], None]) -> None:
        self.outstanding: deque[Call] = deque()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last_heard = 0.0
        self.address = ""
        self.identity = b""
        self._reader = hiredis.Reader(notEnoughData=_NOT_YET)
        self._on_reply = on_reply
        self._on_push = on_push
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._oldest_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = transport  # type: ignore[assignment]
        self.last_heard = self._loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        if not self.lost.done():
            self.lost.set_result(None)

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be written any more; uvloop raises where asyncio would ignore it."""
        return self._transport is None or self._transport.is_closing()

    def write(self, data: bytes, calls: list[Call]) -> None:
        """Writes `data`, in which `calls` are those that are answered, in order."""
        if not self.outstanding:
            self._oldest_since = self._loop.time()
        self.outstanding.extend(calls)
        if self._transport is None or self._transport.is_closing():
            # Its loss will be told in a moment; what never left may go by the next connection.
            return
        for call in calls:
            call.was_written = True
        self._transport.write(data)

    def abort(self) -> None:
        """Closes at once."""
        if self._transport is not None:
            self._transport.abort()

    def owes_since(self) -> float | None:
        """Since when the oldest outstanding reply, or any byte after it, is awaited."""
        return max(self._oldest_since, self.last_heard) if self.outstanding else None

    def data_received(self, data: bytes) -> None:
        """Dispatches every reply and push that is complete."""
        self.last_heard = self._loop.time()
        self._reader.feed(data)
        next_reply, on_push = self._reader.gets, self._on_push
        try:
            while (reply := next_reply()) is not _NOT_YET:
                try:
                    if type(reply) is PushNotification:
                        on_push(reply)
                    else:
                        self._dispatch(reply)
                except Exception:
                    # A defect of one receiver must not cost the others their connection.
                    log.exception("A reply or a message could not be handled.")
        except hiredis.ProtocolError:
            log.exception("The server sent something that is not RESP3; the connection is opened anew.")
            self.abort()

    def _dispatch(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError) and _denies_channel(reply):
            # The error of a SUBSCRIBE, which otherwise answers by pushes: no call is waiting for it.
            log.error("The server refused a subscription (%s): `broker doctor` names the missing permission.", reply)
            self.abort()
        elif self.outstanding:
            self._on_reply(self.outstanding.popleft(), reply)
        elif isinstance(reply, hiredis.ReplyError):
            # Said before anything was asked: that it has no place for another client, for instance.
            log.warning("The server ends the connection: %s.", reply)
            self.abort()
        else:
            log.error("The server answered a command that nobody sent; the connection is opened anew.")
            self.abort()


def _denies_channel(error: Exception) -> bool:
    text = str(error)
    return text.startswith("NOPERM") and "channel" in text
