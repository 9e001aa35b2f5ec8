"""What a stream writes, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from broker.deadlines import Deadlines
from broker.errors import TaskNotFoundError
from broker.events import EventStream, StreamEvent
from broker.task import TaskState
from broker.task_event import EventKind
from broker_services.api.bodies import Bodies
from broker_services.api.http_request import HttpRequest
from broker_services.api.measures import ApiMeasures
from broker_services.api.streaming import NDJSON, PING_EVERY_S, SSE, StreamingAnswer, format_for

VALUE = StreamEvent("a-1", EventKind.PROGRESS, b"[1 ]")
END = StreamEvent("a-2", EventKind.STATE, b'{"uuid":"t","state":"failed"}', TaskState.FAILED)


class Stream:
    """Gives what it is told to, and is over then."""

    uuid = "t"

    def __init__(self, *batches: list[StreamEvent] | Exception) -> None:
        self._batches = list(batches)
        self.is_over = not batches
        self.was_closed = False

    async def next(self, timeout: float) -> list[StreamEvent]:
        assert timeout == PING_EVERY_S
        batch = self._batches.pop(0)
        self.is_over = not self._batches
        if isinstance(batch, Exception):
            raise batch
        return batch

    def close(self) -> None:
        self.was_closed = True


async def written(stream: Stream, accept: str = SSE, method: str = "GET") -> tuple[Mapping[bytes, bytes], list[bytes]]:
    """Headers and chunks."""

    async def receive() -> Any:
        await asyncio.Event().wait()

    deadlines = Deadlines(asyncio.get_running_loop())
    bodies = Bodies(max_bytes=1, timeout_s=1, deadlines=deadlines)
    scope = {"method": method, "path": "/taskEvents", "headers": [], "query_string": b""}
    request, messages = HttpRequest.of_asgi(scope, receive, bodies), list[Any]()

    async def send(message: Any) -> None:
        messages.append(message)

    answer = StreamingAnswer(
        stream=cast("EventStream", stream),
        form=format_for(accept),
        request=request,
        deadlines=deadlines,
        measures=ApiMeasures(),
    )
    await answer.write(send)
    deadlines.close()
    assert stream.was_closed
    assert [message.get("more_body", False) for message in messages[1:]] == [True] * (len(messages) - 2) + [False]
    return dict(messages[0]["headers"]), [message["body"] for message in messages[1:] if message["body"]]


async def test_events_pings_and_the_end() -> None:
    headers, chunks = await written(Stream([], [VALUE, VALUE], [], [END]))
    value = b"event: progress\nid: a-1\ndata: [1 ]\n\n"
    assert chunks[:3] == [b": ping\n\n", b"retry: 1000\n" + value + value, b": ping\n\n"]
    assert chunks[3].startswith(b'event: state\nid: a-2\ndata: {"uuid":"t","state":"failed","message":"failed","links"')
    assert headers[b"content-type"] == b"text/event-stream"
    assert b"content-length" not in headers


async def test_lines() -> None:
    _, chunks = await written(Stream([VALUE], [], [VALUE]), NDJSON)
    value = b'{"id":"a-1","event":"progress","data":[1 ]}\n'
    assert chunks == [b"\n", value, b"\n", value]


async def test_a_task_whose_record_is_gone() -> None:
    _, chunks = await written(Stream([VALUE], TaskNotFoundError("t")), NDJSON)
    assert len(chunks) == 2


async def test_a_head_alone() -> None:
    stream = Stream([VALUE])
    headers, chunks = await written(stream, method="HEAD")
    assert (headers[b"content-type"], chunks, stream.is_over) == (b"text/event-stream", [], False)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        *((accept, SSE) for accept in ("", "*/*", "application/json", f"{SSE}, {NDJSON}", "application/x-ndjsonx")),
        *((accept, NDJSON) for accept in (NDJSON, f"{NDJSON};q=0.5, */*", f"text/html, {NDJSON.upper()} , {SSE}")),
    ],
)
def test_the_form_that_a_caller_reads(accept: str, media_type: str) -> None:
    assert format_for(accept).media_type == media_type
