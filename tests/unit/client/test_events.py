"""Following a task over HTTP: streams that break off, and what is asked then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from broker.client import RemoteTask
from broker.errors import ApiError, InvalidRequestError, TaskNotFoundError, TooManyWaitersError
from broker.task_event import EventKind, TaskEvent
from tests.unit.client.fake_api import FakeApi, Step, broken, problem, raw_answer, refused, task


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in parts and then breaks off."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        raise NotImplementedError

    async def __aiter__(self) -> Any:
        for part in self._parts:
            yield part
        raise httpx.ReadError("cut")


def line(event_id: str, kind: str, data: Any) -> bytes:
    return json.dumps({"id": event_id, "event": kind, "data": data}, ensure_ascii=False).encode() + b"\n"


def stream(*parts: bytes) -> Step:
    return raw_answer(b"\n" + b"".join(parts))


def cut_off(*parts: bytes) -> Step:
    return lambda _: httpx.Response(200, stream=Broken(b"\n", *parts))


END = line("t-9", "state", task("succeeded"))


async def told(api: FakeApi, **options: Any) -> list[TaskEvent]:
    async with api.client() as client:
        return [event async for event in client.events("084Tkjfh", **options)]


async def test_values_and_the_end() -> None:
    odd = "a\u2028b\x85c\x0bd"
    events = await told(FakeApi(stream(line("t-1", "progress", odd), b"\n", END)))
    assert [(event.id, event.kind) for event in events] == [("t-1", EventKind.PROGRESS), ("t-9", EventKind.STATE)]
    assert events[0].data == odd
    assert isinstance(events[1].data, RemoteTask)
    assert events[1].data.state == "succeeded"
    assert json.loads(events[1].raw) == task("succeeded")


async def test_a_stream_that_breaks_off_is_gone_on_with() -> None:
    first, second = line("t-1", "progress", 1), line("t-2", "progress", [2])
    api = FakeApi(cut_off(first), stream(), broken, problem(503, "draining", retry_after="2"), stream(second, END))
    events = await told(api)
    assert [event.data for event in events[:-1]] == [1, [2]]
    assert [request.headers.get("last-event-id") for request in api.requests] == [None, *["t-1"] * 4]
    assert {request.headers["accept"] for request in api.requests} == {"application/x-ndjson"}
    assert api.asked[0] == "GET /taskEvents?uuid=084Tkjfh"
    assert api.time.pauses[-1] == 2


async def test_a_line_that_comes_in_parts() -> None:
    whole = line("t-1", "progress", "日本")
    events = await told(FakeApi(cut_off(whole[:9], whole[9:40], whole[40:] + END[:5]), stream(END)))
    assert [event.data for event in events[:-1]] == ["日本"]


async def test_nothing_follows_the_end() -> None:
    api = FakeApi(raw_answer(b"", 204))
    assert await told(api, after="t-9") == []
    assert api.requests[0].headers["last-event-id"] == "t-9"


async def test_a_reset_has_the_task() -> None:
    (reset, _) = await told(FakeApi(stream(line("t-7", "reset", task("running")), END)), after="t-1")
    assert (reset.kind, reset.data.state) == (EventKind.RESET, "running")


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (problem(404, "task-not-found"), TaskNotFoundError),
        (problem(503, "too-many-waiters"), TooManyWaitersError),
        (refused, ApiError),
        (stream(b'{"id": 1}\n'), ApiError),
    ],
)
async def test_what_cannot_be_followed(step: Step, error: type[Exception]) -> None:
    with pytest.raises(error):
        await told(FakeApi(step))


async def test_an_id_that_no_header_can_hold() -> None:
    with pytest.raises(InvalidRequestError):
        await told(FakeApi(stream(END)), after="日本")
