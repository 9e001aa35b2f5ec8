"""extend_lease.lua on a real server."""

from __future__ import annotations

import pytest

from broker import naming
from broker.errors import LeaseLostError, TaskNotFoundError
from broker.task import TaskState
from tests.support.store import LONG_MS, Store, cancelled


async def test_the_lease_ends_later(store: Store) -> None:
    claimed = await store.created_and_claimed(lease_ms=1_000)
    before = store.record()
    end = await store.transitions.extend("t", claimed.lease, LONG_MS)
    assert isinstance(end, int)
    assert end >= claimed.created_ms + LONG_MS
    assert store.score(naming.leases_key()) == end
    assert store.record() == before
    assert store.values() == {}


async def test_progress_is_stored_as_it_came(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.extend("t", claimed.lease, LONG_MS, b'{"percent" : 50.0}')
    assert store.values() == {"progress": '{"percent" : 50.0}'}
    assert b'"progress":{"percent" : 50.0}' in (await store.queries.read("t")).document


async def test_a_renewal_without_progress_keeps_the_last(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.extend("t", claimed.lease, LONG_MS, b"1")
    await store.transitions.extend("t", claimed.lease, LONG_MS)
    assert store.values() == {"progress": "1"}


async def test_somebody_else_ended_the_task(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.finish("t", cancelled())
    assert await store.transitions.extend("t", claimed.lease, LONG_MS, b"1") is TaskState.CANCELLED
    assert store.values() == {}
    assert store.indexes() == {"retained", "ended"}


@pytest.mark.parametrize("lease", ["0.guess", "x"])
async def test_a_wrong_lease(store: Store, lease: str) -> None:
    claimed = await store.created_and_claimed()
    with pytest.raises(LeaseLostError):
        await store.transitions.extend("t", lease, LONG_MS * 2, b"1")
    assert store.score(naming.leases_key()) == claimed.lease_end_ms
    assert store.values() == {}


async def test_a_replaced_lease(store: Store) -> None:
    old = await store.created_and_claimed()
    await store.transitions.give_back("t", old.lease)
    with pytest.raises(LeaseLostError):
        await store.transitions.extend("t", old.lease, LONG_MS)
    await store.claim_one()
    with pytest.raises(LeaseLostError):
        await store.transitions.extend("t", old.lease, LONG_MS)


async def test_a_deferred_task_has_no_lease_to_renew(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.defer("t", claimed.lease)
    with pytest.raises(LeaseLostError):
        await store.transitions.extend("t", claimed.lease, LONG_MS)
    assert store.indexes() == {"expiring"}


async def test_a_pending_task_has_no_lease_to_renew(store: Store) -> None:
    await store.create()
    with pytest.raises(LeaseLostError):
        await store.transitions.extend("t", "1.x", LONG_MS)


async def test_a_lease_that_ran_out_unswept_still_holds(store: Store) -> None:
    claimed = await store.created_and_claimed(lease_ms=1)
    await store.until_over(claimed.lease_end_ms)
    end = await store.transitions.extend("t", claimed.lease, LONG_MS)
    assert isinstance(end, int)
    assert end > claimed.lease_end_ms


async def test_no_renewal_outlives_the_tasks_own_time(store: Store) -> None:
    claimed = await store.created_and_claimed(expires_ms=50)
    await store.until_expired()
    await store.transitions.extend("t", claimed.lease, LONG_MS)
    assert await store.housekeeping.sweep_expired() == 1
    assert await store.transitions.extend("t", claimed.lease, LONG_MS) is TaskState.EXPIRED


async def test_an_unknown_task(store: Store) -> None:
    with pytest.raises(TaskNotFoundError):
        await store.transitions.extend("t", "1.x", LONG_MS)
    assert store.remaining() == set()


async def test_a_full_server_still_renews(store: Store) -> None:
    claimed = await store.created_and_claimed()
    with store.full():
        await store.transitions.extend("t", claimed.lease, LONG_MS)
