"""Requests that begin without a task are those that any parser would have found, however their bytes are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, cast

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from broker_services.api.answers import Answer
from broker_services.api.direct import DirectCall, Line
from broker_services.api.direct_protocol import DirectPaths, protocol_factory
from broker_services.api.measures import ApiMeasures
from broker_services.api.protocol import HeadBounds
from broker_services.api.whole_request import WholeRequest
from tests.unit.api.test_whole_answer import Wire

MOST_HEAD_BYTES = 1_000
OK = Answer(200, b"{}")


class Seen(NamedTuple):
    """A request as it was understood."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Server:
    """One connection to a server that answers each request, and what it has understood of them."""

    def __init__(self, begin: Callable[[DirectCall], bool] | None = None) -> None:
        self.seen: list[Seen] = []
        self.begun = 0
        self.measures = ApiMeasures()
        self.wire = Wire()
        self._begin = begin or _answer
        config = uvicorn.Config(
            cast(Any, self._app), interface="asgi3", ws="none", lifespan="off", access_log=False, log_config=None
        )
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"Sat, 28 Nov 2026 20:20:20 GMT")]
        factory = protocol_factory(HeadBounds(MOST_HEAD_BYTES, 10), DirectPaths({"/direct"}, self._begin_direct))
        self.protocol: Any = factory(config=config, server_state=state, app_state={}).inner
        self.protocol.connection_made(cast(asyncio.Transport, self.wire))

    def receive(self, data: bytes) -> None:
        if not self.wire.is_closed:
            self.protocol.data_received(data)

    async def settle(self) -> None:
        """Returns once everything that was asked is answered."""
        async with asyncio.timeout(5):
            while self.protocol.tasks:
                await asyncio.gather(*self.protocol.tasks)
                await asyncio.sleep(0)

    @property
    def answers(self) -> int:
        return b"".join(self.wire.written).count(b"HTTP/1.1 200 OK")

    def close(self) -> None:
        self.protocol.connection_lost(None)

    def _begin_direct(self, line: Line, request: WholeRequest) -> DirectCall | None:
        assert request.path == "/direct", "only requests to the direct paths are handed over"
        call = DirectCall(line, request, "direct", self.measures, 0.0)
        if not self._begin(call):
            return None
        self.begun += 1
        headers = tuple(sorted(request.headers.items()))
        self.seen.append(Seen(request.method, request.path, request.query, headers, request.body))
        return call

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = tuple(sorted(scope["headers"]))
        self.seen.append(Seen(scope["method"], scope["path"], scope["query_string"], headers, body))
        await OK.write(send)


def _answer(call: DirectCall) -> bool:
    call.answer(OK)
    return True


class Holder:
    """Holds the calls that it is given."""

    def __init__(self) -> None:
        self.calls: list[DirectCall] = []

    def __call__(self, call: DirectCall) -> bool:
        self.calls.append(call)
        return True


def _decline(_call: DirectCall) -> bool:
    return False


def request(method: str, target: str, headers: dict[str, str], body: bytes = b"") -> tuple[bytes, Seen]:
    """As it is sent, and as it is to be understood."""
    if body or method == "POST":
        headers = {**headers, "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    path, _, query = target.partition("?")
    named = tuple(sorted((name.lower().encode(), value.encode()) for name, value in headers.items()))
    seen = Seen(method, path.replace("%72", "r"), query.encode(), named, body)
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body, seen


GET, SEEN_GET = request("GET", "/direct?a=1", {"host": "x"})
POST, SEEN_POST = request("POST", "/direct", {"host": "x"}, b"[1]")

# Among them headers that look like requests: a head must never be remembered from its middle on.
headers_sent = st.dictionaries(
    st.sampled_from(["host", "Accept-Language", "idempotency-key", "x-y"]),
    st.sampled_from(["x", "zh", "GET /direct HTTP/1.1", "POST /direct?a=1 HTTP/1.1"]),
    max_size=2,
)
requests_sent = st.builds(
    request,
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["/direct", "/direct?a=1", "/direct?a=2&b=%22", "/di%72ect", "/other?c"]),
    headers_sent,
    st.sampled_from([b"", b"{}", b"[1]", b"GET /direct HTTP/1.1\r\nhost: x\r\n\r\n", b"2" * 300, b"2" * 301]),
)


@given(st.lists(requests_sent, min_size=1, max_size=6), st.lists(st.integers(0, 900), max_size=8), st.booleans())
async def test_each_request_is_understood_as_it_was_sent(
    sent: list[tuple[bytes, Seen]], cuts: list[int], whole_first: bool
) -> None:
    server = Server()
    chunks = [data for data, _ in sent] if whole_first else []
    for chunk in chunks:
        server.receive(chunk)
        await server.settle()
    stream = b"".join(data for data, _ in sent)
    bounds = sorted({0, len(stream), *[cut % (len(stream) + 1) for cut in cuts]})
    for start, end in pairwise(bounds):
        server.receive(stream[start:end])
        await asyncio.sleep(0)
    await server.settle()
    expected = [seen for _, seen in sent] * (2 if whole_first else 1)
    assert server.seen == expected
    assert server.answers == len(expected)
    server.close()


async def test_requests_alike_begin_without_a_task_and_without_the_parser() -> None:
    server = Server()
    for _ in range(3):
        server.receive(GET)
    server.protocol.parser = None  # would fail if it was asked
    server.receive(GET.replace(b"a=1", b"b=2"))
    assert (server.begun, server.answers, bool(server.protocol.tasks)) == (4, 4, False)
    assert server.seen[-1] == SEEN_GET._replace(query=b"b=2")
    server.close()


async def test_a_head_that_continues_in_another_chunk_is_not_remembered() -> None:
    """Its beginning would be lost: here a header that the second request does not have."""
    first = b"GET /direct HTTP/1.1\r\nx-y: "
    server = Server()
    server.receive(first)
    server.receive(GET)
    server.receive(GET)
    assert [dict(seen.headers).get(b"x-y") for seen in server.seen] == [b"GET /direct?a=1 HTTP/1.1", None]
    server.close()


async def test_a_request_in_two_equal_parts_is_one_behind_a_known_head_too() -> None:
    """Its second half may look like a request: an upload of one, say, or an attack."""
    inner = b"POST /direct?inner HTTP/1.1\r\nhost: x\r\nx-fill: %b\r\ncontent-length: 0\r\n\r\n" % (b"f" * 100)
    head = len(request("POST", "/direct", {"host": "x"}, b"1" * 200)[0]) - 200
    outer, seen = request("POST", "/direct", {"host": "x"}, b"1" * (len(inner) - head) + inner)
    server = Server()
    server.receive(outer)
    server.receive(outer[: len(outer) // 2])
    server.receive(outer[len(outer) // 2 :])
    await server.settle()
    assert (server.seen, server.answers) == ([seen, seen], 2)
    server.close()


async def test_nothing_of_what_has_come_is_kept() -> None:
    server = Server()
    server.receive(request("POST", "/direct", {"host": "x"}, b"1" * 10_000)[0])
    server.receive(request("POST", "/other", {"host": "x"}, b"1" * 10_000)[0])
    await server.settle()
    kept = [value for value in vars(server.protocol).values() if isinstance(value, bytes | list)]
    assert sum(map(len, kept)) < 100
    server.close()


async def test_what_is_declined_goes_to_a_task_whole() -> None:
    server = Server(_decline)
    for data in (POST, POST, GET):
        server.receive(data)
        await server.settle()
    assert (server.seen, server.begun, server.answers) == ([SEEN_POST, SEEN_POST, SEEN_GET], 0, 3)
    server.close()


async def test_a_body_in_pieces_goes_to_a_task() -> None:
    server = Server()
    for place in range(len(POST)):
        server.receive(POST[place : place + 1])
    await server.settle()
    assert (server.seen, server.begun, server.answers) == ([SEEN_POST], 0, 1)
    server.close()


async def test_a_request_behind_a_held_one_waits_for_it() -> None:
    holder = Holder()
    server = Server(holder)
    server.receive(GET)
    server.receive(POST)
    await asyncio.sleep(0)
    assert (len(server.seen), server.answers) == (1, 0)
    holder.calls[0].answer(OK)
    await server.settle()
    assert (server.seen, server.answers) == ([SEEN_GET, SEEN_POST], 2)
    server.close()


async def test_a_call_whose_caller_leaves_is_told_and_never_answered() -> None:
    holder = Holder()
    lost: list[str] = []
    server = Server(holder)
    server.receive(GET)
    holder.calls[0].on_lost = lambda: lost.append("told")
    server.receive(POST)
    server.close()
    assert (lost, holder.calls[0].response_complete, server.answers) == (["told"], True, 0)
    assert server.measures.callers_gone == {"direct": 1}


async def test_a_server_that_ends_closes_behind_the_answer() -> None:
    holder = Holder()
    server = Server(holder)
    server.receive(GET)
    server.protocol.shutdown()
    open_before = not server.wire.is_closed
    holder.calls[0].answer(OK)
    assert (open_before, server.wire.is_closed) == (True, True)
    assert b"connection: close\r\n" in server.wire.written[0]
    server.close()


@pytest.mark.parametrize("first", [GET, b""])
async def test_a_request_line_that_is_too_long_is_refused_behind_a_known_head_too(first: bytes) -> None:
    server = Server()
    server.receive(first)
    server.receive(GET.replace(b"a=1", b"a=" + b"1" * MOST_HEAD_BYTES))
    assert server.wire.written[-1].startswith(b"HTTP/1.1 431 ")
    assert server.wire.is_closed
    server.close()


@pytest.mark.parametrize("header", ["connection: close", "expect: 100-continue", "upgrade: h2c\r\nconnection: upgrade"])
async def test_requests_that_ask_for_more_than_an_answer_go_to_a_task(header: str) -> None:
    server = Server()
    server.receive(GET.replace(b"host: x", header.encode()))
    await server.settle()
    assert (server.begun, len(server.seen), server.answers) == (0, 1, 1)
    server.close()


async def test_an_older_http_goes_to_a_task() -> None:
    """Whose connection is kept only if the answer says so."""
    server = Server()
    server.receive(b"GET /direct HTTP/1.0\r\nhost: x\r\nconnection: keep-alive\r\n\r\n")
    await server.settle()
    assert (server.begun, len(server.seen), server.wire.is_closed) == (0, 1, True)
    assert b"connection: close\r\n" in server.wire.written[0]
    server.close()


async def test_an_answer_does_not_overtake_the_one_before() -> None:
    """The answer to a HEAD has no body, so it waits in the cork until the end of the turn."""
    server = Server()
    server.receive(b"HEAD /other HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.sleep(0)
    server.receive(GET)
    await server.settle()
    written = b"".join(server.wire.written)
    assert written.count(b"HTTP/1.1 200 OK") == 2
    assert written.endswith(b"{}")
    server.close()


async def test_a_connection_keeps_no_body() -> None:
    server = Server()
    for _ in range(2):
        server.receive(request("POST", "/direct", {"host": "x"}, b"1" * 10_000)[0])
        assert server.protocol.cycle.request.body == b""
    assert [len(seen.body) for seen in server.seen] == [10_000] * 2
    server.close()
