"""sweep_delayed.lua on a real server."""

from __future__ import annotations

import asyncio

from broker import naming
from broker.store.housekeeping import SWEEP_BATCH
from tests.support.store import Store, failed


async def until_due(store: Store, uuid: str = "t") -> None:
    await store.until_over(int(store.record(uuid)["due"]))


async def test_a_task_that_is_not_due_stays(store: Store) -> None:
    await store.create(delay_ms=60_000)
    assert await store.housekeeping.sweep_delayed() == 0
    assert store.indexes() == {"delayed", "expiring"}


async def test_a_due_task_becomes_claimable_and_rings(store: Store) -> None:
    await store.create(delay_ms=5)
    before = store.record()
    await until_due(store)
    with store.ear() as ear:
        assert await store.housekeeping.sweep_delayed() == 1
        assert ear.messages() == [("q-request-t", '{"uuid":"t","queue":"q","attempt":0}')]
    del before["due"]
    assert store.record() == before
    assert store.indexes() == {"pending", "expiring"}
    assert await store.housekeeping.sweep_delayed() == 0


async def test_a_due_retry_rings_with_its_attempts(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.retry("t", claimed.lease, failed(), 5)
    await until_due(store)
    with store.ear() as ear:
        await store.housekeeping.sweep_delayed()
        assert ear.messages() == [("q-request-t", '{"uuid":"t","queue":"q","attempt":1}')]
    assert (await store.claim_one()).attempt == 2


async def test_due_tasks_take_the_place_of_their_age(store: Store) -> None:
    await store.create("c", delay_ms=5)
    await store.create("b", delay_ms=1, priority=3)
    await store.create("a")
    await until_due(store, "c")
    await store.housekeeping.sweep_delayed()
    assert store.pending() == ["b", "c", "a"]


async def test_leftovers_in_the_index_go(store: Store) -> None:
    await store.created_and_claimed("running")
    store.raw.zadd(naming.delayed_key(), {"gone": 1, "running": 1})
    with store.ear() as ear:
        assert await store.housekeeping.sweep_delayed() == 2
        assert ear.messages() == []
    assert store.raw.zcard(naming.delayed_key()) == 0
    assert store.record("running")["state"] == "running"
    assert store.pending() == []


async def test_a_sweep_handles_a_batch(store: Store) -> None:
    count = SWEEP_BATCH + 3
    await asyncio.gather(*[store.create(f"t{number}", delay_ms=1) for number in range(count)])
    await until_due(store, f"t{count - 1}")
    assert await store.housekeeping.sweep_delayed() == SWEEP_BATCH
    assert await store.housekeeping.sweep_delayed() == 3
    assert len(store.pending()) == count


async def test_a_full_server_still_sweeps(store: Store) -> None:
    await store.create(delay_ms=1)
    await until_due(store)
    with store.full():
        assert await store.housekeeping.sweep_delayed() == 1
    assert store.pending() == ["t"]
