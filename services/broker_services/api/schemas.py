"""What answers look like, for the OpenAPI document only: the bytes themselves come from the store."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from broker.task import TaskState

Time = Annotated[str, Meta(description="RFC 3339, UTC, milliseconds.", extra_json_schema={"format": "date-time"})]


class Error(msgspec.Struct):
    """Why a task failed."""

    code: str
    message: str | None = None
    details: Any = None


class Links(msgspec.Struct):
    """Where to look next."""

    query: str
    events: str


class Task(msgspec.Struct, kw_only=True):
    """A task; absent members are left out."""

    uuid: str
    queue: str
    state: TaskState
    message: Annotated[str, Meta(description="For people: English, or Chinese when Accept-Language prefers it.")]
    result: Any = None
    error: Error | None = None
    progress: Any = None
    attempt: Annotated[int, Meta(description="Claims so far that count; 0 before the first.")]
    created_at: Time
    started_at: Time | None = None
    finished_at: Time | None = None
    expires_at: Time
    retry_of: str | None = None
    links: Links


class ChangedTask(Task, kw_only=True):
    """A task after a completion."""

    changed: Annotated[bool, Meta(description="False when it had ended with the same outcome already.")]


class ClaimedTask(Task, kw_only=True):
    """A task to work on."""

    lease: Annotated[str, Meta(description="The right to renew and to end it; nobody else knows it.")]
    lease_expires_at: Time
    payload: Annotated[Any, Meta(description="As its creator sent it; absent when there was none.")] = None


class Item(msgspec.Struct, kw_only=True):
    """What is told of one of several tasks: the task, or the problem that a call for it alone would get."""

    status: Annotated[int, Meta(description="Of a call for it alone.")]
    task: Task | None = None
    problem: Problem | None = None


class Items(msgspec.Struct, kw_only=True):
    """Several tasks, in the order in which they were asked for."""

    items: list[Item]


class Claim(msgspec.Struct, kw_only=True):
    """What a claim has got."""

    tasks: list[ClaimedTask]


class Heartbeat(msgspec.Struct, kw_only=True):
    """Whether a task is still its worker's."""

    cancelled: Annotated[bool, Meta(description="True when somebody else has ended it: stop working on it.")]
    lease_expires_at: Time | None = None
    state: Annotated[TaskState | None, Meta(description="How it has ended.")] = None


class Tasks(msgspec.Struct, kw_only=True):
    """A page of tasks."""

    items: list[Task]
    cursor: Annotated[str | None, Meta(description="Where the next page begins; absent at the end.")] = None


class Event(msgspec.Struct, kw_only=True):
    """One event of a stream."""

    id: Annotated[str, Meta(description="Its place; `Last-Event-ID` goes on behind it.")]
    event: Literal["progress", "state", "reset"]
    data: Annotated[
        Any, Meta(description="The value with `progress`, else the task; in server-sent events as JSON text.")
    ]


class Limits(msgspec.Struct, kw_only=True):
    """What workers may have of a queue; null where it is not limited."""

    max_running: Annotated[int | None, Meta(description="Tasks that workers have at a time.")]
    max_rate_per_s: Annotated[float | None, Meta(description="Tasks that are started in any second.")]


class Queue(msgspec.Struct, kw_only=True):
    """What a queue holds and who is there for it."""

    queue: str
    pending: Annotated[int, Meta(description="Tasks that a worker could claim now.")]
    running: Annotated[int, Meta(description="Tasks that a worker has.")]
    deferred: Annotated[int, Meta(description="Running tasks without a worker, left to a third party.")]
    delayed: Annotated[int, Meta(description="Pending tasks that are not due yet, retries among them.")]
    oldest_pending_age: Annotated[
        float | None, Meta(description="Seconds since the creation of the oldest claimable task; null without any.")
    ]
    workers: Annotated[
        int, Meta(description="Worker processes, and claims held over HTTP; what died counts for ten seconds more.")
    ]
    waiters: Annotated[int, Meta(description="Calls held for tasks of the queue, some two seconds ago.")]
    limits: Annotated[Limits | None, Meta(description="Of all its workers together; null without any.")] = None


class Queues(msgspec.Struct, kw_only=True):
    """The queues that are in use, by name."""

    items: list[Queue]


class Published(msgspec.Struct, kw_only=True):
    """What a namespace holds; without `value` and `changed_at` where nothing is published."""

    namespace: str
    version: Annotated[str, Meta(description="Names this publish; compare it with `!=`. `0`: nothing is published.")]
    value: Any = None
    changed_at: Time | None = None


class Publication(msgspec.Struct, kw_only=True):
    """A publish that is stored."""

    namespace: str
    version: str


class Health(msgspec.Struct):
    """The state of this instance."""

    status: str


class Problem(msgspec.Struct, kw_only=True):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: Annotated[str, Meta(description="Stable; programs look at this.")]
    field: Annotated[str | None, Meta(description="The field at fault, with `invalid-request`.")] = None
    task: Annotated[Task | None, Meta(description="The winner, with `task-already-final`.")] = None
