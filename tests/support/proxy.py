"""A TCP proxy in front of a server, to cut, freeze and hear what goes through, as networks do."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Forwards both ways until told otherwise.

    Args:
        url: The server's; `url` of this object is the same server through the proxy.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._clients: set[_Client] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self.received: list[bytes] = []
        self.is_frozen = False
        self.keeps_replies = False
        self._first_kept = b""
        self.delay_s = 0.0

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
        credentials, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{credentials}{at}127.0.0.1:{self._port}"))

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._clients)

    async def listen(self) -> None:
        """Takes connections, always on the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cuts all connections and takes no more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def cut(self) -> None:
        """Ends all connections in the middle of what they do."""
        for client in list(self._clients):
            client.abort()

    def freeze(self) -> None:
        """Nothing passes any more, in no direction, and nobody is told."""
        self.is_frozen = True

    def keep_replies(self, *, first: bytes = b"") -> None:
        """Commands pass, their replies do not; from the reply on that holds `first`, it included."""
        self._first_kept = first
        self.keeps_replies = not first

    def hear_reply(self, data: bytes) -> None:
        """The server says something."""
        if self._first_kept and self._first_kept in data:
            self.keep_replies()

    def slow_down(self, delay_s: float) -> None:
        """Each reply takes so much longer from now on."""
        self.delay_s = delay_s

    def thaw(self) -> None:
        """All passes again, what was kept first."""
        self.is_frozen = self.keeps_replies = False
        for client in self._clients:
            client.flush()

    def lose_replies(self) -> None:
        """Ends all connections, and with them the replies that were kept; all passes on new ones."""
        self.keeps_replies = False
        self.cut()

    def say(self, data: bytes) -> None:
        """Tells each client something that the server never said."""
        for client in self._clients:
            client.say(data)

    async def connect(self, server: _Server) -> None:
        """Opens the way to the server for one client."""
        loop = asyncio.get_running_loop()
        assert self._target.hostname is not None
        assert self._target.port is not None
        await loop.create_connection(lambda: server, self._target.hostname, self._target.port)

    def join(self, client: _Client) -> None:
        """A client is there."""
        self._clients.add(client)

    def leave(self, client: _Client) -> None:
        """A client is gone."""
        self._clients.discard(client)


class _Client(asyncio.Protocol):
    """The side towards the program under test."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._server = _Server(self)
        self._transport: asyncio.Transport | None = None
        self._to_server: list[bytes] = []
        self._to_client: list[bytes] = []
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._proxy.join(self)
        self._opening = asyncio.create_task(self._open())

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.leave(self)
        self._server.abort()

    def data_received(self, data: bytes) -> None:
        self._proxy.received.append(data)
        self._to_server.append(data)
        self.flush()

    def take_reply(self, data: bytes) -> None:
        self._proxy.hear_reply(data)
        if self._proxy.delay_s:
            asyncio.get_running_loop().call_later(self._proxy.delay_s, self._pass_reply, data)
        else:
            self._pass_reply(data)

    def _pass_reply(self, data: bytes) -> None:
        self._to_client.append(data)
        self.flush()

    def say(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def flush(self) -> None:
        if self._proxy.is_frozen:
            return
        if self._server.is_open:
            self._server.write(b"".join(self._to_server))
            self._to_server.clear()
        if not self._proxy.keeps_replies and self._to_client:
            self.say(b"".join(self._to_client))
            self._to_client.clear()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _open(self) -> None:
        try:
            await self._proxy.connect(self._server)
        except OSError:
            self.abort()
        else:
            self.flush()


class _Server(asyncio.Protocol):
    """The side towards the real server."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._is_aborted = False

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._is_aborted:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.abort()

    def data_received(self, data: bytes) -> None:
        self._client.take_reply(data)

    def write(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        self._is_aborted = True
        if self._transport is not None:
            self._transport.abort()
