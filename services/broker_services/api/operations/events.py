"""The operation that follows a task."""

from __future__ import annotations

from typing import Final

from broker.requests import EventsRequest
from broker_services.api import schemas
from broker_services.api.calls import events
from broker_services.api.operations.operation import READ_PROBLEMS, Operation, Outcome
from broker_services.api.streaming import NDJSON, SSE

OPERATIONS: Final = (
    Operation(
        path="/taskEvents",
        name="taskEvents",
        summary="Follows a task: each `progress` it reports, then its `state` once it has ended, which is the last.",
        methods=("GET", "HEAD"),
        call=events.task_events,
        scope="read",
        request=EventsRequest,
        outcomes={
            200: Outcome(
                "Events as they come: server-sent events, or by `Accept` a line of JSON each with `id`, `event`, "
                "`data`. A `reset` says that what followed `Last-Event-ID` is not kept; its data is the task as it is.",
                schemas.Event,
                media_types=(SSE, NDJSON),
            ),
            204: Outcome("`Last-Event-ID` is the task's end: nothing follows, and no browser asks again."),
        },
        problems=(*READ_PROBLEMS, "task-not-found", "too-many-waiters"),
        headers=("Last-Event-ID", "Accept-Language"),
        example={"uuid": "084Tkjfh"},
    ),
)
