"""Answers that go on: events are written as they come, in the form that the caller reads.

A stream asks for its next events when the connection has taken the last ones: what a slow reader has not taken yet
stays in the store, and one that takes nothing for a while is let go (`protocol.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from broker.deadlines import Deadlines
from broker.disconnect import ClientGoneError, DisconnectWatch
from broker.errors import BrokerError
from broker.events import EventStream, StreamEvent
from broker.task_event import EventKind
from broker_services.api.answers import Answer, Header
from broker_services.api.asgi import Send
from broker_services.api.http_request import HttpRequest
from broker_services.api.measures import ApiMeasures
from broker_services.api.messages import Language
from broker_services.api.task_body import task_body

log = logging.getLogger("broker.api")

PING_EVERY_S: Final = 15.0
"""Silence after which a comment is written: proxies and browsers give up connections that say nothing."""
COME_BACK_MS: Final = 1_000
"""What browsers are told to wait before they connect again, should the stream break off."""

SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"

# Proxies that collect an answer before they pass it on (nginx does) would hold events back.
_HEADERS: Final[tuple[Header, ...]] = ((b"x-accel-buffering", b"no"),)


class EventFormat:
    """How events are written: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

    media_type = SSE
    opening = b""
    # Part of the first event: on its own, some readers take it for an event without data.
    first = b"retry: %d\n" % COME_BACK_MS
    ping = b": ping\n\n"

    def encode(self, event: StreamEvent, data: bytes) -> bytes:
        """One event; `data` is on one line."""
        return b"event: %s\nid: %s\ndata: %s\n\n" % (event.kind.encode(), event.id.encode(), data)


class LineFormat(EventFormat):
    """How events are written: a line of JSON each, and an empty one to begin with and for a ping."""

    media_type = NDJSON
    opening = b"\n"
    first = b""
    ping = b"\n"

    def encode(self, event: StreamEvent, data: bytes) -> bytes:
        """One event; `data` is on one line."""
        return b'{"id":"%s","event":"%s","data":%s}\n' % (event.id.encode(), event.kind.encode(), data)


_SSE: Final = EventFormat()
_LINES: Final = LineFormat()


def format_for(accept: str) -> EventFormat:
    """The one that a caller reads: lines if `Accept` names them, and not server-sent events before them."""
    named = [item.partition(";")[0].strip().lower() for item in accept.split(",")]
    return _LINES if next((name for name in named if name in (SSE, NDJSON)), SSE) == NDJSON else _SSE


class StreamingAnswer(Answer, eq=False, kw_only=True):
    """The events of a task as they come, until it has ended.

    `stream` is what to write, in the form `form`, and closed at the end; `request` is whose sender reads it. `measures`
    counts what was written, and who left before the end. `deadlines` are the running loop's.
    """

    status: int = 200
    headers: Sequence[Header] = _HEADERS
    stream: EventStream
    form: EventFormat
    request: HttpRequest
    deadlines: Deadlines
    measures: ApiMeasures
    _before: bytes = b""

    def __post_init__(self) -> None:
        self._before = self.form.first
        self.content_type = self.form.media_type.encode()

    def asgi_headers(self) -> list[Header]:
        """All but a length, which nobody knows."""
        return [header for header in super().asgi_headers() if header[0] != b"content-length"]

    async def write(self, send: Send) -> None:
        """Writes head and events until there are no more, or nobody reads them."""
        try:
            await send({"type": "http.response.start", "status": self.status, "headers": self.asgi_headers()})
            if self.request.method != "HEAD":
                with DisconnectWatch(self.request.receive, self.deadlines):
                    await self._write_events(send)
            await send({"type": "http.response.body", "body": b""})
        except ClientGoneError:
            self.measures.callers_gone["taskEvents"] += 1
        finally:
            self.stream.close()

    async def _write_events(self, send: Send) -> None:
        body = self.form.opening
        try:
            while not self.stream.is_over:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                events = await self.stream.next(PING_EVERY_S)
                body = self._encode(events) if events or self.stream.is_over else self.form.ping
        except BrokerError as error:
            # The record is gone, which whoever connects again is told.
            log.info("The events of task %s end here: %s", self.stream.uuid, error)
        else:
            await send({"type": "http.response.body", "body": body, "more_body": True})

    def _encode(self, events: Sequence[StreamEvent]) -> bytes:
        self.measures.events_sent += len(events)
        language, before = self.request.language, self._before
        self._before = b"" if events else before
        written = [self.form.encode(event, data_of(event, self.stream.uuid, language)) for event in events]
        return b"".join([before, *written] if events else [])


def data_of(event: StreamEvent, uuid: str, language: Language) -> bytes:
    """What an event carries: the value, or the task as every call answers it."""
    if event.kind is EventKind.PROGRESS or event.state is None:
        return event.data
    return task_body(event.data, uuid, event.state, language)
