"""Connections that send nothing, or end: no timer and no connection is left over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from broker_services.api import protocol as protocol_module
from broker_services.api.direct_protocol import protocol_factory
from broker_services.api.protocol import HeadBounds
from tests.support.store import until

HEAD_TIMEOUT_S = 0.3
LONG_BODY = 2**24
KEEP_ALIVE_S = 0.1


async def gone(receive: Any) -> None:
    """Returns once the caller is."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/long":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * LONG_BODY})
        return
    if scope["path"] == "/endless":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        watching = asyncio.create_task(gone(receive))
        while not watching.done():
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            await asyncio.sleep(0)
        return
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Listener:
    """A server of these protocols, which can be looked at."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.protocols: list[Any] = []
        self.address = ("", 0)
        protocol = protocol_factory(HeadBounds(1_024, HEAD_TIMEOUT_S, self.refused.append))
        config = uvicorn.Config(app, timeout_keep_alive=KEEP_ALIVE_S, log_config=None)  # type: ignore[arg-type]
        state = ServerState()

        def made() -> Any:
            connection = protocol(config, state, {})
            self.protocols.append(connection.inner)
            return connection

        self.factory = made


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.get_running_loop().create_server(listener.factory, "127.0.0.1", 0)
    async with server:
        listener.address = server.sockets[0].getsockname()
        yield listener


async def connect(listener: Listener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*listener.address)


def pausable(writer: asyncio.StreamWriter) -> asyncio.Transport:
    """The connection, which need not take what comes."""
    assert isinstance(writer.transport, asyncio.Transport)
    return writer.transport


async def all_that_comes(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        return await reader.read()


async def test_a_connection_that_never_sends_anything_is_closed(listener: Listener) -> None:
    reader, writer = await connect(listener)
    assert await all_that_comes(reader) == b""
    writer.close()
    assert listener.refused == []


async def test_blank_lines_are_no_request(listener: Listener) -> None:
    reader, writer = await connect(listener)
    writer.write(b"\r\n\r\n")
    assert await all_that_comes(reader) == b""
    writer.close()


async def test_a_slow_head_is_refused_and_counted(listener: Listener) -> None:
    reader, writer = await connect(listener)
    writer.write(b"GET / HT")
    assert (await all_that_comes(reader)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    writer.close()
    assert listener.refused == ["request-timeout"]


async def test_a_long_head_is_refused_and_counted(listener: Listener) -> None:
    reader, writer = await connect(listener)
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 2_000 + b"\r\n\r\n")
    assert (await all_that_comes(reader)).startswith(b"HTTP/1.1 431 ")
    writer.close()
    assert listener.refused == ["headers-too-large"]


async def test_a_whole_head_starts_no_clock(listener: Listener) -> None:
    reader, writer = await connect(listener)
    writer.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    (protocol,) = listener.protocols
    assert protocol._too_slow is None
    assert await all_that_comes(reader) == b""  # the keep-alive time is over
    writer.close()


async def test_a_caller_that_leaves_within_a_head_leaves_no_clock(listener: Listener) -> None:
    _, writer = await connect(listener)
    writer.write(b"GET / HT")
    await until(lambda: listener.protocols and listener.protocols[0]._too_slow is not None, "the clock runs")
    (protocol,) = listener.protocols
    writer.transport.abort()
    await until(lambda: protocol._too_slow is None, "the clock is stopped")
    assert listener.refused == []


@pytest.mark.parametrize("is_shut_down", [False, True])
async def test_a_caller_that_takes_nothing_is_let_go(
    monkeypatch: pytest.MonkeyPatch, listener: Listener, is_shut_down: bool
) -> None:
    """Whatever is written to it; a server that ends has less patience."""
    monkeypatch.setattr(protocol_module, "READER_TIMEOUT_S", 60 if is_shut_down else 0.05)
    monkeypatch.setattr(protocol_module, "LAST_CHANCE_S", 0.05)
    _, writer = await connect(listener)
    pausable(writer).pause_reading()
    writer.write(b"GET /endless HTTP/1.1\r\nHost: t\r\n\r\n")
    await until(lambda: listener.protocols and listener.protocols[0]._stalled is not None, "nothing more is taken")
    (protocol,) = listener.protocols
    if is_shut_down:
        protocol.shutdown()
    await until(lambda: protocol.cycle.disconnected and protocol._stalled is None, "the connection is gone")
    await until(lambda: not protocol.tasks, "the call has ended")
    writer.transport.abort()


async def test_a_caller_that_goes_on_is_not_let_go(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> None:
    monkeypatch.setattr(protocol_module, "READER_TIMEOUT_S", 60)
    reader, writer = await connect(listener)
    pausable(writer).pause_reading()
    writer.write(b"GET /long HTTP/1.1\r\nHost: t\r\n\r\n")
    await until(lambda: listener.protocols and listener.protocols[0]._stalled is not None, "nothing more is taken")
    pausable(writer).resume_reading()
    assert len(await all_that_comes(reader)) > LONG_BODY
    assert listener.protocols[0]._stalled is None
    writer.close()
