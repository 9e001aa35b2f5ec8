"""A task as callers and handlers see it, its states, and which state may follow which."""

from __future__ import annotations

import math
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec


class TaskState(StrEnum):
    """The life of a task: `pending → running → one of the four terminal states`."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    is_terminal: bool
    """Whether the task has ended; a terminal state never changes again."""

    def __init__(self, value: str) -> None:
        # No property: every answer asks several times.
        self.is_terminal = value not in ("pending", "running")


_TERMINAL: Final = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED})

TRANSITIONS: Final[dict[TaskState, frozenset[TaskState]]] = {
    # A third party may finish a task that nobody has claimed.
    TaskState.PENDING: frozenset({TaskState.RUNNING}) | _TERMINAL,
    # Back to pending: retried, given back, or its lease was lost.
    TaskState.RUNNING: frozenset({TaskState.PENDING}) | _TERMINAL,
    TaskState.SUCCEEDED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
    TaskState.EXPIRED: frozenset(),
}


class Deferred(msgspec.Struct, frozen=True):
    """The type of `DEFERRED`. `expires_in_s`: what `within` was given."""

    expires_in_s: float | None = None

    def __repr__(self) -> str:
        return "DEFERRED" if self.expires_in_s is None else f"DEFERRED.within({self.expires_in_s:g})"

    def within(self, seconds: float) -> Deferred:
        """The same with a deadline of its own: the task expires after `seconds`, or when its own time is over before.

        Raises:
            ValueError: Not a positive number of seconds.
        """
        if not 0 < seconds < math.inf:
            raise ValueError(f"DEFERRED.within({seconds}) is no deadline: give a positive number of seconds.")
        return Deferred(seconds)


DEFERRED: Final = Deferred()
"""What a handler returns when a third party will finish its task by `changeTaskState`."""


class TaskFailure(msgspec.Struct, frozen=True):
    """The `error` of a task."""

    code: str = "failed"
    message: str | None = None
    details: Any = None


class TaskActions(Protocol):
    """What a task can do beyond being read; bound by whoever hands the task out."""

    async def wait(self, task: Task, timeout: float) -> Task:
        """Hold until the task has ended."""

    async def report_progress(self, task: Task, value: Any) -> None:
        """Store and announce a progress value."""

    def is_cancelled(self, task: Task) -> bool:
        """Whether somebody ended the task while it runs here."""


class Task(msgspec.Struct, kw_only=True):
    """One unit of work, as it was when it was read.

    A handler gets it with `payload` and may call `progress`; a caller gets it without payload and may `wait`.
    Side effects of a handler are keyed by `uuid` alone: `attempt` changes with every retry and is for logs.
    """

    uuid: str
    queue: str
    state: TaskState
    attempt: int = 0
    payload: Any = None
    result: Any = None
    error: TaskFailure | None = None
    last_progress: Any = msgspec.field(name="progress", default=None)
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    retry_of: str | None = None
    actions: Any = None

    @property
    def cancelled(self) -> bool:
        """Whether the task was ended by somebody else than its handler; a plain `def` handler should look at it."""
        if self.state is TaskState.CANCELLED:
            return True
        return isinstance(self.actions, object) and self.actions is not None and self._bound().is_cancelled(self)

    async def wait(self, timeout: float) -> Task:
        """Hold until the task has ended, on whichever process that happens.

        Args:
            timeout: Seconds to hold at most.

        Raises:
            TimeoutError: The time is over; the task goes on.
            TaskNotFoundError: The record is gone.
            StoreUnavailableError: Redis cannot be reached.
        """
        return await self._bound().wait(self, timeout)

    async def progress(self, value: Any) -> None:
        """Store `value` (JSON-serializable) as the task's progress; it also renews the lease.

        Raises:
            LeaseLostError: The task is no longer this handler's.
        """
        await self._bound().report_progress(self, value)

    def _bound(self) -> TaskActions:
        if self.actions is None:
            raise RuntimeError("This task is only a snapshot: read it through a Broker or a BrokerClient to wait.")
        actions: TaskActions = self.actions
        return actions


_decoder = msgspec.json.Decoder(Task)


def task_from_json(document: bytes, actions: TaskActions | None = None) -> Task:
    """Reads a task JSON as the store or the API gives it."""
    task = _decoder.decode(document)
    task.actions = actions
    return task
