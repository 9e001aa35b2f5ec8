"""The call that follows a task."""

from __future__ import annotations

from broker.requests import EventsRequest
from broker_services.api.answers import Answer
from broker_services.api.calls.shared import Api
from broker_services.api.http_request import HttpRequest
from broker_services.api.streaming import StreamingAnswer, format_for


async def task_events(api: Api, request: HttpRequest) -> Answer:
    """GET /taskEvents."""
    asked = request.read_query(EventsRequest)
    # EventSource sends what it saw last; without anything, no header, and some clients an empty one.
    after = (request.header(b"last-event-id") or "").strip() or None
    stream = await api.broker.event_streams.open(asked.uuid, after)
    if stream is None:
        return Answer(204)
    return StreamingAnswer(
        stream=stream,
        form=format_for(request.header(b"accept") or ""),
        request=request,
        deadlines=api.broker.hub.deadlines,
        measures=api.measures,
    )
