"""A server that answers what a test tells it to: for what a real one says only on bad days."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import hiredis

Answer = Callable[[list[bytes]], bytes]
"""The words of a command in, the bytes of a reply out."""

OK: Final = b"+OK\r\n"


def hello(*, kind: str = "redis", version: str = "7.4.0", role: str = "master") -> bytes:
    """The reply to HELLO 3."""
    members = {"server": kind, "version": version, "role": role}
    lines = [f"+{word}\r\n" for item in members.items() for word in item]
    return f"%{len(members)}\r\n{''.join(lines)}".encode()


def polite(command: list[bytes]) -> bytes:
    """A master that has nothing against anything."""
    return hello() if command[0] == b"HELLO" else OK


class _Conversation(asyncio.Protocol):
    def __init__(self, answer: Answer, transports: set[asyncio.Transport]) -> None:
        self._answer = answer
        self._transports = transports
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._transports.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._transport is not None
        self._transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self._transport.write(self._answer(command))


@asynccontextmanager
async def fake_server(answer: Answer) -> AsyncIterator[str]:
    """Runs one and gives its URL."""
    transports: set[asyncio.Transport] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Conversation(answer, transports), "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for transport in list(transports):
            transport.abort()
        await server.wait_closed()
