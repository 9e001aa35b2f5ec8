"""What a task tells while it runs, and how it ended, as those who follow it get it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class EventKind(StrEnum):
    """What an event says."""

    PROGRESS = "progress"
    """The handler, or a worker over HTTP, reported a value."""
    STATE = "state"
    """The task has ended; nothing follows."""
    RESET = "reset"
    """What followed the place to go on behind is not kept; the stream goes on from the task's present state."""


class TaskEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a task.

    `id` names its place in the stream: following the task again behind it gives what came after. `data` is the
    reported value with `progress`, else the `Task`. `raw` is the same as JSON text, on one line and otherwise as it was
    received.
    """

    id: str
    kind: EventKind
    data: Any
    raw: bytes
