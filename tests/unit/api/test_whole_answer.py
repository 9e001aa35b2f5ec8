"""An answer in one piece is the same as uvicorn's own writing of it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from broker_services.api.answers import Answer
from broker_services.api.asgi import Receive, Scope, Send
from broker_services.api.direct_protocol import protocol_factory
from broker_services.api.protocol import HeadBounds
from broker_services.api.whole_answer import lines_of, write_whole

ANSWERS = [
    Answer(200, b'{"a":1}'),
    Answer(200, b"", etag=b'"e"'),
    Answer(202, b"{}", [(b"location", b"/queryTaskState?uuid=t"), (b"retry-after", b"1")]),
    Answer(304, b"", etag=b'"e"'),
    Answer(204),
    Answer(408, b"{}", [(b"connection", b"close")], content_type=b"application/problem+json"),
]


class Wire:
    """A socket that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...


async def answered(answer: Answer, request: bytes, *, whole: bool) -> tuple[bytes, int, bool, list[bool]]:
    """What was written, in how many writes, whether it was closed then, and whether it went as a whole."""
    wire, ways = Wire(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ways.append(whole and write_whole(answer, send))
        if not ways[-1]:
            await answer.write(send)

    config = uvicorn.Config(cast(Any, app), ws="none", lifespan="off", access_log=False, log_config=None)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Fri, 20 Nov 2026 20:20:20 GMT")]
    protocol: Any = protocol_factory(HeadBounds(10_000, 10))(config=config, server_state=state, app_state={})
    protocol = protocol.inner
    protocol.connection_made(cast(asyncio.Transport, wire))
    protocol.data_received(request)
    async with asyncio.timeout(5):
        while protocol.tasks:
            await asyncio.gather(*protocol.tasks)
    found = (b"".join(wire.written), len(wire.written), wire.is_closed, ways)
    protocol.connection_lost(None)
    return found


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: str(answer.status))
async def test_it_is_what_uvicorn_writes(answer: Answer, version: bytes) -> None:
    request = b"GET / HTTP/%s\r\nHost: x\r\n\r\n" % version
    as_whole = await answered(answer, request, whole=True)
    in_parts = await answered(answer, request, whole=False)
    assert as_whole[3] == [True]
    assert (as_whole[0], as_whole[2]) == (in_parts[0], in_parts[2])
    assert as_whole[1] == 1


async def test_two_requests_on_a_connection_get_two_answers_in_order() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2
    text, writes, is_closed, ways = await answered(ANSWERS[0], request, whole=True)
    assert text.count(b'{"a":1}') == writes == len(ways)
    assert not is_closed


async def test_head_is_left_to_uvicorn() -> None:
    text, _, _, ways = await answered(ANSWERS[0], b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", whole=True)
    assert ways == [False]
    assert text.endswith(b"\r\n\r\n")


async def test_another_servers_send_is_left_alone() -> None:
    async def send(_message: object) -> None: ...

    assert not write_whole(ANSWERS[0], send)


async def test_a_line_break_in_a_header_is_never_written() -> None:
    answer = Answer(200, b"{}", [(b"location", b"/x\r\nset-cookie: a=b")])
    with pytest.raises(RuntimeError, match="line break"):
        lines_of(answer.asgi_headers())
