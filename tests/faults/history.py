"""What happened in a run: every call, every execution, everything that was done to the deployment.

All times are seconds of the machine's wall clock, which the server of the run, its clients and its workers share.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled", "expired"})


class Call(msgspec.Struct, kw_only=True):
    """One HTTP call. `status` is None when no answer came; `left`: the caller went away before it could."""

    client: str
    instance: str
    operation: str
    request: dict[str, Any]
    started: float
    ended: float
    wait_s: float = 0.0
    status: int | None = None
    answer: Any = None
    failure: str | None = None
    left: bool = False
    idempotency_key: str | None = None

    @property
    def document(self) -> dict[str, Any] | None:
        """The task JSON that came back, be it inside a problem; None when there was none."""
        if not isinstance(self.answer, dict):
            return None
        if "state" in self.answer and "uuid" in self.answer:
            return self.answer
        task = self.answer.get("task")
        return task if isinstance(task, dict) else None

    @property
    def code(self) -> str | None:
        """The problem's code, if the answer is one."""
        return self.answer.get("code") if isinstance(self.answer, dict) else None


class Execution(msgspec.Struct, kw_only=True):
    """One run of a handler, as the handler itself wrote it down. `ended` is None when it never came to that."""

    uuid: str
    queue: str
    attempt: int
    lease: str
    claimed: float
    started: float
    pid: int
    ended: float | None = None
    in_thread: bool = False
    worker: str = ""

    @property
    def fence(self) -> int:
        """The counter in the lease: claims of one task carry rising ones."""
        return int(self.lease.partition(".")[0])


class Disturbance(msgspec.Struct, kw_only=True):
    """Something done to `target`: a process by its name, `redis`, or `all` connections to it."""

    kind: str
    target: str
    start: float
    end: float

    def overlaps(self, start: float, end: float) -> bool:
        """Whether any of it lies between the two times."""
        return self.start <= end and start <= self.end

    def seconds_within(self, start: float, end: float) -> float:
        """How much of it lies between the two times."""
        return max(0.0, min(end, self.end) - max(start, self.start))


class Exit(msgspec.Struct, kw_only=True):
    """How a process ended that was told to by SIGTERM."""

    target: str
    started: float
    seconds: float
    allowed_s: float
    exit_code: int | None


class History(msgspec.Struct, kw_only=True):
    """All of it."""

    lease_s: float
    calls: list[Call] = []
    executions: list[Execution] = []
    disturbances: list[Disturbance] = []
    exits: list[Exit] = []
    leftovers: list[str] = []
    defects: list[str] = []
