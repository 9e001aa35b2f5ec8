"""sweep_leases.lua on a real server."""

from __future__ import annotations

import asyncio
import json

import pytest

from broker import naming
from broker.errors import LeaseLostError, TaskAlreadyFinalError
from broker.store.housekeeping import SWEEP_BATCH
from tests.support.store import WORKER, Store, answered, failed, rung, succeeded


async def test_a_lease_that_holds_is_left_alone(store: Store) -> None:
    await store.created_and_claimed()
    before = store.record()
    assert await store.housekeeping.sweep_leases() == 0
    assert store.record() == before


async def test_a_lost_lease_makes_the_task_claimable_again(store: Store) -> None:
    claimed = await store.created_and_claimed(lease_ms=1)
    before = store.record()
    await store.until_over(claimed.lease_end_ms)
    with store.ear() as ear:
        assert await store.housekeeping.sweep_leases() == 1
        assert ear.messages() == [("q-request-t", '{"uuid":"t","queue":"q","attempt":1}')]
    for gone in ("lease", "worker", "started"):
        del before[gone]
    assert store.record() == {**before, "state": "pending"}
    assert store.indexes() == {"pending", "expiring"}


async def test_the_next_claim_is_the_next_attempt_with_another_lease(store: Store) -> None:
    first = await store.created_and_claimed(lease_ms=1)
    await store.until_over(first.lease_end_ms)
    await store.housekeeping.sweep_leases()
    second = await store.claim_one()
    assert second.attempt == 2
    with pytest.raises(LeaseLostError):
        await store.transitions.finish("t", succeeded(), lease=first.lease)
    assert (await store.transitions.finish("t", succeeded(), lease=second.lease)).changed


async def test_a_requeued_task_keeps_its_place(store: Store) -> None:
    claimed = await store.created_and_claimed("b", lease_ms=1)
    await store.create("a")
    await store.create("urgent", priority=1)
    await store.until_over(claimed.lease_end_ms)
    await store.housekeeping.sweep_leases()
    assert store.pending() == ["urgent", "b", "a"]


async def exhausted(store: Store) -> dict[str, object]:
    """Loses the lease of the last attempt and gives what was announced."""
    claimed = await store.claim_one(lease_ms=1, max_attempts=1)
    await store.until_over(claimed.lease_end_ms)
    with store.ear() as ear:
        assert await store.housekeeping.sweep_leases() == 1
        messages = ear.messages()
    assert rung(messages) == []
    # The worker, should it be alive, is told to stop.
    assert (naming.worker_channel(WORKER), "t") in messages
    (message,) = answered(messages)
    return message


async def test_no_attempt_left(store: Store) -> None:
    await store.create()
    message = await exhausted(store)
    error = message["error"]
    assert isinstance(error, dict)
    assert (message["state"], error["code"]) == ("failed", "attempts-exhausted")
    assert "details" not in error
    assert (await store.document())["error"] == error
    assert store.indexes() == {"retained", "ended"}


async def test_no_attempt_left_after_an_error(store: Store) -> None:
    await store.create(max_attempts=2)
    last_error = b'{"code":"outage","details":[1.0,{}]}'
    await store.transitions.retry("t", (await store.claim_one()).lease, failed(last_error), 0)
    error = (await exhausted(store))["error"]
    assert isinstance(error, dict)
    assert error["code"] == "attempts-exhausted"
    assert error["details"] == json.loads(last_error)
    assert last_error in (await store.queries.read("t")).document


async def test_an_exhausted_task_has_ended_for_third_parties(store: Store) -> None:
    await store.create()
    await exhausted(store)
    with pytest.raises(TaskAlreadyFinalError):
        await store.transitions.finish("t", failed())


async def test_a_task_whose_time_is_over_expires_rather_than_runs_again(store: Store) -> None:
    claimed = await store.created_and_claimed(lease_ms=1, expires_ms=50)
    await store.until_over(claimed.expires_ms)
    with store.ear() as ear:
        assert await store.housekeeping.sweep_leases() == 1
        (message,) = answered(ear.messages())
    assert message["state"] == "expired"
    assert store.indexes() == {"retained", "ended"}


async def test_leftovers_in_the_index_go(store: Store) -> None:
    await store.create("pending")
    store.raw.zadd(naming.leases_key(), {"gone": 1, "pending": 1})
    assert await store.housekeeping.sweep_leases() == 2
    assert store.raw.zcard(naming.leases_key()) == 0
    assert store.record("pending")["state"] == "pending"
    assert store.indexes("pending") == {"pending", "expiring"}


async def test_a_sweep_handles_a_batch(store: Store) -> None:
    count = SWEEP_BATCH + 3
    await asyncio.gather(*[store.create(f"t{number}") for number in range(count)])
    claimed = await store.claim(count, lease_ms=1)
    await store.until_over(claimed[-1].lease_end_ms)
    assert await store.housekeeping.sweep_leases() == SWEEP_BATCH
    assert await store.housekeeping.sweep_leases() == 3
    assert len(store.pending()) == count


async def test_a_full_server_still_sweeps(store: Store) -> None:
    claimed = await store.created_and_claimed(lease_ms=1)
    await store.until_over(claimed.lease_end_ms)
    with store.full():
        assert await store.housekeeping.sweep_leases() == 1
    assert store.pending() == ["t"]
