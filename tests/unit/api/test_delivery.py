"""Whether an answer reached its caller, on real sockets and on the loops that a process may have."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import pytest
import uvicorn
from uvicorn.server import ServerState

from broker_services.api.answers import Answer
from broker_services.api.direct_protocol import protocol_factory
from broker_services.api.dispatcher import _write_followed
from broker_services.api.protocol import HeadBounds
from broker_services.loop import loop_factory
from tests.support.store import until

REQUEST: Final = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
CLOSING: Final = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
RESET: Final = b"\1\0\0\0\0\0\0\0"


class Exchange:
    """A server that answers each request with a followed answer, and one caller."""

    def __init__(self) -> None:
        self.lost = 0
        self.sent: list[bool] = []
        self.before_write: Callable[[], object] = lambda: None
        self.body = b"{}"
        self.protocols: list[Any] = []
        self.caller = socket.socket()

    async def app(self, scope: Any, _receive: Any, send: Any) -> None:
        def note_lost() -> None:
            self.lost += 1

        async def send_later(message: Any) -> None:
            # Behind the last look at the socket.
            self.before_write()
            await send(message)

        answer = Answer(200, self.body, on_lost=note_lost)
        self.sent.append(await _write_followed(answer, note_lost, scope, send_later))

    def make_protocol(self) -> Any:
        config = uvicorn.Config(self.app, interface="asgi3", log_config=None)
        self.protocols.append(protocol_factory(HeadBounds(1_024, 5.0))(config, ServerState(), {}))
        return self.protocols[-1]

    async def ask(self, request: bytes = REQUEST) -> None:
        await asyncio.get_running_loop().sock_sendall(self.caller, request)

    async def read(self) -> bytes:
        answer = b""
        while not answer.endswith(self.body):
            part = await asyncio.get_running_loop().sock_recv(self.caller, 65_536)
            assert part, answer[-200:]
            answer += part
        return answer

    async def until_ended(self) -> None:
        """The server has seen the end of the connection."""
        await until(lambda: all(protocol.inner.parser is None for protocol in self.protocols), "the connection is gone")


Story = Callable[[Exchange], Any]


def follow(story: Story, factory: Any) -> Exchange:
    exchange = Exchange()

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(exchange.make_protocol, "127.0.0.1", 0)
        async with server:
            exchange.caller.setblocking(False)
            with exchange.caller:
                await asyncio.get_running_loop().sock_connect(exchange.caller, server.sockets[0].getsockname())
                await story(exchange)
            await exchange.until_ended()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())
    return exchange


@pytest.fixture(params=[None, loop_factory()], ids=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest) -> Any:
    return request.param


async def read_and_close(exchange: Exchange) -> None:
    await exchange.ask()
    await exchange.read()


async def read_and_reset(exchange: Exchange) -> None:
    await exchange.ask()
    await exchange.read()
    exchange.caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


async def read_from_a_connection_that_closes(exchange: Exchange) -> None:
    await exchange.ask(CLOSING)
    await exchange.read()


async def ask_twice(exchange: Exchange) -> None:
    await exchange.ask()
    await exchange.read()
    await exchange.ask()
    await exchange.read()


async def read_much(exchange: Exchange) -> None:
    exchange.body = b"x" * 5_000_000
    await exchange.ask()
    await exchange.read()


@pytest.mark.parametrize(
    "story", [read_and_close, read_and_reset, read_from_a_connection_that_closes, ask_twice, read_much]
)
def test_what_was_read_is_not_lost(story: Story, loops: Any) -> None:
    exchange = follow(story, loops)
    assert exchange.lost == 0
    assert all(exchange.sent)


async def close_before_the_write(exchange: Exchange) -> None:
    exchange.before_write = exchange.caller.close
    await exchange.ask()
    await exchange.until_ended()


async def leave_in_the_middle(exchange: Exchange) -> None:
    exchange.body = b"x" * 20_000_000
    await exchange.ask()
    await until(lambda: exchange.sent, "it is being written")
    exchange.caller.close()


@pytest.mark.parametrize("story", [close_before_the_write, leave_in_the_middle])
def test_what_was_on_its_way_is_lost(story: Story, loops: Any) -> None:
    assert follow(story, loops).lost == 1


async def close_before_the_look(exchange: Exchange) -> None:
    await exchange.ask()
    exchange.caller.close()


def test_nothing_is_written_to_a_caller_that_has_left(loops: Any) -> None:
    exchange = follow(close_before_the_look, loops)
    assert exchange.lost == 1
    assert exchange.sent == [False]
