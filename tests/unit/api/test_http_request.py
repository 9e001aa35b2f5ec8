"""A request's headers, query and body, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, cast

import pytest

from broker.deadlines import Deadlines
from broker.disconnect import ClientGoneError, DisconnectWatch
from broker.errors import InvalidRequestError, PayloadTooLargeError
from broker_services.api.bodies import Bodies
from broker_services.api.http_request import HttpRequest
from broker_services.api.problems import HttpError

Message = MutableMapping[str, Any]


class Sender:
    """What `receive` gives: these messages, then nothing for ever."""

    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)

    async def __call__(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        nothing: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await nothing


def _part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


def _request(*messages: Message, headers: tuple[tuple[bytes, bytes], ...] = (), query: bytes = b"") -> HttpRequest:
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": headers, "query_string": query}
    return HttpRequest.of_asgi(scope, Sender(*messages), Bodies(max_bytes=10, timeout_s=0.01, deadlines=_deadlines()))


def _deadlines() -> Deadlines:
    """Of the running loop; a test without one reads no body."""
    try:
        return Deadlines(asyncio.get_running_loop())
    except RuntimeError:
        return Deadlines(cast(asyncio.AbstractEventLoop, None))


# Headers


def test_a_missing_header_is_none() -> None:
    assert _request().header(b"x") is None


def test_repeated_headers_are_joined() -> None:
    assert _request(headers=((b"x", b"a"), (b"y", b"c"), (b"x", b"b"))).header(b"x") == "a, b"


@pytest.mark.parametrize(
    ("prefer", "wait"),
    [
        (b"wait=5", 5.0),
        (b"wait=0.5", 0.5),
        (b'Wait = "7"', 7.0),
        (b"respond-async, wait=3; x=y", 3.0),
        (b"wait=1, wait=2", 1.0),
        (b"await=1", None),
        (b"wait", None),
        (b"wait=-1", None),
        (b"wait=1s", None),
        (b"x=wait=1", None),
    ],
)
def test_a_preferred_wait_is_read_or_ignored(prefer: bytes, wait: float | None) -> None:
    assert _request(headers=((b"prefer", prefer),)).preferred_wait == wait


@pytest.mark.parametrize(
    ("header", "media_type"), [(b"Application/JSON; charset=x", "application/json"), (b"", ""), (b" a/b ;", "a/b")]
)
def test_the_media_type_is_without_parameters(header: bytes, media_type: str) -> None:
    assert _request(headers=((b"content-type", header),)).media_type == media_type


# Query


def test_a_query_is_read_in_order_with_empty_values() -> None:
    assert _request(query=b"b=1&a=&b=%E4%B8%AD+x").query_pairs() == [("b", "1"), ("a", ""), ("b", "中 x")]


@pytest.mark.parametrize("query", [b"a=%ff", b"a=\xff", b"a=1&a=2", b"a=1&" * 300])
def test_a_query_that_cannot_be_read_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        _request(query=query).query_fields()


# Body


async def test_a_body_in_parts_is_joined() -> None:
    assert await _request(_part(b"ab", more=True), _part(b"", more=True), _part(b"c")).read_body() == b"abc"


async def test_a_body_of_the_greatest_length_is_read() -> None:
    assert await _request(_part(b"x" * 10)).read_body() == b"x" * 10


async def test_a_longer_body_is_refused() -> None:
    with pytest.raises(PayloadTooLargeError):
        await _request(_part(b"x" * 6, more=True), _part(b"x" * 5, more=True)).read_body()


async def test_a_body_that_is_announced_as_longer_is_not_read() -> None:
    with pytest.raises(PayloadTooLargeError):
        await _request(headers=((b"content-length", b"11"),)).read_body()


async def test_a_body_that_does_not_come_times_out() -> None:
    with pytest.raises(HttpError) as caught:
        await _request(_part(b"x", more=True)).read_body()

    assert caught.value.code == "request-timeout"


async def test_a_sender_that_goes_away_is_noticed() -> None:
    with pytest.raises(ClientGoneError):
        await _request(_part(b"x", more=True), GONE).read_body()


# Disconnects


@pytest.fixture
async def deadlines() -> AsyncIterator[Deadlines]:
    clock = Deadlines(asyncio.get_running_loop())
    yield clock
    clock.close()


async def _hold() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_held_call_ends_when_its_caller_is_gone(deadlines: Deadlines) -> None:
    with pytest.raises(ClientGoneError), DisconnectWatch(Sender(_part(b""), GONE), deadlines):
        await _hold()


async def test_a_call_that_is_answered_in_time_is_not_disturbed(deadlines: Deadlines) -> None:
    with DisconnectWatch(Sender(GONE), deadlines):
        answer = await asyncio.sleep(0, "answer")

    assert answer == "answer"


async def test_a_cancellation_from_elsewhere_stays_one(deadlines: Deadlines) -> None:
    async def hold() -> None:
        with DisconnectWatch(Sender(), deadlines):
            await _hold()

    task = asyncio.create_task(hold())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_inside_stays_what_it_is(deadlines: Deadlines) -> None:
    with pytest.raises(ValueError, match="inside"), DisconnectWatch(Sender(GONE), deadlines):
        raise ValueError("inside")
