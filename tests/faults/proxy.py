"""A proxy in front of the server that understands as much RESP3 as it takes to lose single messages.

It cuts, refuses, freezes and delays like any bad network; and it loses pub/sub messages while everything else on the
same connection passes, as a server does that publishes where nobody listens any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType
from typing import Final, Self

ADDRESS: Final = "127.0.0.1"


class Drop(Enum):
    """Which pub/sub messages are lost."""

    NONE = auto()
    ALL = auto()
    QUIETLY = auto()  # all but an instance's own probe, so that it believes to hear


_AGGREGATES: Final = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}
_BULKS: Final = frozenset(b"$!=")
_MESSAGES: Final = (b"$7\r\nmessage\r\n", b"$8\r\npmessage\r\n")
_PROBE: Final = b"broker:probe:"


def frame_end(data: bytes | bytearray, start: int) -> int | None:
    """Where the RESP3 value that starts at `start` ends; None while it is incomplete."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, after = data[start], line_end + 2
    if kind in _BULKS:
        length = int(data[start + 1 : line_end])
        end = after if length < 0 else after + length + 2
        return end if end <= len(data) else None
    if kind not in _AGGREGATES:
        return after
    position: int | None = after
    for _ in range(max(0, int(data[start + 1 : line_end])) * _AGGREGATES[kind]):
        assert position is not None
        position = frame_end(data, position) if position < len(data) else None
        if position is None:
            return None
    if kind == ord("|"):
        # Attributes belong to the value that follows.
        assert position is not None
        return frame_end(data, position) if position < len(data) else None
    return position


def is_message(frame: bytes) -> bool:
    """Whether a frame is a push that carries a published message."""
    if frame[:1] != b">":
        return False
    first = frame.find(b"\r\n") + 2
    return frame.startswith(_MESSAGES, first)


class FaultyProxy:
    """Forwards both ways until told otherwise.

    Args:
        port: The server's.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self.port = 0
        self.is_frozen = False
        self.delay_s = 0.0
        self.drop = Drop.NONE
        self.dropped = 0

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()

    @property
    def url(self) -> str:
        """The server's URL by way of this proxy."""
        return f"redis://{ADDRESS}:{self.port}/0"

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._pairs)

    async def listen(self) -> None:
        """Takes connections, always on the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Pair(self, self._target).client, ADDRESS, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cuts all connections and takes no more."""
        if self._server is not None:
            self._server.close()
            self.cut()
            await self._server.wait_closed()
            self._server = None

    def cut(self) -> None:
        """Ends all connections in the middle of what they do."""
        for pair in list(self._pairs):
            pair.abort()

    def freeze(self) -> None:
        """Nothing passes any more, in no direction, and nobody is told."""
        self.is_frozen = True

    def thaw(self) -> None:
        """All passes again, what was kept first."""
        self.is_frozen = False
        for pair in list(self._pairs):
            pair.flush()

    def join(self, pair: _Pair) -> None:
        """A connection is there."""
        self._pairs.add(pair)

    def leave(self, pair: _Pair) -> None:
        """A connection is gone."""
        self._pairs.discard(pair)

    def passes(self, frame: bytes) -> bool:
        """Whether a frame from the server goes on to its client."""
        if self.drop is Drop.NONE or not is_message(frame) or (self.drop is Drop.QUIETLY and _PROBE in frame):
            return True
        self.dropped += 1
        return False


class _Pair:
    """One connection: the client's half, the server's, and a queue each way."""

    def __init__(self, proxy: FaultyProxy, port: int) -> None:
        self._proxy = proxy
        self._port = port
        self._reply = bytearray()
        self.client = _Half(proxy, self._take_request, self.abort, self._open)
        self.server = _Half(proxy, self._take_reply, self.abort, self._forward_kept)
        self._opening: asyncio.Task[None] | None = None

    def abort(self) -> None:
        self._proxy.leave(self)
        self.client.abort()
        self.server.abort()

    def flush(self) -> None:
        self.client.flush()
        self.server.flush()

    def _open(self) -> None:
        self._proxy.join(self)
        self._opening = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, ADDRESS, self._port)
        except OSError:
            self.abort()

    def _forward_kept(self) -> None:
        self.server.flush()

    def _take_request(self, data: bytes) -> None:
        self.server.send(data)

    def _take_reply(self, data: bytes) -> None:
        self._reply += data
        start, passing = 0, []
        while start < len(self._reply) and (end := frame_end(self._reply, start)) is not None:
            frame = bytes(self._reply[start:end])
            if self._proxy.passes(frame):
                passing.append(frame)
            start = end
        del self._reply[:start]
        if passing:
            self.client.send(b"".join(passing))


class _Half(asyncio.Protocol):
    """One socket and what waits to be written to it."""

    def __init__(
        self,
        proxy: FaultyProxy,
        on_data: Callable[[bytes], None],
        on_lost: Callable[[], None],
        on_made: Callable[[], None],
    ) -> None:
        self._proxy = proxy
        self._on_data, self._on_lost, self._on_made = on_data, on_lost, on_made
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_aborted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._is_aborted:
            transport.abort()
        else:
            self._on_made()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        self._on_data(data)

    def send(self, data: bytes) -> None:
        """Writes it after the delay of now, and never before what was sent earlier."""
        due = self._loop.time() + self._proxy.delay_s
        self._queue.append((max(due, self._queue[-1][0]) if self._queue else due, data))
        self.flush()

    def flush(self) -> None:
        self._timer = None
        if self._proxy.is_frozen or self._transport is None or self._is_aborted:
            return
        now = self._loop.time()
        while self._queue and self._queue[0][0] <= now:
            self._transport.write(self._queue.popleft()[1])
        if self._queue:
            self._timer = self._loop.call_at(self._queue[0][0], self.flush)

    def abort(self) -> None:
        self._is_aborted = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
