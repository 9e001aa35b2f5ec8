"""The store as tests see it: the product's scripts over a real link, and raw reads to compare them with.

No waiting here is for a fixed time: the server's clock says when a task is due or over, and a message of our own behind
the others says that all of them were heard.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import redis

from broker import naming, values
from broker.randomness import new_secret
from broker.requests import Completion, NewTask, Retry
from broker.store import scripts
from broker.store.claims import Claimed, ClaimWish
from broker.store.creates import Created
from broker.store.housekeeping import Housekeeping
from broker.store.link import Link
from broker.store.queries import Queries, StoredTask
from broker.store.topology import Topology
from broker.store.transitions import Transitions
from broker.task import TaskState

QUEUE: Final = "q"
WORKER: Final = "w"
LONG_MS: Final = 3_600_000
MOST_BYTES: Final = 262_144
DEADLINE_S: Final = 15.0
POLL_S: Final = 0.005
_FENCE: Final = "test:fence"
_VALUES: Final = ("payload", "result", "error", "progress", "last_error")

READ_FIELDS: Final = f"""
{scripts.fragment("record")}
local last_always = {scripts.RECORD_FIELDS.index("size") + 1}
local names = {{ {", ".join(f"'{name}'" for name in scripts.RECORD_FIELDS)} }}
local function fields_of(uuid)
  local record, flat = read_record(uuid) or {{}}, {{}}
  for i, name in ipairs(names) do
    local value = record[i]
    if value and value ~= '' and (value ~= 0 or i <= last_always) and name ~= 'format' then
      flat[#flat + 1] = name
      flat[#flat + 1] = type(value) == 'number' and string.format('%d', value) or tostring(value)
    end
  end
  return flat
end
"""
"""Lua: fields_of(uuid) is a record as names and texts, those that are absent left out."""
PUT_FIELD: Final = f"""
{scripts.fragment("record")}
local record = read_record(ARGV[3])
record[tonumber(ARGV[1])] = ARGV[2] ~= '' and ARGV[2] or nil
write_record(ARGV[3], record)
write_records()
"""

Message = tuple[str, str]
"""Channel and text."""


async def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Returns as soon as `condition()`, which may be a coroutine function, is true."""
    deadline = time.monotonic() + deadline_s
    while not await _truth(condition):
        if time.monotonic() > deadline:
            raise AssertionError(f"Not within {deadline_s:g} s: {what}")
        await asyncio.sleep(POLL_S)


async def _truth(condition: Callable[[], object]) -> object:
    answer = condition()
    return await answer if inspect.isawaitable(answer) else answer


def new_task(
    uuid: str = "t",
    *,
    queue: str = QUEUE,
    payload: bytes = b"",
    chosen: bool = True,
    priority: int = 0,
    delay_ms: int = 0,
    expires_ms: int = LONG_MS,
    retention_ms: int = LONG_MS,
    max_attempts: int | None = None,
    idempotency: str | None = None,
    most_pending: int = 100_000,
    drops_oldest: bool = False,
) -> NewTask:
    """A task to create, with a fresh seal."""
    return NewTask(
        uuid=uuid,
        uuid_is_chosen=chosen,
        queue=queue,
        payload=payload,
        fingerprint=values.fingerprint(payload, "payload", max_bytes=MOST_BYTES),
        priority=priority,
        delay_ms=delay_ms,
        expires_ms=expires_ms,
        retention_ms=retention_ms,
        max_attempts=max_attempts,
        seal=new_secret(),
        idempotency=idempotency,
        most_pending=most_pending,
        drops_oldest=drops_oldest,
    )


def succeeded(result: bytes = b"") -> Completion:
    """A success with this result."""
    return Completion(state=TaskState.SUCCEEDED, result=result, error=b"")


def failed(error: bytes = b'{"code":"failed"}') -> Completion:
    """A failure with this error."""
    return Completion(state=TaskState.FAILED, result=b"", error=error)


def cancelled() -> Completion:
    """A cancellation."""
    return Completion(state=TaskState.CANCELLED, result=b"", error=b"")


class Ear:
    """Hears channels and patterns from its making on."""

    def __init__(self, raw: redis.Redis, *patterns: str) -> None:
        self._raw = raw
        self._pubsub = raw.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.psubscribe(_FENCE, *patterns)
        self._until_subscribed(1 + len(patterns))

    def messages(self) -> list[Message]:
        """All that were heard since the last call, none missing that was published before this one."""
        # Each fence is another one: a pattern of the test's may match it too, so that it comes twice.
        fence = new_secret()
        self._raw.publish(_FENCE, fence)
        heard: list[Message] = []
        while (message := self._next())["data"] != fence:
            if message["channel"] != _FENCE:
                heard.append((message["channel"], message["data"]))
        return heard

    def close(self) -> None:
        """Leaves."""
        self._pubsub.close()

    def _until_subscribed(self, count: int) -> None:
        for _ in range(count):
            self._next()

    def _next(self) -> dict[str, Any]:
        message: dict[str, Any] | None = self._pubsub.get_message(timeout=DEADLINE_S)
        assert message is not None, "Nothing was heard."
        return message


class Store:
    """A server with the product's scripts, and a raw client beside them."""

    def __init__(self, link: Link, raw: redis.Redis) -> None:
        self.link = link
        self.raw = raw
        self.transitions = Transitions(link)
        self.housekeeping = Housekeeping(link)
        self.queries = Queries(link)

    # Steps that most tests begin with

    async def create(self, uuid: str = "t", **fields: Any) -> Created:
        """Creates a task as `new_task` makes it."""
        return await self.transitions.create(new_task(uuid, **fields))

    async def claim(
        self, most: int = 1, *, queue: str = QUEUE, lease_ms: int = LONG_MS, max_attempts: int = 3
    ) -> list[Claimed]:
        """Claims from one queue."""
        return (await self.transitions.claim(WORKER, lease_ms, [ClaimWish(queue, most, max_attempts)])).tasks

    async def claim_one(self, *, lease_ms: int = LONG_MS, max_attempts: int = 3) -> Claimed:
        """Claims the one task that is there."""
        (claimed,) = await self.claim(lease_ms=lease_ms, max_attempts=max_attempts)
        return claimed

    async def created_and_claimed(
        self, uuid: str = "t", *, lease_ms: int = LONG_MS, attempts: int = 3, **fields: Any
    ) -> Claimed:
        """A task that runs."""
        await self.create(uuid, **fields)
        return await self.claim_one(lease_ms=lease_ms, max_attempts=attempts)

    async def retried(
        self, uuid: str = "t", new_uuid: str = "new", *, idempotency: str | None = None, **limits: Any
    ) -> StoredTask:
        """A new task of an ended one."""
        retry = Retry(uuid=uuid, new_uuid=new_uuid, seal=new_secret(), idempotency=idempotency, **limits)
        return await self.transitions.retry_ended(retry)

    async def document(self, uuid: str = "t") -> dict[str, Any]:
        """The task JSON as it is stored now."""
        return dict(json.loads((await self.queries.read(uuid)).document))

    # What is stored

    def record(self, uuid: str = "t") -> dict[str, str]:
        """The fields of the record that are no values."""
        fields = self._fields(uuid)
        return {name: text for name, text in fields.items() if name not in _VALUES and name != "large"}

    def values(self, uuid: str = "t") -> dict[str, str]:
        """The stored values: short ones are part of the record, which has the last word."""
        fields = self._fields(uuid)
        short = {name: text for name, text in fields.items() if name in _VALUES}
        return {**self._hash(naming.values_key(uuid)), **short}

    def put_field(self, name: str, text: str, uuid: str = "t") -> None:
        """Writes into a record from outside; "" takes a part away that not every task has."""
        place = scripts.RECORD_FIELDS.index(name) + 1
        self.raw.eval(PUT_FIELD, 1, naming.tasks_key(), place, text, uuid)

    def indexes(self, uuid: str = "t", queue: str = QUEUE) -> set[str]:
        """Which indexes hold the task."""
        keys = {
            "pending": naming.pending_key(queue),
            "delayed": naming.delayed_key(),
            "leases": naming.leases_key(),
            "expiring": naming.expiring_key(),
            "retained": naming.retained_key(),
            "ended": naming.ended_key(),
        }
        return {name for name, key in keys.items() if self.raw.zscore(key, uuid) is not None}

    def score(self, key: str, uuid: str = "t") -> int:
        """A task's place in an index."""
        score = self.raw.zscore(key, uuid)
        assert isinstance(score, float)
        return int(score)

    def pending(self, queue: str = QUEUE) -> list[str]:
        """The claimable tasks of a queue, in order."""
        return self.raw.zrange(naming.pending_key(queue), 0, -1)  # type: ignore[return-value]

    def listed(self) -> list[str]:
        """All tasks, newest created first."""
        return self.raw.zrange(naming.created_key(), 0, -1, desc=True)  # type: ignore[return-value]

    def retained_bytes(self) -> int:
        """What the ended tasks are said to take."""
        return int(self.raw.get(naming.retained_bytes_key()) or 0)

    def remaining(self) -> set[str]:
        """Every key but the counters that stay, and what is known of queues."""
        keys: set[str] = set(self.raw.keys("*"))  # type: ignore[arg-type]
        keys -= {naming.sequence_key(), naming.retained_bytes_key(), naming.queues_key()}
        return {key for key in keys if not key.startswith(naming.queue_prefix())}

    def numbers(self, queue: str = QUEUE) -> dict[str, int]:
        """How many tasks of a queue are said to be running, deferred and delayed; those that are none left out."""
        fields = self._hash(naming.queue_key(queue))
        return {name: int(text) for name, text in fields.items() if name != "seen" and text != "0"}

    def _fields(self, uuid: str) -> dict[str, str]:
        flat: Any = self.raw.eval(READ_FIELDS + "return fields_of(ARGV[1])", 1, naming.tasks_key(), uuid)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def _hash(self, key: str) -> dict[str, str]:
        return dict(self.raw.hgetall(key))  # type: ignore[arg-type]

    # Time, which is the server's alone

    def now_ms(self) -> int:
        """The server's clock."""
        seconds, micros = self.raw.time()
        return int(seconds * 1000 + micros // 1000)

    async def until_over(self, moment_ms: int) -> None:
        """Returns once the server's clock has reached a moment."""
        await until(lambda: self.now_ms() >= moment_ms, "the server's clock has reached that moment")

    async def until_expired(self, uuid: str = "t") -> None:
        """Returns once the task's time is over; nothing has been done about it then."""
        await self.until_over(int(self.record(uuid)["expires"]))

    async def until_retention_is_over(self, uuid: str = "t") -> None:
        """Returns once an ended task's record may go."""
        await self.until_over(self.score(naming.retained_key(), uuid))

    # Circumstances

    @contextmanager
    def ear(self, *patterns: str) -> Iterator[Ear]:
        """Hears what is published meanwhile; without patterns, all of it."""
        ear = Ear(self.raw, *(patterns or ("*",)))
        try:
            yield ear
        finally:
            ear.close()

    @contextmanager
    def full(self) -> Iterator[None]:
        """The server has no memory left meanwhile."""
        self.raw.config_set("maxmemory", "1")
        try:
            yield
        finally:
            self.raw.config_set("maxmemory", "0")


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[Store]:
    """Connects to the server at `url`."""
    link = Link(Topology.from_url(url), name="test", scripts=tuple(script.source for script in scripts.ALL))
    await link.open()
    try:
        with redis.Redis.from_url(url, decode_responses=True) as raw:
            yield Store(link, raw)
    finally:
        await link.close()


def answered(messages: list[Message], queue: str = QUEUE, uuid: str = "t") -> list[dict[str, Any]]:
    """The outcomes among the messages that were published for a task."""
    return [json.loads(text) for channel, text in messages if channel == naming.response_channel(queue, uuid)]


def rung(messages: list[Message]) -> list[Message]:
    """The doorbells among the messages."""
    return [(channel, text) for channel, text in messages if naming.REQUEST_INFIX in channel]
