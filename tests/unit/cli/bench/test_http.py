"""The lean client over a real socket: answers in pieces, connections that are lost, and those that are used again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from broker.errors import InvalidRequestError
from broker_services.cli.bench.http import HttpClient

Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Served:
    """What a server was asked, and on how many connections."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self.tasks: list[asyncio.Task[None] | None] = []


@asynccontextmanager
async def serving(serve: Serve, path: str = "") -> AsyncIterator[tuple[HttpClient, Served]]:
    """A server that answers with `serve`, and a client of it."""
    served = Served()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.connections += 1
        served.tasks.append(asyncio.current_task())
        try:
            while True:
                served.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await serve(served.heads[-1], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with HttpClient(f"http://127.0.0.1:{port}{path}", {"X-Key": "k"}) as client:
            yield client, served
        await asyncio.gather(*filter(None, served.tasks))


async def whole(_head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def test_a_connection_is_used_again() -> None:
    async with serving(whole, "/below") as (client, served):
        answers = [await client.call(client.get("/x")) for _ in range(3)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"ok")] * 3
    assert answers[0].at < answers[1].at
    assert served.connections == 1
    assert served.heads[0].startswith(b"GET /below/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nX-Key: k\r\n" in served.heads[0]


async def test_an_answer_in_pieces_is_put_together() -> None:
    async def pieces(_head: bytes, writer: asyncio.StreamWriter) -> None:
        for part in (b"HTTP/1.1 200 OK\r\nTransfer-Enc", b"oding: chunked\r\n\r\n2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n"):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(pieces) as (client, _):
        assert (await client.call(client.get("/"))).body == b"abc"


async def test_304_has_no_body() -> None:
    async def unchanged(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n')

    async with serving(unchanged) as (client, served):
        assert [(await client.call(client.get("/"))).status for _ in range(2)] == [304, 304]
    assert served.connections == 1


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", b"what?\r\n\r\n"])
async def test_a_lost_or_senseless_answer_is_an_error(said: bytes) -> None:
    async def stop(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with serving(stop) as (client, _):
        with pytest.raises(ConnectionError):
            await client.call(client.get("/"))


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    async def last(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async with serving(last) as (client, served):
        assert [(await client.call(client.get("/"))).body for _ in range(2)] == [b"ok", b"ok"]
    assert served.connections == 2


async def test_a_call_that_was_given_up_takes_its_connection_with_it() -> None:
    async def never(_head: bytes, _writer: asyncio.StreamWriter) -> None:
        return

    async with serving(never) as (client, served):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await client.call(client.get("/"))
    assert served.connections == 2


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "redis://h", "http://"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="http://"):
        HttpClient(url, {})
