"""sweep_deadlines.lua on a real server: expiry of open tasks, retention of ended ones."""

from __future__ import annotations

import asyncio

import pytest

from broker import naming
from broker.errors import TaskNotFoundError
from broker.store.transitions import SWEEP_BATCH
from tests.support.store import WORKER, Store, answered, failed, succeeded


async def until_retention_is_over(store: Store, uuid: str = "t") -> None:
    await store.until_over(store.score(naming.deadlines_key(), uuid))


async def test_what_is_not_over_stays(store: Store) -> None:
    await store.create("open")
    await store.create("ended")
    await store.transitions.finish("ended", succeeded())
    assert await store.transitions.sweep_deadlines() == 0


@pytest.mark.parametrize("fields", [{}, {"delay_ms": 60_000}])
async def test_a_pending_task_expires(store: Store, fields: dict[str, int]) -> None:
    created = await store.create(expires_ms=1, retention_ms=5_000, **fields)
    await store.until_expired()
    with store.ear() as ear:
        assert await store.transitions.sweep_deadlines() == 1
        ((channel, _),) = messages = ear.messages()
    (message,) = answered(messages)
    assert channel == "q-response-t"
    assert (message["state"], message["seal"]) == ("expired", created.seal)
    assert store.indexes() == {"deadlines", "finished"}
    record = store.record()
    assert store.score(naming.deadlines_key()) == int(record["finished"]) + 5_000
    assert store.finished_bytes() == int(record["kept"])


async def test_a_running_task_expires_and_its_worker_is_told(store: Store) -> None:
    claimed = await store.created_and_claimed(expires_ms=80)
    await store.until_over(claimed.expires_ms)
    with store.ear() as ear:
        await store.transitions.sweep_deadlines()
        assert {channel for channel, _ in ear.messages()} == {"q-response-t", naming.worker_channel(WORKER)}
    assert store.indexes() == {"deadlines", "finished"}


async def test_nothing_is_left_after_retention(store: Store) -> None:
    claimed = await store.created_and_claimed(payload=b"[1]", retention_ms=0, idempotency="k")
    await store.transitions.retry("t", claimed.lease, failed(), 0)
    claimed = await store.claim_one()
    await store.transitions.extend("t", claimed.lease, 1_000, b"50")
    await store.transitions.finish("t", succeeded(b"[2]"), lease=claimed.lease)
    await until_retention_is_over(store)
    with store.ear() as ear:
        assert await store.transitions.sweep_deadlines() == 1
        assert ear.messages() == []
    assert store.remaining() == set()
    assert store.finished_bytes() == 0
    with pytest.raises(TaskNotFoundError):
        await store.queries.read("t")


async def test_expiry_then_retention_leave_nothing(store: Store) -> None:
    await store.create(payload=b"[1]", expires_ms=1, retention_ms=1, idempotency="k", delay_ms=60_000)
    await store.until_expired()
    await store.transitions.sweep_deadlines()
    await until_retention_is_over(store)
    await store.transitions.sweep_deadlines()
    assert store.remaining() == set()
    assert store.finished_bytes() == 0


async def test_a_forgotten_uuid_and_key_may_be_used_again(store: Store) -> None:
    await store.create(retention_ms=0, idempotency="k", payload=b"1")
    await store.transitions.finish("t", succeeded())
    await until_retention_is_over(store)
    await store.transitions.sweep_deadlines()
    assert (await store.create(idempotency="k", payload=b"2")).is_new


async def test_a_key_that_stands_for_another_task_by_now_stays(store: Store) -> None:
    await store.create(retention_ms=0, idempotency="k")
    await store.transitions.finish("t", succeeded())
    store.raw.set(naming.idempotency_key("k"), "newer")
    await until_retention_is_over(store)
    await store.transitions.sweep_deadlines()
    assert store.remaining() == {naming.idempotency_key("k")}


async def test_leftovers_in_the_index_go(store: Store) -> None:
    store.raw.zadd(naming.deadlines_key(), {"gone": 1})
    assert await store.transitions.sweep_deadlines() == 1
    assert store.remaining() == set()
    assert store.finished_bytes() == 0


async def test_a_sweep_handles_a_batch(store: Store) -> None:
    count = SWEEP_BATCH + 3
    await asyncio.gather(*[store.create(f"t{number}", expires_ms=1) for number in range(count)])
    await store.until_expired(f"t{count - 1}")
    assert await store.transitions.sweep_deadlines() == SWEEP_BATCH
    assert await store.transitions.sweep_deadlines() == 3
    assert store.pending() == []


async def test_a_full_server_still_sweeps(store: Store) -> None:
    await store.create(expires_ms=1, retention_ms=0)
    await store.until_expired()
    with store.full():
        assert await store.transitions.sweep_deadlines() == 1
        await until_retention_is_over(store)
        assert await store.transitions.sweep_deadlines() == 1
    assert store.remaining() == set()
