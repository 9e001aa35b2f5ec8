"""Every transition in any order, against a model in plain Python, on a real server whose clock the test sets.

`pytest tests/redis/test_state_machine.py --hypothesis-profile=long` looks for longer, elsewhere each time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker import naming
from broker.errors import BrokerError, TaskAlreadyFinalError, TaskNotFoundError
from broker.randomness import new_secret
from broker.requests import DEFAULT_MOST_PENDING, Completion, LimitsRequest, NewTask, Retry
from broker.store import scripts, transitions
from broker.store.claims import Claimed, ClaimWish
from broker.store.commands import Command
from broker.store.completions import Changed
from broker.store.creates import Created
from broker.store.event_log import EventLog, Place
from broker.store.housekeeping import QUEUE_KEPT_MS
from broker.store.queries import StoredListItem, StoredTask
from broker.store.transitions import Transitions
from broker.task import TaskState
from tests.support.model import MOST_DROPS, Model, ModelTask, Presence
from tests.support.store import (
    LONG_MS,
    QUEUE,
    READ_FIELDS,
    Ear,
    Store,
    cancelled,
    failed,
    new_task,
    open_store,
    succeeded,
)
from tests.support.virtual_clock import CLOCK_KEY, VirtualClock, run_on_test_clock

T = TypeVar("T")

QUICK: Final = settings(
    max_examples=80,
    stateful_step_count=40,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MOST_EVENTS: Final = 3
MOST_EVENT_BYTES: Final = 150
MOST_ROUNDS: Final = 8
"""Of the quick search, which ends with the first round after which all of `TO_BE_SEEN` has happened."""
DEFECT_SEED: Final = 2
"""Any seed finds every defect; with this one it takes the fewest examples."""
START_MS: Final = 1_800_000_000_000
ALL_AT_ONCE: Final = 200
NO_LIMIT: Final = 10**12
MOST_INLINE_BYTES: Final = 512
PRESENCE_STEP: Final = 2**20
WRONG_LEASE: Final = "0.wrong"
# Without these the search would prove little.
TO_BE_SEEN: Final = {
    *("create: new", "create: attached", "create: TaskConflictError", "create: IdempotencyMismatchError"),
    *("create: StoreUnavailableError", "claim: 0", "claim: 1", "claim: 2", "retry: true", "give back: none"),
    *("defer: none", "defer: LeaseLostError", "extend: extended", "extend: LeaseLostError"),
    *("finish: changed", "finish: repeated", "finish: already expired"),
    *("finish: TaskNotFoundError", "retry: LeaseLostError", "give back: LeaseLostError"),
    *("sweep leases: 1", "sweep delayed: 1", "sweep expired: 2", "sweep retained: 2"),
    *("create: QueueFullError", "dropped: 1", f"dropped: {MOST_DROPS}", "sweep queues: 1", "queues forgotten: 1"),
    *("retried: new", "retried: attached", "retry ended: TaskConflictError", "retry ended: TaskNotFoundError"),
    *("retry ended: already succeeded", "retry ended: already cancelled", "retry ended: QueueFullError"),
    *("retry ended: StoreUnavailableError", "list: 2"),
    *("events: lost", "events: 0", "events: 2"),
    *("claim: by rate", "claim: no place"),
}
# What each script would be without one of its cares.
DEFECTS: Final = {
    "one more runs than may": (scripts.CLAIM_TASKS, "limits.running - (redis", "1 + limits.running - (redis"),
    "a window is forgotten too soon": (scripts.CLAIM_TASKS, "integer(now - limits.window)", "integer(now - 1)"),
    "a free place is not told": (scripts.FINISH_TASKS, "if record.limited then", "if false then"),
    "a lost lease still ends the task": (scripts.FINISH_TASKS, "record.lease ~= lease", "false"),
    "an ended task is ended again": (scripts.FINISH_TASKS, "not is_open(record) or expire_if_over", "expire_if_over"),
    "a worker is not told": (scripts.FINISH_TASKS, "worker ~= '' and not by_worker", "false"),
    "a returned task goes to the end": (
        scripts.REQUEUE_TASK,
        "integer(record.seq - ",
        "integer(redis.call('INCRBY', SEQUENCE, 100) - ",
    ),
    "a given back attempt counts": (scripts.REQUEUE_TASK, "(failed and 0 or 1)", "0"),
    "an index is left behind": (scripts.SWEEP_EXPIRED, "unindex(DELAYED, uuid)", ""),
    "values are left behind": (scripts.SWEEP_RETAINED, "VALUES .. uuid, EVENTS .. uuid", "EVENTS .. uuid"),
    "events are left behind": (scripts.SWEEP_RETAINED, "VALUES .. uuid, EVENTS .. uuid", "VALUES .. uuid"),
    "one event more is kept": (scripts.EXTEND_LEASE, "kept - dropped > most or", "kept - dropped > most + 1 or"),
    "an event is counted twice": (scripts.EXTEND_LEASE, "integer(told + 1)", "integer(told + 2)"),
    "a lost event is not noticed": (scripts.READ_EVENTS, "after + 1 < oldest", "after + 2 < oldest"),
    "an end is not told": (scripts.FIND_EVENTS, "not is_open(record)", "false"),
    "a key outlives its task": (scripts.SWEEP_RETAINED, "redis.call('DEL', IDEMPOTENCY .. record.idempotency)", ""),
    "a forgotten task is still listed": (scripts.SWEEP_RETAINED, "unindex(CREATED_INDEX, uuid)", ""),
    "a task is not listed": (scripts.RETRY_TASK, "index(CREATED_INDEX, uuid, integer(record.seq))", ""),
    "a deferred task is not counted": (scripts.DEFER_TASK, "count(record.queue, 'deferred', 1)", ""),
    "an ended task is still counted": (scripts.FINISH_TASKS, "count(record.queue, 'delayed', -1)", ""),
    "a used queue is forgotten": (scripts.SWEEP_QUEUES, "number and number ~= '0'", "false"),
    "a success is retried": (scripts.RETRY_TASK, "old.state ~= 'failed' and old.state ~= 'expired'", "false"),
    "a long payload is not copied": (
        scripts.RETRY_TASK,
        "load_value(origin, old, 'payload', old.payload)",
        "old.payload",
    ),
    "the origin is not told": (scripts.RETRY_TASK, "record.retry_of = origin", ""),
    "a repeated retry makes another task": (
        scripts.RETRY_TASK,
        "local record = bound and read_record(bound)",
        "local record",
    ),
    "a full queue takes one more": (scripts.CREATE_TASKS, "pending >= most", "pending > most"),
    "delayed tasks are not limited": (scripts.CREATE_TASKS, "(known[1] or 0)", "0"),
    "a more urgent task is dropped": (scripts.CREATE_TASKS, "priority < lowest", "false"),
    "the newest is dropped": (
        scripts.CREATE_TASKS,
        "'+inf', 'LIMIT', 0, 1)[1]",
        "'+inf', 'LIMIT', 0, 1)[1] and last[1]",
    ),
}
FORGETS_STARTS: Final = "redis.call('PEXPIRE', STARTS .. queue, limits.window)"
"""By the server's clock, not the test's."""
VALUES: Final = ("payload", "result", "error", "progress", "last_error")

# Read the whole store in one go.
DUMP: Final = f"""#!lua flags=no-writes
{READ_FIELDS}
local readers = {{ hash = 'HGETALL', string = 'GET' }}
local ranges = {{ zset = {{ 'ZRANGE', 'WITHSCORES' }}, list = {{ 'LRANGE' }} }}
local dump = {{}}
for i, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local content
  if key == '{naming.tasks_key()}' then
    kind, content = 'records', {{}}
    for i, uuid in ipairs(redis.call('HKEYS', key)) do
      content[i] = {{ uuid, fields_of(uuid) }}
    end
  else
    local range = ranges[kind]
    content = range and redis.call(range[1], key, 0, -1, unpack(range, 2)) or redis.call(readers[kind], key)
  end
  dump[i] = {{ key, kind, content }}
end
return dump
"""

# Few of each, so that calls meet.
# The longest cannot be a field of the record of its retry.
chosen = st.sampled_from(["a", "b", "c" * 65])
queues = st.sampled_from(["q", "q", "other.queue"])
keys = st.sampled_from([None, None, None, "key-1", "key-2", "key-3"])
payloads = st.sampled_from([b"", b"null", b'{"a":[]}', b'"' + b"p" * 600 + b'"'])
leases = st.sampled_from([1, 1_000, 2_000, 60_000])
delays = st.sampled_from([0, 0, 0, 1, 1_000])
progresses = st.sampled_from([b"", b"[50]", b'"' + b"x" * 600 + b'"', '"日本"'.encode()])
errors = st.sampled_from([b'{"code":"x"}', b'{"code":"x","details":"' + b"e" * 600 + b'"}'])
completions = st.one_of(
    st.sampled_from([b"", b"null", b'{"a":1.0,"b":[]}', b'{ "b":[], "a":1.0 }', b'"' + b"r" * 2_000 + b'"']).map(
        succeeded
    ),
    errors.map(failed),
    st.just(cancelled()),
)
wishes = st.builds(ClaimWish, queue=queues, most=st.integers(1, 3), max_attempts=st.sampled_from([1, 2, 3]))
workers = st.sampled_from(["w1", "w2"])
batches = st.sampled_from([1, 2, ALL_AT_ONCE])
picks = st.integers(0, 3)
limits = st.sampled_from([DEFAULT_MOST_PENDING] * 3 + [1, 2, 3])
processes = st.sampled_from(["p1", "p2"])


class TaskMachine(RuleBasedStateMachine):
    """Each rule asks the store and the model the same, and compares what they say; the invariant compares the rest."""

    tasks = Bundle("tasks")

    def __init__(self, store: Store, ear: Ear, runner: asyncio.Runner, seen: Counter[str]) -> None:
        super().__init__()
        self._seen = seen
        self._store = store
        self._transitions = Transitions(store.link, events_kept=MOST_EVENTS)
        self._log = EventLog(store.link)
        self._ear = ear
        self._runner = runner
        self._clock = VirtualClock(store.raw)
        self._model = Model(START_MS)
        self._is_as_in_the_model = False
        self._made = 0
        self._is_crowded = False
        self._leases: dict[str, list[str]] = {}
        self._ends: dict[str, tuple[int, dict[str, str]]] = {}
        store.raw.flushall()
        ear.messages()
        self._clock.set(self._model.now)

    # Creating

    @initialize(target=tasks, uuids=st.lists(chosen, unique=True, min_size=1), priority=st.integers(0, 9))
    def begin(self, uuids: list[str], priority: int) -> MultipleResults[str]:
        """With an empty store little could happen."""
        for uuid in uuids:
            self._create(new_task(uuid, priority=priority))
        return multiple(*uuids)

    @rule(
        target=tasks,
        uuid=st.none() | chosen,
        queue=queues,
        payload=payloads,
        idempotency=keys,
        priority=st.sampled_from([0, 0, 5, 9]),
        delay=delays,
        expires=st.sampled_from([1_000, 1_000, LONG_MS, LONG_MS, LONG_MS]),
        retention=st.sampled_from([0, 1_000, LONG_MS, LONG_MS]),
        max_attempts=st.sampled_from([None, None, None, 1, 2]),
        most_pending=limits,
        drops_oldest=st.booleans(),
    )
    def create(
        self,
        uuid: str | None,
        queue: str,
        payload: bytes,
        idempotency: str | None,
        delay: int,
        expires: int,
        **more: Any,
    ) -> str:
        """With a uuid of the caller's or one made here, which nobody else has."""
        new = new_task(
            uuid or self._make_uuid(),
            chosen=uuid is not None,
            queue=queue,
            payload=payload,
            idempotency=idempotency,
            delay_ms=delay,
            expires_ms=expires,
            priority=more["priority"],
            retention_ms=more["retention"],
            max_attempts=more["max_attempts"],
            most_pending=more["most_pending"],
            drops_oldest=more["drops_oldest"],
        )
        self._create(new)
        return new.uuid

    @precondition(lambda self: not self._is_crowded)
    @rule(
        number=st.sampled_from([MOST_DROPS, MOST_DROPS + 2]),
        priorities=st.tuples(st.sampled_from([0, 0, 5]), st.sampled_from([0, 5, 9])),
        delay=delays,
        drops_oldest=st.sampled_from([True, True, False]),
    )
    def lower_a_limit(self, number: int, priorities: tuple[int, int], delay: int, drops_oldest: bool) -> None:
        """Far below what a queue holds already."""
        self._is_crowded = True
        before, after = priorities
        for _ in range(number):
            self._create(new_task(self._make_uuid(), priority=before, delay_ms=delay))
        self._create(new_task(self._make_uuid(), priority=after, most_pending=1, drops_oldest=drops_oldest))

    def _create(self, new: NewTask) -> None:
        ended = len(self._model.ended())
        self._compare("create", self._store.transitions.create(new), lambda: self._model.create(new))
        self._seen[f"dropped: {len(self._model.ended()) - ended}"] += 1

    # Retrying what has ended

    @rule(target=tasks, uuid=tasks | chosen, key=keys, most_pending=limits, drops_oldest=st.booleans())
    def retry_any(self, uuid: str, key: str | None, most_pending: int, drops_oldest: bool) -> str:
        """Mostly one that is not to be retried."""
        return self._retry_ended(uuid, key, most_pending, drops_oldest)

    @precondition(lambda self: self._model.to_retry())
    @rule(target=tasks, which=picks, key=keys, most_pending=limits, drops_oldest=st.booleans())
    def retry_ended(self, which: int, key: str | None, most_pending: int, drops_oldest: bool) -> str:
        found = self._model.to_retry()
        return self._retry_ended(found[which % len(found)].uuid, key, most_pending, drops_oldest)

    @rule(target=tasks, payload=payloads, delay=delays, completion=completions, key=keys, most_pending=limits)
    def retry_twice_what_ends_now(
        self, payload: bytes, delay: int, completion: Completion, key: str | None, most_pending: int
    ) -> str:
        """Left to chance, most retries would be of tasks without much about them."""
        new = new_task(self._make_uuid(), payload=payload, delay_ms=delay)
        self._create(new)
        self._finish(new.uuid, completion, None)
        self._retry_ended(new.uuid, key, most_pending, drops_oldest=False)
        return self._retry_ended(new.uuid, key, most_pending, drops_oldest=False)

    def _retry_ended(self, uuid: str, key: str | None, most_pending: int, drops_oldest: bool) -> str:
        retry = Retry(
            uuid=uuid,
            new_uuid=self._make_uuid(),
            seal=new_secret(),
            # Keys of retries are apart from those of creates, and each is of one task. A digest fits into a record.
            idempotency=key and f"{key} of {uuid[:40]}",
            most_pending=most_pending,
            drops_oldest=drops_oldest,
        )
        asked = self._store.transitions.retry_ended(retry)
        told = self._compare("retry ended", asked, lambda: self._model.retry_ended(retry))
        if isinstance(told, StoredTask):
            self._seen[f"retried: {'new' if told.uuid == retry.new_uuid else 'attached'}"] += 1
        return retry.new_uuid

    def _make_uuid(self) -> str:
        self._made += 1
        return f"made{self._made}"

    # Working

    @precondition(lambda self: self._model.is_any_open())
    @rule(worker=workers, lease_ms=leases, asked=st.lists(wishes, min_size=1, max_size=3))
    def claim(self, worker: str, lease_ms: int, asked: list[ClaimWish]) -> None:
        """Leases are given at random: the model learns them here."""
        claims = self._run(self._store.transitions.claim(worker, lease_ms, asked))
        found = claims.tasks
        may_start = {wish.queue: self._model.room(wish.queue) for wish in asked}
        assert [_without_secret(one) for one in found] == self._model.claim(worker, lease_ms, asked)
        assert claims.again_ms == {
            wish.queue: ms for wish in asked if (ms := self._model.again_ms(wish.queue)) is not None
        }
        self._seen[f"claim: {min(len(found), 2)}"] += 1
        if claims.again_ms:
            self._seen["claim: by rate"] += 1
        elif any(not may_start[wish.queue] and self._model.claimable(wish.queue) for wish in asked):
            self._seen["claim: no place"] += 1
        for one in found:
            self._model.tasks[one.uuid].lease = one.lease
            self._leases.setdefault(one.uuid, []).append(one.lease)

    @rule(
        queue=queues,
        max_running=st.sampled_from([None, None, 0, 1, 2]),
        max_rate_per_s=st.sampled_from([None, None, 0.5, 1.0, 2.5]),
    )
    def set_limits(self, queue: str, max_running: int | None, max_rate_per_s: float | None) -> None:
        limits = LimitsRequest(max_running=max_running, max_rate_per_s=max_rate_per_s)
        self._run(self._store.transitions.set_limits(queue, limits))
        # What was started under no rate, or under one with a shorter window, is not known any more.
        self._store.raw.delete(naming.starts_key(queue))
        self._model.starts.pop(queue, None)
        self._model.set_limits(queue, limits)

    @rule(target=tasks, worker=workers, lease_ms=leases, max_attempts=st.integers(1, 3))
    def give_a_worker_something_to_do(self, worker: str, lease_ms: int, max_attempts: int) -> str:
        """Left to chance, claims would mostly find nothing."""
        new = new_task(self._make_uuid())
        self._create(new)
        self.claim(worker, lease_ms, [ClaimWish(QUEUE, 2, max_attempts)])
        return new.uuid

    @precondition(lambda self: self._held())
    @rule(
        which=picks,
        lease_ms=leases,
        values=st.lists(progresses, min_size=1, max_size=MOST_EVENTS + 1),
        beside=st.sampled_from([-1, 0, 0]),
    )
    def extend(self, which: int, lease_ms: int, values: list[bytes], beside: int) -> None:
        """Left to chance, hardly a task would tell more than is kept, and hardly anybody look for what is not."""
        uuid, lease = self._pick(which)
        for value in values:
            self._extend(uuid, lease, lease_ms, value)
        task = self._model.tasks[uuid]
        self._read_events(task, max(0, task.edge("oldest") + beside), 0)

    @precondition(lambda self: self._held())
    @rule(which=picks, error=errors, delay=delays)
    def retry(self, which: int, error: bytes, delay: int) -> None:
        self._retry(*self._pick(which), failed(error), delay)

    @precondition(lambda self: self._held())
    @rule(which=picks, delay=delays)
    def give_back(self, which: int, delay: int) -> None:
        self._give_back(*self._pick(which), delay)

    @precondition(lambda self: self._held())
    @rule(which=picks)
    def defer(self, which: int) -> None:
        self._defer(*self._pick(which))

    @precondition(lambda self: self._held())
    @rule(which=picks, completion=completions)
    def finish_as_worker(self, which: int, completion: Completion) -> None:
        uuid, lease = self._pick(which)
        self._finish(uuid, completion, lease)

    @rule(uuid=tasks, act=st.sampled_from(["extend", "retry", "give back", "defer", "finish"]))
    def act_without_a_right(self, uuid: str, act: str) -> None:
        """With a lease that the task had before, if any, or one that was never given."""
        lease = self._former_lease(uuid)
        if act == "extend":
            self._extend(uuid, lease, 1_000, b"1")
        elif act == "retry":
            self._retry(uuid, lease, failed(), 0)
        elif act == "give back":
            self._give_back(uuid, lease, 0)
        elif act == "defer":
            self._defer(uuid, lease)
        else:
            self._finish(uuid, succeeded(), lease)

    def _extend(self, uuid: str, lease: str, lease_ms: int, progress: bytes) -> None:
        self._compare(
            "extend",
            self._transitions.extend(uuid, lease, lease_ms, progress),
            lambda: self._model.extend(uuid, lease, lease_ms, progress, (MOST_EVENTS, MOST_EVENT_BYTES)),
        )

    def _retry(self, uuid: str, lease: str, completion: Completion, delay: int) -> None:
        self._compare(
            "retry",
            self._store.transitions.retry(uuid, lease, completion, delay),
            lambda: self._model.retry(uuid, lease, completion, delay),
        )

    def _give_back(self, uuid: str, lease: str, delay: int) -> None:
        self._compare(
            "give back",
            self._store.transitions.give_back(uuid, lease, delay),
            lambda: self._model.give_back(uuid, lease, delay),
        )

    def _defer(self, uuid: str, lease: str) -> None:
        self._compare("defer", self._store.transitions.defer(uuid, lease), lambda: self._model.defer(uuid, lease))

    # Ending

    @rule(uuid=tasks, completion=completions)
    def finish_as_third_party(self, uuid: str, completion: Completion) -> None:
        self._finish(uuid, completion, None)

    def _finish(self, uuid: str, completion: Completion, lease: str | None) -> None:
        self._compare(
            "finish",
            self._store.transitions.finish(uuid, completion, lease=lease, wants_document=True),
            lambda: self._model.finish(uuid, completion, lease),
        )

    # Presence

    @rule(
        process=processes,
        are_workers=st.booleans(),
        numbers=st.dictionaries(queues | st.just("unused"), st.integers(0, 2), min_size=1),
        ttl_ms=st.sampled_from([60_000, LONG_MS]),
    )
    def report_presence(self, process: str, are_workers: bool, numbers: dict[str, int], ttl_ms: int) -> None:
        """Never so briefly that the server forgets it, which goes by another clock than the test's."""
        if are_workers:
            numbers = dict.fromkeys(numbers, 1) if any(numbers.values()) else numbers
            self._run(self._store.housekeeping.report_workers(process, numbers, ttl_ms))
            self._model.report_workers(process, numbers, ttl_ms)
        else:
            self._run(self._store.housekeeping.report_waiters(process, numbers, ttl_ms))
            self._model.report_waiters(process, numbers, ttl_ms)

    @rule()
    def read_queues(self) -> None:
        assert self._run(self._store.queries.read_queues()) == self._model.read_queues()

    @precondition(lambda self: self._model.queues)
    @rule(kept_ms=st.sampled_from([0, 1_000, QUEUE_KEPT_MS]), batch=batches)
    def sweep_queues(self, kept_ms: int, batch: int) -> None:
        known = len(self._model.queues)
        handled = self._send(scripts.SWEEP_QUEUES.command(naming.queues_key(), kept_ms, batch, repeatable=True))
        assert handled == self._model.sweep_queues(kept_ms, batch)
        self._seen[f"sweep queues: {min(handled, 2)}"] += 1
        self._seen[f"queues forgotten: {known - len(self._model.queues)}"] += 1

    # Time

    @rule(ms=st.sampled_from([1, 10, 1_000, 1_000, 60_000, 600_000]))
    def time_passes(self, ms: int) -> None:
        self._move_to(self._model.now + ms)

    @precondition(lambda self: self._model.next_moment())
    @rule(beside=st.sampled_from([-1, 0, 0, 1]))
    def time_passes_until_something_is_due(self, beside: int) -> None:
        self._move_to(max(self._model.now, (self._model.next_moment() or 0) + beside))

    @precondition(lambda self: self._model.is_anything_due())
    @rule(what=st.sampled_from(["leases", "delayed", "expired"]), batch=batches)
    def sweep(self, what: str, batch: int) -> None:
        """As `Transitions` does, with a batch of the test's choice."""
        self._sweep(what, batch)

    @precondition(lambda self: self._model.next_moment())
    @rule()
    def time_passes_and_all_is_swept(self) -> None:
        self._move_to(self._model.next_moment() or 0)
        for what in ("leases", "delayed", "expired"):
            self._sweep(what, ALL_AT_ONCE)

    def _sweep(self, what: str, batch: int) -> None:
        script, key, in_model = {
            "leases": (scripts.SWEEP_LEASES, naming.leases_key(), self._model.sweep_leases),
            "delayed": (scripts.SWEEP_DELAYED, naming.delayed_key(), self._model.sweep_delayed),
            "expired": (scripts.SWEEP_EXPIRED, naming.expiring_key(), self._model.sweep_expired),
        }[what]
        handled = self._send(script.command(key, batch, repeatable=True))
        assert handled == in_model(batch)
        self._seen[f"sweep {what}: {min(handled, 2)}"] += 1

    @precondition(lambda self: self._model.ended())
    @rule(
        most_tasks=st.sampled_from([NO_LIMIT] * 9 + [0, 2, 4]),
        most_bytes=st.sampled_from([NO_LIMIT] * 9 + [0, 2_500, 5_000]),
        batch=batches,
    )
    def sweep_retained(self, most_tasks: int, most_bytes: int, batch: int) -> None:
        handled = self._send(
            scripts.SWEEP_RETAINED.command(naming.retained_key(), most_tasks, most_bytes, batch, repeatable=True)
        )
        assert handled == self._model.sweep_retained(most_tasks, most_bytes, batch)
        self._seen[f"sweep retained: {min(handled, 2)}"] += 1

    def _move_to(self, ms: int) -> None:
        self._model.now = ms
        self._clock.set(ms)

    # Memory

    @precondition(lambda self: not self._model.is_full and len(self._model.tasks) > 6)
    @rule()
    def fill(self) -> None:
        """From now on nothing is created, and all else goes on."""
        self._set_full(True)

    @precondition(lambda self: self._model.is_full)
    @rule()
    def make_room(self) -> None:
        self._set_full(False)

    def _set_full(self, is_full: bool) -> None:
        self._model.is_full = is_full
        self._store.raw.config_set("maxmemory", "1" if is_full else "0")

    # What must hold after each step

    @invariant()
    def what_is_published_is_as_in_the_model(self) -> None:
        self._model.ring_freed()
        assert self._ear.messages() == self._model.messages
        self._model.messages.clear()

    @invariant()
    def what_is_stored_is_as_in_the_model(self) -> None:
        stored = Stored(self._store)
        assert stored.records == {uuid: task.record() for uuid, task in self._model.tasks.items()}
        assert stored.events == {uuid: task.events for uuid, task in self._model.tasks.items() if task.events}
        assert stored.values == {uuid: task.values for uuid, task in self._model.tasks.items()}
        assert stored.indexes == _indexes(self._model)
        assert stored.queues == _queues(self._model, stored.records)
        assert stored.strings == _strings(self._model)
        self._check_promises(stored.records)
        self._is_as_in_the_model = True

    def _check_promises(self, records: dict[str, dict[str, str]]) -> None:
        """Said of the store alone: the model and the scripts could be wrong alike."""
        for record in records.values():
            attempt, most = int(record["attempt"]), int(record.get("max_attempts", NO_LIMIT))
            assert 0 <= attempt <= most
            assert record["state"] != "running" or attempt >= 1
            assert ("lease" in record) <= (record["state"] == "running")
        ends = {uuid: record for uuid, record in records.items() if record["state"] not in ("pending", "running")}
        for uuid, (seq, before) in self._ends.items():
            now = records.get(uuid)
            # A record that is gone makes room for another task of that uuid.
            assert now is None or int(now["seq"]) > seq or _timeless(now) == before
        self._ends = {uuid: (int(record["seq"]), _timeless(record)) for uuid, record in ends.items()}

    @rule(
        uuid=tasks | chosen,
        side=st.sampled_from(["begin", "oldest", "oldest", "newest"]),
        beside=st.sampled_from([-1, 0, 0, 1, 2]),
        is_another=st.sampled_from([0, 0, 0, 1]),
    )
    def read(self, uuid: str, side: str, beside: int, is_another: int) -> None:
        """And its events: all, or beside the oldest or the newest, of this task or one that had its uuid before."""
        task = self._model.tasks.get(uuid)
        if task is None:
            for reading in (self._store.queries.read(uuid), self._log.read(uuid)):
                with pytest.raises(TaskNotFoundError):
                    self._run(reading)
        else:
            assert self._run(self._store.queries.read(uuid)) == task.stored()
            self._read_events(task, None if side == "begin" else max(0, task.edge(side) + beside), is_another)

    def _read_events(self, task: ModelTask, after: int | None, is_another: int) -> None:
        place = None if after is None else Place(task.created - is_another, after)
        page = self._run(self._log.read(task.uuid, place))
        is_lost, events = task.followers(after)
        is_lost = is_lost or (place is not None and bool(is_another))
        assert page.is_reset is is_lost
        assert [tuple(event) for event in page.events] == ([] if is_lost else events)
        assert (page.created_ms, page.newest, page.state) == (task.created, task.told, task.state)
        assert page.document == (task.document() if is_lost or not task.is_open else None)
        self._seen[f"events: {'lost' if is_lost else len(events)}"] += 1

    @rule(
        queue=st.none() | queues,
        state=st.sampled_from([None, None, "pending", "running", "failed", "expired"]),
        limit=st.sampled_from([1, 2, 50]),
    )
    def list_tasks(self, queue: str | None, state: str | None, limit: int) -> None:
        """All pages, each as long as it may be."""
        expected = [StoredListItem(task.uuid, task.state, task.document()) for task in self._model.listed(queue, state)]
        found: list[StoredListItem] = []
        cursor, pages = None, 0
        while pages == 0 or cursor is not None:
            page = self._run(self._store.queries.list_tasks(queue=queue, state=state, cursor=cursor, limit=limit))
            assert len(page.items) == min(limit, len(expected) - len(found))
            found += page.items
            cursor, pages = page.cursor, pages + 1
        assert found == expected
        self._seen[f"list: {min(pages, 2)}"] += 1

    @rule(uuids=st.lists(tasks, min_size=1, max_size=4, unique=True), number=st.integers(0, 3))
    def find_ended(self, uuids: list[str], number: int) -> None:
        """And those that have told another number of events than somebody knows."""
        open_ones = {uuid for uuid, task in self._model.tasks.items() if task.is_open}
        assert self._run(self._store.queries.find_ended(uuids)) == [uuid for uuid in uuids if uuid not in open_ones]
        quiet = {uuid for uuid in open_ones if self._model.tasks[uuid].told == number}
        found = self._run(self._log.find_changed(dict.fromkeys(uuids, number)))
        assert found == [uuid for uuid in uuids if uuid not in quiet]

    def teardown(self) -> None:
        """When all time is over, nothing is left; unless a step has failed, which is told then, and nothing else."""
        self._set_full(False)
        if not self._is_as_in_the_model:
            return
        self._move_to(max([self._model.now, *(task.expires for task in self._model.tasks.values())]))
        self._sweep("expired", ALL_AT_ONCE)
        self._move_to(max([self._model.now, *(task.gone_at for task in self._model.tasks.values())]))
        self.sweep_retained(NO_LIMIT, NO_LIMIT, ALL_AT_ONCE)
        self.what_is_published_is_as_in_the_model()
        self._take_everybody_out()
        self._take_limits_away()
        self._move_to(self._model.now + QUEUE_KEPT_MS)
        self.sweep_queues(QUEUE_KEPT_MS, ALL_AT_ONCE)
        self._store.raw.delete(*(naming.starts_key(queue) for queue in ("q", "other.queue")))
        assert set(self._store.raw.keys("*")) <= {CLOCK_KEY, naming.sequence_key(), naming.retained_bytes_key()}
        assert self._store.retained_bytes() == 0

    def _take_limits_away(self) -> None:
        for queue in ("q", "other.queue"):
            self.set_limits(queue, None, None)

    def _take_everybody_out(self) -> None:
        """Whoever has not done so is dead, and the server's own clock sees to that."""
        for kind, key_of in ((self._model.workers, naming.workers_key), (self._model.waiters, naming.waiters_key)):
            for queue, presence in kind.items():
                assert not presence.reports or self._store.raw.pttl(key_of(queue)) > 0
                self._store.raw.delete(key_of(queue))
            kind.clear()

    # Steps

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._is_as_in_the_model = False
        return self._runner.run(coroutine)

    def _send(self, command: Command) -> int:
        return int(self._run(_reply(self._store, command)))

    def _compare(self, call: str, asked: Coroutine[Any, Any, object], expected: Callable[[], object]) -> object:
        told = _told(lambda: self._run(asked))
        assert told == _told(expected)
        self._model.ring_freed()
        self._seen[f"{call}: {_in_a_word(told)}"] += 1
        return told

    def _held(self) -> list[tuple[str, str]]:
        """The tasks that somebody works on, and their leases."""
        return [(task.uuid, task.lease) for task in self._model.tasks.values() if task.lease]

    def _pick(self, which: int) -> tuple[str, str]:
        held = self._held()
        return held[which % len(held)]

    def _former_lease(self, uuid: str) -> str:
        present = self._model.tasks[uuid].lease if uuid in self._model.tasks else None
        return next((lease for lease in reversed(self._leases.get(uuid, [])) if lease != present), WRONG_LEASE)


class Stored:
    """All that the server keeps, sorted by what it is for."""

    def __init__(self, store: Store) -> None:
        self.records: dict[str, dict[str, str]] = {}
        self.values: dict[str, dict[str, str]] = {}
        self.indexes: dict[str, list[tuple[str, int]]] = {}
        self.strings: dict[str, str] = {}
        self.events: dict[str, list[str]] = {}
        self.queues: dict[str, dict[str, int]] = {}
        large: dict[str, dict[str, str]] = {}
        dump: Any = store.raw.eval(DUMP, 0)
        for key, kind, content in dump:
            if key == naming.limits_key() or key.startswith(naming.starts_prefix()):
                # Told by what claims get.
                continue
            if kind == "zset":
                self.indexes[key] = [(uuid, int(score)) for uuid, score in _pairs(content)]
            elif kind == "string":
                self.strings[key] = content
            elif kind == "list":
                self.events[key.removeprefix(naming.events_prefix())] = content
            elif kind == "records":
                for uuid, fields in content:
                    self._take_record(uuid, dict(_pairs(fields)))
            elif key.startswith(naming.queue_prefix()):
                self._take_queue(key.removeprefix(naming.queue_prefix()), dict(_pairs(content)))
            else:
                large[key.removeprefix(naming.values_prefix())] = dict(_pairs(content))
        assert large.keys() <= self.records.keys()
        # A short value has the last word: it may follow a long one.
        self.values = {uuid: {**large.get(uuid, {}), **short} for uuid, short in self.values.items()}

    def _take_record(self, uuid: str, fields: dict[str, str]) -> None:
        fields.pop("large", None)
        if "events" in fields:
            # The reports are named at random.
            fields["events"] = fields["events"].rpartition(" ")[0]
        self.values[uuid] = {name: text for name, text in fields.items() if name in VALUES}
        self.records[uuid] = {name: text for name, text in fields.items() if name not in VALUES}
        assert all(len(text.encode()) <= MOST_INLINE_BYTES for text in fields.values())

    def _take_queue(self, queue: str, fields: dict[str, str]) -> None:
        """A number that is 0 may be there or not."""
        self.queues[queue] = {name: int(text) for name, text in fields.items() if text != "0"}


def _indexes(model: Model) -> dict[str, list[tuple[str, int]]]:
    """Each task in exactly the indexes that its state asks for."""
    tasks = model.tasks.values()
    wanted: dict[str, dict[str, int | None]] = {
        naming.delayed_key(): {task.uuid: task.due for task in tasks},
        naming.leases_key(): {task.uuid: task.lease_end for task in tasks},
        naming.expiring_key(): {task.uuid: task.expires for task in tasks if task.is_open},
        naming.retained_key(): {task.uuid: task.gone_at for task in tasks if not task.is_open},
        naming.ended_key(): {task.uuid: task.finished for task in tasks if not task.is_open},
        naming.created_key(): {task.uuid: task.seq for task in tasks},
        naming.queues_key(): {queue: known.noted for queue, known in model.queues.items()},
        **{naming.workers_key(queue): _scores(there) for queue, there in model.workers.items()},
        **{naming.waiters_key(queue): _scores(there) for queue, there in model.waiters.items()},
    }
    for task in tasks:
        if task.is_claimable:
            wanted.setdefault(naming.pending_key(task.queue), {})[task.uuid] = task.place
    return {key: scores for key, members in wanted.items() if (scores := _by_score(members))}


def _scores(there: Presence) -> dict[str, int | None]:
    return {process: until * PRESENCE_STEP + number for process, (until, number) in there.reports.items()}


def _queues(model: Model, records: dict[str, dict[str, str]]) -> dict[str, dict[str, int]]:
    """Exactly the known queues, each with what a recount of the records gives."""
    found = {queue: Counter(seen=known.seen) for queue, known in model.queues.items()}
    for record in records.values():
        what = _counted_as(record)
        if what:
            found[record["queue"]][what] += 1
    return {queue: dict(numbers) for queue, numbers in found.items()}


def _counted_as(record: dict[str, str]) -> str | None:
    if record["state"] == "running":
        return "running" if "lease" in record else "deferred"
    return "delayed" if "due" in record else None


def _by_score(members: dict[str, int | None]) -> list[tuple[str, int]]:
    found = [(score, uuid) for uuid, score in members.items() if score is not None]
    return [(uuid, score) for score, uuid in sorted(found)]


def _strings(model: Model) -> dict[str, str]:
    strings = {naming.idempotency_key(key): uuid for key, uuid in model.idempotency.items()}
    strings[CLOCK_KEY] = str(model.now)
    if model.sequence:
        strings[naming.sequence_key()] = str(model.sequence)
    if model.has_ended_any:
        strings[naming.retained_bytes_key()] = str(model.retained_bytes())
    return strings


def _pairs(flat: list[str]) -> list[tuple[str, str]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _timeless(record: dict[str, str]) -> dict[str, str]:
    """What never changes of an ended task; a key may still be bound to it."""
    return {name: text for name, text in record.items() if name != "idempotency"}


def _without_secret(claimed: Claimed) -> Claimed:
    fence, _, secret = claimed.lease.partition(".")
    assert len(secret) >= 20
    return msgspec.structs.replace(claimed, lease=fence)


def _told(call: Callable[[], object]) -> object:
    """What a call gives, or what it raises, so that the two can be compared."""
    try:
        return call()
    except TaskAlreadyFinalError as error:
        return TaskAlreadyFinalError, error.uuid, error.state, error.document
    except BrokerError as error:
        return type(error)


def _in_a_word(told: object) -> str:
    match told:
        case Created():
            return "new" if told.is_new else "attached"
        case StoredTask():
            return "task"
        case Changed():
            return "changed" if told.changed else "repeated"
        case (_, _, state, _):
            return f"already {state}"
        case bool() | None | TaskState():
            return str(told).lower()
        case int():
            return "extended"
        case type():
            return told.__name__
    raise AssertionError(told)


async def _reply(store: Store, command: Command) -> Any:
    return await store.link.send(command)


@pytest.fixture
def seen() -> Counter[str]:
    """What happened in all examples together, and how often."""
    return Counter()


@contextmanager
def machines(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, seen: Counter[str]
) -> Iterator[Callable[[], TaskMachine]]:
    """Makes machines that share a connection."""
    run_on_test_clock(monkeypatch)
    source = scripts.CLAIM_TASKS.source.replace(scripts.with_literals(FORGETS_STARTS), "")
    assert source != scripts.CLAIM_TASKS.source
    monkeypatch.setattr(scripts.CLAIM_TASKS, "source", source)
    monkeypatch.setattr(scripts.CLAIM_TASKS, "digest", hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    monkeypatch.setattr(transitions, "EVENT_BYTES_KEPT", MOST_EVENT_BYTES)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        store = runner.run(stack.enter_async_context(open_store(redis_url)))
        try:
            with store.ear() as ear:
                yield lambda: TaskMachine(store, ear, runner, seen)
        finally:
            store.raw.config_set("maxmemory", "0")
            runner.run(stack.aclose())


def test_any_course_of_events_is_as_in_the_model(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, seen: Counter[str]
) -> None:
    with machines(redis_url, monkeypatch, seen) as make:
        if settings.get_current_profile_name() == "long":
            run_state_machine_as_test(make, settings=settings())  # type: ignore[arg-type]
        else:
            search_in_rounds(make, seen)
    assert seen.keys() >= TO_BE_SEEN


def search_in_rounds(make: Callable[[], TaskMachine], seen: Counter[str]) -> None:
    """The same examples each time, and as many as the rarest event needs."""
    for number in range(MOST_ROUNDS):
        run_state_machine_as_test(seed(number)(make), settings=QUICK)  # type: ignore[arg-type]
        if seen.keys() >= TO_BE_SEEN:
            return


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(redis_url: str, monkeypatch: pytest.MonkeyPatch, seen: Counter[str], defect: str) -> None:
    script, right, wrong = DEFECTS[defect]
    right, wrong = scripts.with_literals(right), scripts.with_literals(wrong)
    assert script.source.count(right) == 1
    monkeypatch.setattr(script, "source", script.source.replace(right, wrong))
    search = settings(QUICK, max_examples=2_000, phases=[Phase.generate])
    with machines(redis_url, monkeypatch, seen) as make, pytest.raises(AssertionError):
        run_state_machine_as_test(seed(DEFECT_SEED)(make), settings=search)  # type: ignore[arg-type]
