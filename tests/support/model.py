"""What the store should do, said in plain Python: the reference that the scripts are compared with, step by step.

Written from the contract and the scripts' headers; no code of the store is used. A call gives what the store's method
of that name gives, or raises what it raises; what should be published meanwhile is in `messages`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import msgspec

from broker.errors import (
    IdempotencyMismatchError,
    LeaseLostError,
    QueueFullError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskConflictError,
    TaskNotFoundError,
)
from broker.requests import Completion, LimitsRequest, NewTask, Retry
from broker.store.claims import Claimed, ClaimWish
from broker.store.completions import Changed
from broker.store.creates import Created
from broker.store.queries import QueueLimits, QueueNumbers, StoredTask
from broker.task import TaskState

Message = tuple[str, str]
Score = int

EXHAUSTED: Final = (
    '{"code":"attempts-exhausted","message":"The last attempt lost its lease: its worker died or stalled."'
)
DROPPED: Final = '{"code":"queue-full","message":"The queue was full, and this was the oldest of its lowest priority."}'
LONGEST_MESSAGE: Final = 1_024
EVENT_BYTES: Final = 8
RECORD_BYTES: Final = 1_000
PRIORITY_STEP: Final = 2**48
MOST_DROPS: Final = 10
MOST_ROOM: Final = 1_000_000
NOTE_EVERY_MS: Final = 600_000
OUTCOME_VALUES: Final = ("result", "error", "progress")


@dataclass
class ModelTask:
    """One task. `values` are JSON texts by name; `kept` what the store counts for an ended one.

    `events` are the last values of its progress, `told` says how many there were.
    """

    new: NewTask
    seq: int
    created: int
    origin: str | None = None
    state: TaskState = TaskState.PENDING
    attempt: int = 0
    values: dict[str, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    told: int = 0
    due: int | None = None
    started: int | None = None
    lease: str | None = None
    lease_end: int | None = None
    worker: str | None = None
    max_attempts: int | None = None
    idempotency: str | None = None
    finished: int | None = None
    kept: int = 0
    is_limited: bool = False

    @property
    def uuid(self) -> str:
        return self.new.uuid

    @property
    def queue(self) -> str:
        return self.new.queue

    @property
    def expires(self) -> int:
        return self.created + self.new.expires_ms

    @property
    def gone_at(self) -> int:
        """When an ended task's record may go."""
        assert self.finished is not None
        return self.finished + self.new.retention_ms

    @property
    def is_open(self) -> bool:
        return not self.state.is_terminal

    @property
    def is_pending(self) -> bool:
        """Claimable, now or later."""
        return self.state is TaskState.PENDING

    @property
    def is_claimable(self) -> bool:
        return self.is_pending and self.due is None

    @property
    def is_to_retry(self) -> bool:
        return self.state in (TaskState.FAILED, TaskState.EXPIRED)

    @property
    def place(self) -> Score:
        """Priority first, then age."""
        return self.seq - self.new.priority * PRIORITY_STEP

    def is_request(self, new: NewTask) -> bool:
        return (self.queue, self.new.fingerprint) == (new.queue, new.fingerprint)

    # What is told of it

    def outcome_members(self) -> str:
        return "".join(f',"{name}":{self.values[name]}' for name in OUTCOME_VALUES if name in self.values)

    def members(self, values: str) -> str:
        times = {"started_at": self.started, "finished_at": self.finished, "expires_at": self.expires}
        return (
            f'"uuid":"{self.uuid}","queue":"{self.queue}","state":"{self.state}"{values},"attempt":{self.attempt}'
            f',"created_at":"{rfc3339(self.created)}"'
            + "".join(f',"{name}":"{rfc3339(at)}"' for name, at in times.items() if at is not None)
            + (f',"retry_of":"{self.origin}"' if self.origin else "")
        )

    def document(self) -> bytes:
        return f"{{{self.members(self.outcome_members())}}}".encode()

    def stored(self) -> StoredTask:
        return StoredTask(self.uuid, self.queue, self.new.seal, self.state, self.document())

    def bell(self) -> Message:
        text = f'{{"uuid":"{self.uuid}","queue":"{self.queue}","attempt":{self.attempt}}}'
        return f"{self.queue}-request-{self.uuid}", text

    def announcement(self) -> Message:
        head = f'{{"seal":"{self.new.seal}",'
        text = f"{head}{self.members(self.outcome_members())}}}"
        if len(text.encode()) > LONGEST_MESSAGE:
            text = head + self.members(',"omitted":true') + "}"
        return f"{self.queue}-response-{self.uuid}", text

    @property
    def event_bytes(self) -> int:
        return sum(EVENT_BYTES + len(text.encode()) for text in self.events)

    def tell(self, text: str, most: int, most_bytes: int) -> Message:
        """One event more, and what is published of it."""
        self.told += 1
        self.events.append(text)
        while len(self.events) > 1 and (len(self.events) > most or self.event_bytes > most_bytes):
            del self.events[0]
        head = f"{self.new.seal} {self.told}"
        is_short = len(head) + len(text.encode()) < LONGEST_MESSAGE
        return f"broker:events:{self.uuid.replace('-', '.')}", f"{head} {text}" if is_short else head

    def edge(self, side: str) -> int:
        """The number before the oldest event that is kept, or that of the newest."""
        return self.told - len(self.events) if side == "oldest" else self.told

    def followers(self, after: int | None) -> tuple[bool, list[tuple[int, bytes]]]:
        """Whether the place behind that number is lost, and the events that follow."""
        before = self.edge("oldest")
        if after is not None and not before <= after <= self.told + (not self.is_open):
            return True, []
        numbered = list(enumerate((text.encode() for text in self.events), before + 1))
        return False, [(number, text) for number, text in numbered if number > (after or 0)]

    def record(self) -> dict[str, str]:
        """The fields of the record that are no values."""
        fields = {
            "queue": self.queue,
            "state": self.state,
            "attempt": self.attempt,
            "priority": self.new.priority,
            "seq": self.seq,
            "created": self.created,
            "expires": self.expires,
            "retention": self.new.retention_ms,
            "seal": self.new.seal,
            "fingerprint": self.new.fingerprint,
            "size": len(self.new.payload),
            "max_attempts": self.max_attempts,
            "idempotency": self.idempotency,
            "retry_of": self.origin,
            "due": self.due,
            "started": self.started,
            "lease": self.lease,
            "worker": self.worker,
            "finished": self.finished,
            "kept": None if self.finished is None else self.kept,
            "limited": "1" if self.is_limited else None,
            "events": f"{self.told} {self.event_bytes}" if self.told else None,
        }
        return {name: str(value) for name, value in fields.items() if value is not None}


@dataclass
class Presence:
    """Processes that are there for a queue: until which second each counts, and the number that it reported."""

    reports: dict[str, tuple[int, int]] = field(default_factory=dict)

    def report(self, process: str, number: int, now: int, ttl_ms: int) -> None:
        self.reports = {name: (until, most) for name, (until, most) in self.reports.items() if until >= now // 1_000}
        self.reports.pop(process, None)
        if number:
            self.reports[process] = (-(-(now + ttl_ms) // 1_000), number)

    def numbers(self, now: int) -> list[int]:
        return [number for until, number in self.reports.values() if until >= now // 1_000]


@dataclass
class ModelQueue:
    """What is known of a queue beside its tasks: when it was noted as used, and when it was last looked at for that."""

    seen: int
    noted: int


class Model:
    """The store: tasks, the idempotency keys that stand for them, a counter, and a clock that the test moves.

    Queues are known from their first use until a sweep finds them unused; presence is kept apart from that.
    """

    def __init__(self, now: int) -> None:
        self.now = now
        self.sequence = 0
        self.is_full = False
        self.tasks: dict[str, ModelTask] = {}
        self.idempotency: dict[str, str] = {}
        self.queues: dict[str, ModelQueue] = {}
        self.workers: dict[str, Presence] = {}
        self.waiters: dict[str, Presence] = {}
        self.messages: list[Message] = []
        self.has_ended_any = False
        self.limits: dict[str, LimitsRequest] = {}
        self.starts: dict[str, list[int]] = {}
        self.freed: dict[str, None] = {}

    # Limits

    def set_limits(self, queue: str, limits: LimitsRequest) -> None:
        if limits.is_empty:
            self.limits.pop(queue, None)
        else:
            self.limits[queue] = limits
            self._note(queue)
        self._ring_first(queue)

    def _ring_first(self, queue: str) -> None:
        """A task that a limit kept back is claimable now."""
        first = next(iter(self.claimable(queue)), None)
        if first is not None:
            self.messages.append(first.bell())

    def _leave_lease(self, task: ModelTask) -> None:
        if task.is_limited:
            task.is_limited = False
            self.freed[task.queue] = None

    def ring_freed(self) -> None:
        """At the end of each call: whoever waits for a place hears of it."""
        for queue in self.freed:
            self._ring_first(queue)
        self.freed.clear()

    def room(self, queue: str) -> int:
        """How many tasks may be started now."""
        limits = self.limits.get(queue, LimitsRequest())
        rooms = [MOST_ROOM]
        if limits.max_running is not None:
            rooms.append(limits.max_running - self._numbers(queue).running)
        if limits.window is not None:
            most, window_ms = limits.window
            rooms.append(most - sum(at > self.now - window_ms for at in self.starts.get(queue, [])))
        return max(0, min(rooms))

    def again_ms(self, queue: str) -> int | None:
        """When a rate lets the next task start, where it keeps any back."""
        window = self.limits.get(queue, LimitsRequest()).window
        if window is None or not self.claimable(queue):
            return None
        lately = [at for at in self.starts.get(queue, []) if at > self.now - window[1]]
        return lately[0] + window[1] - self.now if len(lately) >= window[0] else None

    # Transitions

    def create(self, new: NewTask) -> Created:
        if self.is_full:
            raise StoreUnavailableError("full")
        bound = self.tasks.get(self.idempotency.get(new.idempotency or "", ""))
        if bound is not None:
            if (new.uuid_is_chosen and bound.uuid != new.uuid) or not bound.is_request(new):
                raise IdempotencyMismatchError
            return _created(bound, is_new=False)
        known = self.tasks.get(new.uuid)
        if known is not None:
            return self._attach(known, new)
        self._admit(new.queue, new.priority, new.most_pending, new.drops_oldest)
        return _created(self._create(new), is_new=True)

    def retry_ended(self, retry: Retry) -> StoredTask:
        if self.is_full:
            raise StoreUnavailableError("full")
        bound = self.tasks.get(self.idempotency.get(retry.idempotency or "", ""))
        if bound is not None:
            return bound.stored()
        old = self._known(retry.uuid)
        if not self._has_ended(old):
            raise TaskConflictError
        if not old.is_to_retry:
            raise TaskAlreadyFinalError(old.uuid, old.state, old.document())
        self._admit(old.queue, old.new.priority, retry.most_pending, retry.drops_oldest)
        return self._create(_new_of(old, retry), origin=old.uuid).stored()

    def _admit(self, queue: str, priority: int, most: int, drops_oldest: bool) -> None:
        """Makes room where that is wanted; a lowered limit is reached over several creates."""
        self._note(queue)
        excess = len(self.pending(queue)) + 1 - most
        if excess <= 0:
            return
        dropped = 0
        while drops_oldest and dropped < min(excess, MOST_DROPS) and self._drop_oldest(queue, priority):
            dropped += 1
        if not dropped:
            raise QueueFullError("full")

    def _drop_oldest(self, queue: str, priority: int) -> bool:
        oldest = min(self.claimable(queue), key=lambda task: (task.new.priority, task.seq), default=None)
        if oldest is None or oldest.new.priority > priority:
            return False
        if not self._expire_if_over(oldest):
            self._settle(oldest, TaskState.FAILED, "", DROPPED, tells_worker=False)
        return True

    def _attach(self, task: ModelTask, new: NewTask) -> Created:
        if not task.is_request(new):
            raise TaskConflictError
        if new.idempotency is not None:
            if task.idempotency is not None:
                raise IdempotencyMismatchError
            self._bind(task, new.idempotency)
        return _created(task, is_new=False)

    def _create(self, new: NewTask, origin: str | None = None) -> ModelTask:
        self.sequence += 1
        task = self.tasks[new.uuid] = ModelTask(new, self.sequence, self.now, origin, max_attempts=new.max_attempts)
        if new.payload:
            task.values["payload"] = new.payload.decode()
        if new.idempotency is not None:
            self._bind(task, new.idempotency)
        self._enqueue(task, new.delay_ms)
        return task

    def _bind(self, task: ModelTask, idempotency: str) -> None:
        task.idempotency = idempotency
        self.idempotency[idempotency] = task.uuid

    def _enqueue(self, task: ModelTask, delay_ms: int) -> None:
        if delay_ms:
            task.due = self.now + delay_ms
        else:
            self.messages.append(task.bell())

    def claim(self, worker: str, lease_ms: int, wishes: Sequence[ClaimWish]) -> list[Claimed]:
        """Leases have only their fence: the secret is the store's."""
        claimed: list[Claimed] = []
        for wish in wishes:
            before = len(claimed)
            goal = before + min(wish.most, self.room(wish.queue))
            while popped := self.claimable(wish.queue)[: goal - len(claimed)]:
                for task in popped:
                    self.sequence += 1
                    if not self._expire_if_over(task):
                        claimed.append(self._claim(task, worker, lease_ms, wish.max_attempts))
            if self.limits.get(wish.queue, LimitsRequest()).window is not None:
                self.starts.setdefault(wish.queue, []).extend([self.now] * (len(claimed) - before))
        return claimed

    def _claim(self, task: ModelTask, worker: str, lease_ms: int, max_attempts: int) -> Claimed:
        task.state, task.worker, task.started = TaskState.RUNNING, worker, self.now
        task.attempt += 1
        task.lease, task.lease_end = str(self.sequence), self.now + lease_ms
        task.max_attempts = task.max_attempts or max_attempts
        task.is_limited = self.limits.get(task.queue, LimitsRequest()).max_running is not None
        payload = task.new.payload or None
        return Claimed(
            task.uuid, task.queue, task.attempt, task.lease, task.lease_end, task.created, task.expires, payload
        )

    def extend(self, uuid: str, lease: str, lease_ms: int, progress: bytes, limits: tuple[int, int]) -> TaskState | int:
        """`limits`: the most events of a task that are kept, and their most bytes."""
        task = self._known(uuid)
        if not task.is_open:
            return task.state
        _check_lease(task, lease)
        task.lease_end = self.now + lease_ms
        if progress:
            task.values["progress"] = progress.decode()
            self.messages.append(task.tell(progress.decode(), *limits))
        return task.lease_end

    def finish(self, uuid: str, completion: Completion, lease: str | None) -> Changed:
        task = self._known(uuid)
        if self._has_ended(task):
            if not _is_outcome(task, completion):
                raise TaskAlreadyFinalError(uuid, task.state, task.document())
            return Changed(uuid, False, task.state, task.document())
        if lease is not None:
            _check_lease(task, lease)
        result, error = completion.result.decode(), completion.error.decode()
        self._settle(task, completion.state, result, error, tells_worker=lease is None)
        return Changed(uuid, True, task.state, task.document())

    def retry(self, uuid: str, lease: str, completion: Completion, delay_ms: int) -> bool:
        task = self._held(uuid, lease)
        assert task.max_attempts is not None
        if task.attempt >= task.max_attempts:
            self._settle(task, TaskState.FAILED, "", completion.error.decode(), tells_worker=False)
            return False
        task.values["last_error"] = completion.error.decode()
        self._requeue(task, delay_ms)
        return True

    def give_back(self, uuid: str, lease: str, delay_ms: int) -> None:
        task = self._held(uuid, lease)
        task.attempt -= 1
        self._requeue(task, delay_ms)

    def defer(self, uuid: str, lease: str) -> None:
        task = self._held(uuid, lease)
        self._leave_lease(task)
        task.lease = task.lease_end = task.worker = None

    # Presence

    def report_workers(self, worker: str, numbers: dict[str, int], ttl_ms: int) -> None:
        self._report(self.workers, worker, numbers, ttl_ms)

    def report_waiters(self, process: str, numbers: dict[str, int], ttl_ms: int) -> None:
        self._report(self.waiters, process, numbers, ttl_ms)

    def _report(self, there: dict[str, Presence], process: str, numbers: dict[str, int], ttl_ms: int) -> None:
        for queue, number in numbers.items():
            there.setdefault(queue, Presence()).report(process, number, self.now, ttl_ms)
            if number:
                self._note(queue)

    def _note(self, queue: str) -> None:
        known = self.queues.get(queue)
        if known is None or self.now - known.seen >= NOTE_EVERY_MS:
            self.queues[queue] = ModelQueue(seen=self.now, noted=self.now)

    # Sweeps

    def sweep_delayed(self, batch: int) -> int:
        due = self._due({task.uuid: task.due for task in self.tasks.values()}, batch)
        for task in due:
            task.due = None
            self.messages.append(task.bell())
        return len(due)

    def sweep_leases(self, batch: int) -> int:
        lost = self._due({task.uuid: task.lease_end for task in self.tasks.values()}, batch)
        for task in lost:
            if not self._expire_if_over(task):
                self._lose_lease(task)
        return len(lost)

    def _lose_lease(self, task: ModelTask) -> None:
        assert task.max_attempts is not None
        if task.attempt < task.max_attempts:
            self._requeue(task, 0)
            return
        last_error = task.values.get("last_error")
        error = EXHAUSTED + (f',"details":{last_error}' if last_error else "") + "}"
        self._settle(task, TaskState.FAILED, "", error, tells_worker=True)

    def sweep_expired(self, batch: int) -> int:
        over = self._due({task.uuid: task.expires for task in self.tasks.values() if task.is_open}, batch)
        for task in over:
            assert self._expire_if_over(task)
        return len(over)

    def sweep_retained(self, most_tasks: int, most_bytes: int, batch: int) -> int:
        over = self._due({task.uuid: task.gone_at for task in self.ended()}, batch)
        for task in over:
            self._forget(task)
        handled = len(over)
        while handled < batch and (len(self.ended()) > most_tasks or self.retained_bytes() > most_bytes):
            self._forget(self.ended()[0])
            handled += 1
        return handled

    def sweep_queues(self, kept_ms: int, batch: int) -> int:
        quiet = sorted(
            (known.noted, queue) for queue, known in self.queues.items() if known.noted <= self.now - kept_ms
        )
        for _, queue in quiet[:batch]:
            if self.is_in_use(queue):
                self.queues[queue].noted = self.now
            else:
                del self.queues[queue]
        return len(quiet[:batch])

    def _due(self, moments: dict[str, int | None], batch: int) -> list[ModelTask]:
        """The tasks whose moment has come, earliest first."""
        come = sorted((at, uuid) for uuid, at in moments.items() if at is not None and at <= self.now)
        return [self.tasks[uuid] for _, uuid in come[:batch]]

    # What there is

    def pending(self, queue: str) -> list[ModelTask]:
        return [task for task in self.tasks.values() if task.queue == queue and task.is_pending]

    def claimable(self, queue: str) -> list[ModelTask]:
        """In the order in which they are claimed."""
        return sorted((task for task in self.pending(queue) if task.is_claimable), key=lambda task: task.place)

    def listed(self, queue: str | None, state: str | None) -> list[ModelTask]:
        """Newest created first."""
        found = [task for task in self.tasks.values() if queue in (None, task.queue) and state in (None, task.state)]
        return sorted(found, key=lambda task: -task.seq)

    def to_retry(self) -> list[ModelTask]:
        return [task for task in self.tasks.values() if task.is_to_retry]

    def is_in_use(self, queue: str) -> bool:
        """By an open task, or by a process that has not taken itself out, dead or alive."""
        there = [kind[queue] for kind in (self.workers, self.waiters) if queue in kind]
        is_open = any(task.is_open for task in self.tasks.values() if task.queue == queue)
        return is_open or queue in self.limits or any(presence.reports for presence in there)

    def read_queues(self) -> list[QueueNumbers]:
        return [self._numbers(queue) for queue in sorted(self.queues)]

    def _numbers(self, queue: str) -> QueueNumbers:
        claimable = self.claimable(queue)
        oldest = min(claimable, key=lambda task: task.seq, default=None)
        running = Counter(
            task.lease is not None
            for task in self.tasks.values()
            if task.queue == queue and task.state is TaskState.RUNNING
        )
        return QueueNumbers(
            queue=queue,
            pending=len(claimable),
            running=running[True],
            deferred=running[False],
            delayed=len(self.pending(queue)) - len(claimable),
            oldest_pending_age=None if oldest is None else (self.now - oldest.created) / 1_000,
            workers=len(self.workers.get(queue, Presence()).numbers(self.now)),
            waiters=sum(self.waiters.get(queue, Presence()).numbers(self.now)),
            limits=_shown(self.limits.get(queue)),
        )

    def ended(self) -> list[ModelTask]:
        """In the order in which they ended."""
        found = [task for task in self.tasks.values() if not task.is_open]
        return sorted(found, key=lambda task: (task.finished or 0, task.uuid))

    def retained_bytes(self) -> int:
        return sum(task.kept for task in self.ended())

    def is_any_open(self) -> bool:
        return any(task.is_open for task in self.tasks.values())

    def is_anything_due(self) -> bool:
        return any(at <= self.now for at in self._moments())

    def next_moment(self) -> int | None:
        """When something that is not yet due will be."""
        return min((at for at in self._moments() if at > self.now), default=None)

    def _moments(self) -> list[int]:
        tasks = self.tasks.values()
        found = [at for task in tasks if task.is_open for at in (task.due, task.lease_end, task.expires)]
        return [at for at in found if at is not None] + [task.gone_at for task in self.ended()]

    # Shared steps

    def _known(self, uuid: str) -> ModelTask:
        if uuid not in self.tasks:
            raise TaskNotFoundError(uuid)
        return self.tasks[uuid]

    def _held(self, uuid: str, lease: str) -> ModelTask:
        task = self._known(uuid)
        if self._has_ended(task):
            raise TaskAlreadyFinalError(uuid, task.state, task.document())
        _check_lease(task, lease)
        return task

    def _has_ended(self, task: ModelTask) -> bool:
        return not task.is_open or self._expire_if_over(task)

    def _expire_if_over(self, task: ModelTask) -> bool:
        if self.now < task.expires:
            return False
        self._settle(task, TaskState.EXPIRED, "", "", tells_worker=True)
        return True

    def _requeue(self, task: ModelTask, delay_ms: int) -> None:
        self._leave_lease(task)
        task.state = TaskState.PENDING
        task.lease = task.lease_end = task.worker = task.started = None
        self._enqueue(task, delay_ms)

    def _settle(self, task: ModelTask, state: TaskState, result: str, error: str, *, tells_worker: bool) -> None:
        self._leave_lease(task)
        if tells_worker and task.worker is not None:
            self.messages.append((f"broker:worker:{task.worker}", task.uuid))
        task.state, task.finished = state, self.now
        self.has_ended_any = True
        task.lease = task.lease_end = task.worker = task.due = None
        task.values.pop("last_error", None)
        task.values |= {name: text for name, text in (("result", result), ("error", error)) if text}
        task.kept = RECORD_BYTES + len(task.new.payload) + len(task.outcome_members().encode()) + task.event_bytes
        self.messages.append(task.announcement())

    def _forget(self, task: ModelTask) -> None:
        del self.tasks[task.uuid]
        if task.idempotency is not None:
            del self.idempotency[task.idempotency]


def _shown(limits: LimitsRequest | None) -> QueueLimits | None:
    return None if limits is None else QueueLimits(limits.max_running, limits.max_rate_per_s)


def rfc3339(ms: int) -> str:
    """As the contract has times."""
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _created(task: ModelTask, *, is_new: bool) -> Created:
    return Created(
        uuid=task.uuid,
        is_new=is_new,
        seal=task.new.seal,
        state=task.state,
        attempt=task.attempt,
        created_ms=task.created,
        expires_ms=task.expires,
        document=task.document(),
    )


def _new_of(old: ModelTask, retry: Retry) -> NewTask:
    """All that the old one asked for, and at once."""
    return msgspec.structs.replace(
        old.new,
        uuid=retry.new_uuid,
        seal=retry.seal,
        idempotency=retry.idempotency,
        max_attempts=old.max_attempts,
        delay_ms=0,
    )


def _check_lease(task: ModelTask, lease: str) -> None:
    if task.lease != lease:
        raise LeaseLostError


def _is_outcome(task: ModelTask, completion: Completion) -> bool:
    asked = (completion.result.decode(), completion.error.decode())
    stored = (task.values.get("result", ""), task.values.get("error", ""))
    return task.state is completion.state and [_value(text) for text in asked] == [_value(text) for text in stored]


def _value(text: str) -> object:
    return json.loads(text or "null")
