"""What answers look like, for the OpenAPI document only: the bytes themselves come from the store."""

from __future__ import annotations

from typing import Annotated, Any

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
