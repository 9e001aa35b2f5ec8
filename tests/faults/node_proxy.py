"""A proxy in front of one server that tells its peers from its clients: it can cut off the first and not the second.

Servers and sentinels connect from an address of their own (`bind-source-addr`); everybody else is a client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

ADDRESS: Final = "127.0.0.1"
PEERS: Final = "127.0.0.2"


class NodeProxy:
    """Forwards both ways until told otherwise.

    Args:
        port: The server's.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self.port = 0
        self.isolates_peers = False

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Pair(self, self._target).near, ADDRESS, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        for pair in list(self._pairs):
            pair.abort()
        await self._listener.wait_closed()

    def isolate(self) -> None:
        """Nothing passes any more between the server and its peers, and nobody is told."""
        self.isolates_peers = True
        for pair in self._pairs:
            pair.hold()

    def heal(self) -> None:
        """Peers connect anew."""
        self.isolates_peers = False
        for pair in list(self._pairs):
            if pair.is_held:
                pair.abort()

    def join(self, pair: _Pair) -> None:
        """A connection is there."""
        self._pairs.add(pair)

    def leave(self, pair: _Pair) -> None:
        """A connection is gone."""
        self._pairs.discard(pair)


class _Pair:
    """One connection: the half towards whoever connected, and that towards the server."""

    def __init__(self, proxy: NodeProxy, port: int) -> None:
        self._proxy = proxy
        self._port = port
        self.is_held = False
        self.near = _Half(self, self._opened)
        self.far = _Half(self, self._connected)
        self._kept = bytearray()
        self._opening: asyncio.Task[None] | None = None

    def hold(self) -> None:
        assert self.near.transport is not None
        if self.near.transport.get_extra_info("peername")[0] != PEERS:
            return
        self.is_held = True
        for half in (self.near, self.far):
            if half.transport is not None and not half.transport.is_closing():
                half.transport.pause_reading()

    def pass_on(self, source: _Half, data: bytes) -> None:
        if source is self.far:
            self._write(self.near, data)
        elif self.far.transport is None:
            self._kept += data
        else:
            self._write(self.far, data)

    def abort(self) -> None:
        self._proxy.leave(self)
        for half in (self.near, self.far):
            if half.transport is not None:
                half.transport.abort()

    def _write(self, half: _Half, data: bytes) -> None:
        if half.transport is not None and not half.transport.is_closing():
            half.transport.write(data)

    def _opened(self) -> None:
        self._proxy.join(self)
        if self._proxy.isolates_peers:
            self.hold()
        if not self.is_held:
            self._opening = asyncio.create_task(self._connect())

    def _connected(self) -> None:
        self._write(self.far, bytes(self._kept))
        if self.is_held:
            self.hold()

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, ADDRESS, self._port)
        except OSError:
            self.abort()


class _Half(asyncio.Protocol):
    """One socket."""

    def __init__(self, pair: _Pair, on_made: Callable[[], None]) -> None:
        self._pair = pair
        self._on_made = on_made
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._on_made()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pair.abort()

    def data_received(self, data: bytes) -> None:
        self._pair.pass_on(self, data)
