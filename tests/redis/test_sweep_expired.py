"""sweep_expired.lua on a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker import naming
from broker.store.housekeeping import SWEEP_BATCH
from tests.support.store import WORKER, Store, answered, succeeded


async def test_what_is_not_over_stays(store: Store) -> None:
    await store.create()
    before = store.record()
    assert await store.housekeeping.sweep_expired() == 0
    assert store.record() == before


@pytest.mark.parametrize("fields", [{}, {"delay_ms": 60_000}])
async def test_a_pending_task_expires(store: Store, fields: dict[str, Any]) -> None:
    created = await store.create(expires_ms=1, retention_ms=5_000, **fields)
    await store.until_expired()
    with store.ear() as ear:
        assert await store.housekeeping.sweep_expired() == 1
        ((channel, _),) = messages = ear.messages()
    (message,) = answered(messages)
    assert channel == "q-response-t"
    assert (message["state"], message["seal"]) == ("expired", created.seal)
    assert store.indexes() == {"retained", "ended"}
    record = store.record()
    assert store.score(naming.retained_key()) == int(record["finished"]) + 5_000
    assert store.retained_bytes() == int(record["kept"])


async def test_a_running_task_expires_and_its_worker_is_told(store: Store) -> None:
    claimed = await store.created_and_claimed(expires_ms=80)
    await store.until_over(claimed.expires_ms)
    with store.ear() as ear:
        await store.housekeeping.sweep_expired()
        assert {channel for channel, _ in ear.messages()} == {"q-response-t", naming.worker_channel(WORKER)}
    assert store.indexes() == {"retained", "ended"}


async def test_an_ended_task_no_longer_expires(store: Store) -> None:
    await store.create(expires_ms=50)
    await store.transitions.finish("t", succeeded())
    await store.until_expired()
    assert await store.housekeeping.sweep_expired() == 0
    assert store.record()["state"] == "succeeded"


async def test_leftovers_in_the_index_go(store: Store) -> None:
    await store.create("ended")
    await store.transitions.finish("ended", succeeded())
    store.raw.zadd(naming.expiring_key(), {"gone": 1, "ended": 1})
    assert await store.housekeeping.sweep_expired() == 2
    assert store.indexes("ended") == {"retained", "ended"}
    assert store.record("ended")["state"] == "succeeded"


async def test_a_sweep_handles_a_batch(store: Store) -> None:
    count = SWEEP_BATCH + 3
    await asyncio.gather(*[store.create(f"t{number}", expires_ms=1) for number in range(count)])
    await store.until_expired(f"t{count - 1}")
    assert await store.housekeeping.sweep_expired() == SWEEP_BATCH
    assert await store.housekeeping.sweep_expired() == 3
    assert store.pending() == []


async def test_a_full_server_still_sweeps(store: Store) -> None:
    await store.create(expires_ms=1)
    await store.until_expired()
    with store.full():
        assert await store.housekeeping.sweep_expired() == 1
