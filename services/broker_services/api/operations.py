"""The one table of operations: the dispatcher serves from it, and the OpenAPI document is written from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from broker.requests import (
    CancelRequest,
    ChangeRequest,
    CreateRequest,
    ListRequest,
    QueryRequest,
    QueuesRequest,
    RetryRequest,
)
from broker_services.api import calls, schemas
from broker_services.api.answers import Answer
from broker_services.api.calls import Api
from broker_services.api.http_request import HttpRequest
from broker_services.metrics import OPENMETRICS, TEXT

Call = Callable[[Api, HttpRequest], Awaitable[Answer]]


class Outcome(msgspec.Struct, frozen=True):
    """One way an operation succeeds."""

    description: str
    schema: Any = None
    headers: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ("application/json",)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One path.

    `raw` marks those that take a body of the sender's own format with `raw=1` in the query.
    `writes` marks those whose GET form changes something: it is guarded, may be switched off, and has no HEAD.
    `scope` is what an API key needs, None where nobody needs one. `headers` are request headers it looks at.
    """

    path: str
    name: str
    summary: str
    methods: tuple[str, ...]
    call: Call
    scope: str | None
    request: Any = None
    raw: bool = False
    writes: bool = False
    outcomes: Mapping[int, Outcome]
    problems: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    example: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def all_problems(self) -> tuple[str, ...]:
        """With those that any operation may have: of slow or long heads, and of keys."""
        access = () if self.scope is None else ("unauthorized", "forbidden")
        return tuple(dict.fromkeys((*access, "request-timeout", "headers-too-large", *self.problems)))


_BODY_PROBLEMS: Final = (
    "malformed-json",
    "forbidden",
    "request-timeout",
    "payload-too-large",
    "unsupported-media-type",
    "invalid-request",
    "headers-too-large",
    "draining",
    "store-unavailable",
)

_READ_PROBLEMS: Final = ("invalid-request", "headers-too-large", "store-unavailable", "method-not-allowed")

OPERATIONS: Final = (
    Operation(
        path="/createTask",
        name="createTask",
        summary="Creates a task, or attaches to the one of this uuid or key, and holds until it has ended.",
        methods=("POST", "GET"),
        call=calls.create_task,
        scope="create",
        request=CreateRequest,
        writes=True,
        outcomes={
            200: Outcome("The task has ended, one way or another.", schemas.Task, ("Preference-Applied",)),
            202: Outcome(
                "The wait is over and the task goes on: ask again at `Location`.",
                schemas.Task,
                ("Location", "Retry-After", "Preference-Applied"),
            ),
        },
        problems=(
            *_BODY_PROBLEMS,
            "task-conflict",
            "idempotency-mismatch",
            "queue-full",
            "too-many-waiters",
            "method-not-allowed",
        ),
        headers=("Idempotency-Key", "Prefer", "Accept-Language"),
        example={"queue": "createbranch", "payload": {"repository": "demo", "branch": "feature-1"}, "wait": 30},
    ),
    Operation(
        path="/queryTaskState",
        name="queryTaskState",
        summary="Reads a task; with `wait`, holds until it has ended.",
        methods=("GET", "HEAD"),
        call=calls.query_task_state,
        scope="read",
        request=QueryRequest,
        outcomes={
            200: Outcome("The task, whatever its state.", schemas.Task, ("ETag", "Preference-Applied")),
            304: Outcome("Unchanged since `If-None-Match`.", None, ("ETag",)),
        },
        problems=(*_READ_PROBLEMS, "task-not-found", "too-many-waiters"),
        headers=("If-None-Match", "Prefer", "Accept-Language"),
        example={"uuid": "084Tkjfh"},
    ),
    Operation(
        path="/changeTaskState",
        name="changeTaskState",
        summary="Ends a task; the first outcome wins. With `?uuid=…&raw=1` any JSON or form body is the result.",
        methods=("POST", "GET"),
        call=calls.change_task_state,
        scope="complete",
        request=ChangeRequest,
        raw=True,
        writes=True,
        outcomes={200: Outcome("Ended, now or with the same outcome before.", schemas.ChangedTask)},
        problems=(*_BODY_PROBLEMS, "task-not-found", "task-already-final", "lease-lost", "method-not-allowed"),
        headers=("Accept-Language",),
        example={"uuid": "084Tkjfh", "state": "succeeded", "result": {"paid": True}},
    ),
    Operation(
        path="/cancelTask",
        name="cancelTask",
        summary="Cancels a task; a handler that runs it is told.",
        methods=("POST",),
        call=calls.cancel_task,
        scope="complete",
        request=CancelRequest,
        outcomes={200: Outcome("Cancelled, now or before.", schemas.ChangedTask)},
        problems=(*_BODY_PROBLEMS, "task-not-found", "task-already-final", "method-not-allowed"),
        headers=("Accept-Language",),
        example={"uuid": "084Tkjfh"},
    ),
    Operation(
        path="/retryTask",
        name="retryTask",
        summary="Makes a new task of a failed or expired one, which itself never changes.",
        methods=("POST",),
        call=calls.retry_task,
        scope="create",
        request=RetryRequest,
        outcomes={200: Outcome("The new task, with the other one as its `retry_of`.", schemas.Task)},
        problems=(
            *_BODY_PROBLEMS,
            "task-not-found",
            "task-conflict",
            "task-already-final",
            "queue-full",
            "method-not-allowed",
        ),
        headers=("Idempotency-Key", "Accept-Language"),
        example={"uuid": "084Tkjfh"},
    ),
    Operation(
        path="/tasks",
        name="tasks",
        summary="Lists tasks, newest created first. A page may be short, or empty, while it has a cursor.",
        methods=("GET", "HEAD"),
        call=calls.list_tasks,
        scope="read",
        request=ListRequest,
        outcomes={200: Outcome("A page.", schemas.Tasks)},
        problems=_READ_PROBLEMS,
        headers=("Accept-Language",),
        example={"queue": "createbranch", "state": "failed"},
    ),
    Operation(
        path="/queues",
        name="queues",
        summary="What each queue holds, and who is there for it.",
        methods=("GET", "HEAD"),
        call=calls.list_queues,
        scope="read",
        request=QueuesRequest,
        outcomes={
            200: Outcome("The queues in use: with open tasks, workers or held calls, now or lately.", schemas.Queues)
        },
        problems=_READ_PROBLEMS,
    ),
    Operation(
        path="/healthz",
        name="healthz",
        summary="Whether this process lives.",
        methods=("GET", "HEAD"),
        call=calls.healthz,
        scope=None,
        outcomes={200: Outcome("It lives.", schemas.Health)},
        problems=("method-not-allowed", "headers-too-large"),
    ),
    Operation(
        path="/readyz",
        name="readyz",
        summary="Whether outcomes reach this instance now: its subscription has delivered a message of its own.",
        methods=("GET", "HEAD"),
        call=calls.readyz,
        scope=None,
        outcomes={200: Outcome("They do.", schemas.Health)},
        problems=("draining", "store-unavailable", "method-not-allowed", "headers-too-large"),
    ),
    Operation(
        path="/metrics",
        name="metrics",
        summary="What this instance counts, for Prometheus: its text format, or OpenMetrics by `Accept`.",
        methods=("GET", "HEAD"),
        call=calls.show_metrics,
        scope="read",
        outcomes={200: Outcome("The numbers as they are now.", str, media_types=(TEXT, OPENMETRICS))},
        problems=("method-not-allowed",),
    ),
)

BY_PATH: Final[Mapping[str, Operation]] = {operation.path: operation for operation in OPERATIONS}
