"""sweep_retained.lua on a real server: retention, and the limits of what is kept."""

from __future__ import annotations

import asyncio

import pytest

from broker import naming
from broker.errors import TaskNotFoundError
from broker.store.housekeeping import SWEEP_BATCH
from tests.support.store import Store, failed, succeeded

NO_LIMIT = 10**12
LONG = b'"' + b"x" * 5_000 + b'"'


async def sweep(store: Store, most_tasks: int = NO_LIMIT, most_bytes: int = NO_LIMIT) -> int:
    return await store.housekeeping.sweep_retained(most_tasks, most_bytes)


async def ended(store: Store, *uuids: str, size: int = 2, **fields: int) -> None:
    """Ends one task after the other, each in a millisecond of its own."""
    for uuid in uuids:
        await store.create(uuid, payload=b"[1]", idempotency=f"key-of-{uuid}", **fields)
        await store.transitions.finish(uuid, succeeded(b'"' + b"x" * (size - 2) + b'"'))
        await store.until_over(int(store.record(uuid)["finished"]) + 1)


# Retention


async def test_a_record_is_kept_until_its_retention_is_over(store: Store) -> None:
    await ended(store, "a")
    assert await sweep(store) == 0
    assert store.record("a")["state"] == "succeeded"


@pytest.mark.parametrize("value", [b"[1]", LONG])
async def test_nothing_is_left_after_retention(store: Store, value: bytes) -> None:
    claimed = await store.created_and_claimed(payload=value, retention_ms=0, idempotency="k")
    await store.transitions.retry("t", claimed.lease, failed(value), 0)
    claimed = await store.claim_one()
    await store.transitions.extend("t", claimed.lease, 1_000, value)
    await store.transitions.finish("t", succeeded(value), lease=claimed.lease)
    await store.until_retention_is_over()
    with store.ear() as ear:
        assert await sweep(store) == 1
        assert ear.messages() == []
    assert store.remaining() == set()
    assert store.retained_bytes() == 0
    with pytest.raises(TaskNotFoundError):
        await store.queries.read("t")


async def test_expiry_then_retention_leave_nothing(store: Store) -> None:
    await store.create(payload=LONG, expires_ms=1, retention_ms=1, idempotency="k", delay_ms=60_000)
    await store.until_expired()
    await store.housekeeping.sweep_expired()
    await store.until_retention_is_over()
    assert await sweep(store) == 1
    assert store.remaining() == set()
    assert store.retained_bytes() == 0


async def test_a_forgotten_uuid_and_key_may_be_used_again(store: Store) -> None:
    await store.create(retention_ms=0, idempotency="k", payload=b"1")
    await store.transitions.finish("t", succeeded())
    await store.until_retention_is_over()
    await sweep(store)
    assert (await store.create(idempotency="k", payload=b"2")).is_new


async def test_a_key_that_stands_for_another_task_by_now_stays(store: Store) -> None:
    await store.create(retention_ms=0, idempotency="k")
    await store.transitions.finish("t", succeeded())
    store.raw.set(naming.idempotency_key("k"), "newer")
    await store.until_retention_is_over()
    await sweep(store)
    assert store.remaining() == {naming.idempotency_key("k")}


# Limits


async def test_what_is_within_the_limits_stays(store: Store) -> None:
    await ended(store, "a", "b")
    assert await sweep(store, most_tasks=2, most_bytes=store.retained_bytes()) == 0


async def test_beyond_the_count_the_oldest_go(store: Store) -> None:
    await ended(store, "a", "b", "c", "d")
    await store.create("open")
    assert await sweep(store, most_tasks=2) == 2
    assert [store.record(uuid) == {} for uuid in ("a", "b", "c", "d", "open")] == [True, True, False, False, False]
    assert store.retained_bytes() == sum(int(store.record(uuid)["kept"]) for uuid in ("c", "d"))


async def test_beyond_the_bytes_the_oldest_go(store: Store) -> None:
    await ended(store, "a", "b", "c", size=10_000)
    assert await sweep(store, most_bytes=25_000) == 1
    assert store.record("a") == {}
    assert store.retained_bytes() <= 25_000


async def test_the_oldest_goes_first_however_long_it_would_be_kept(store: Store) -> None:
    """Retention may differ by task; limits of count and bytes look at age."""
    await ended(store, "old", retention_ms=3_600_000)
    await ended(store, "new", retention_ms=60_000)
    assert await sweep(store, most_tasks=1) == 1
    assert store.record("old") == {}
    assert store.record("new") != {}


async def test_nothing_is_left_of_what_goes(store: Store) -> None:
    await ended(store, "a", "b")
    with store.ear() as ear:
        await sweep(store, most_tasks=0)
        assert ear.messages() == []
    assert store.remaining() == set()
    assert store.retained_bytes() == 0


async def test_open_tasks_are_not_counted(store: Store) -> None:
    for uuid in ("a", "b"):
        await store.create(uuid)
    await store.claim()
    assert await sweep(store, most_tasks=0, most_bytes=0) == 0
    assert store.indexes("b") == {"pending", "expiring"}


async def test_a_wrong_count_of_bytes_heals(store: Store) -> None:
    """A counter that outlived its tasks must not trim for ever."""
    store.raw.set(naming.retained_bytes_key(), 10**9)
    assert await sweep(store, most_bytes=1_000) < SWEEP_BATCH
    assert store.retained_bytes() == 0


async def test_leftovers_in_the_index_go(store: Store) -> None:
    store.raw.zadd(naming.retained_key(), {"gone": 1})
    await sweep(store)
    assert store.remaining() == set()


async def test_an_open_task_in_the_index_is_not_forgotten(store: Store) -> None:
    """Whatever went wrong: an open task is somebody's work."""
    await store.create()
    store.raw.zadd(naming.retained_key(), {"t": 1})
    await sweep(store)
    assert store.record()["state"] == "pending"
    assert store.indexes() == {"pending", "expiring"}


async def test_a_sweep_handles_a_batch(store: Store) -> None:
    count = SWEEP_BATCH + 3
    uuids = [f"t{number}" for number in range(count)]
    await asyncio.gather(*[store.create(uuid) for uuid in uuids])
    await asyncio.gather(*[store.transitions.finish(uuid, succeeded()) for uuid in uuids])
    assert await sweep(store, most_tasks=0) == SWEEP_BATCH
    assert await sweep(store, most_tasks=0) == 3
    assert store.remaining() == set()


async def test_a_full_server_still_forgets(store: Store) -> None:
    await ended(store, "a", retention_ms=0)
    with store.full():
        assert await sweep(store) == 1
    assert store.remaining() == set()
