"""defer_task.lua on a real server."""

from __future__ import annotations

import json

import pytest

from broker import naming
from broker.errors import LeaseLostError, TaskAlreadyFinalError, TaskNotFoundError
from broker.store import scripts
from broker.store.codes import Code
from broker.task import TaskState
from tests.support.store import Store, cancelled, succeeded


async def test_a_deferred_task_runs_without_a_lease(store: Store) -> None:
    claimed = await store.created_and_claimed()
    before = store.record()
    with store.ear() as ear:
        await store.transitions.defer("t", claimed.lease)
        assert ear.messages() == []
    del before["lease"], before["worker"]
    assert store.record() == before
    assert store.record()["state"] == "running"
    assert store.indexes() == {"expiring"}


async def test_the_reply_carries_the_document_where_it_is_wanted(store: Store) -> None:
    claimed = await store.created_and_claimed()
    command = scripts.DEFER_TASK.command(naming.tasks_key(), "t", claimed.lease, "1", repeatable=False)
    code, state, document = await store.link.send(command)
    assert (code, state) == (Code.DEFERRED, b"running")
    assert document == (await store.queries.read("t")).document


async def test_a_deferred_task_is_not_swept(store: Store) -> None:
    claimed = await store.created_and_claimed(lease_ms=1)
    await store.until_over(claimed.lease_end_ms)
    await store.transitions.defer("t", claimed.lease)
    assert await store.housekeeping.sweep_leases() == 0
    assert store.record()["state"] == "running"


async def test_a_deferred_task_expires(store: Store) -> None:
    claimed = await store.created_and_claimed(expires_ms=80)
    await store.transitions.defer("t", claimed.lease)
    await store.until_expired()
    assert await store.housekeeping.sweep_expired() == 1
    assert (await store.document())["state"] == "expired"
    assert store.indexes() == {"retained", "ended"}


async def test_a_deferred_task_can_be_finished_by_a_third_party_alone(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.defer("t", claimed.lease)
    with pytest.raises(LeaseLostError):
        await store.transitions.finish("t", succeeded(), lease=claimed.lease)
    assert (await store.transitions.finish("t", succeeded())).changed


@pytest.mark.parametrize("lease", ["0.guess", "x"])
async def test_a_wrong_lease(store: Store, lease: str) -> None:
    await store.created_and_claimed()
    with pytest.raises(LeaseLostError):
        await store.transitions.defer("t", lease)
    assert store.indexes() == {"leases", "expiring"}


async def test_a_pending_task_cannot_be_deferred(store: Store) -> None:
    await store.create()
    with pytest.raises(LeaseLostError):
        await store.transitions.defer("t", "1.x")


async def test_a_task_that_somebody_ended_meanwhile(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.finish("t", cancelled())
    with pytest.raises(TaskAlreadyFinalError) as refused:
        await store.transitions.defer("t", claimed.lease)
    assert refused.value.state is TaskState.CANCELLED
    assert json.loads(refused.value.document)["state"] == "cancelled"


async def test_a_task_whose_time_is_over_expires_instead(store: Store) -> None:
    claimed = await store.created_and_claimed(expires_ms=50)
    await store.until_expired()
    with pytest.raises(TaskAlreadyFinalError) as refused:
        await store.transitions.defer("t", claimed.lease)
    assert refused.value.state is TaskState.EXPIRED


async def test_an_unknown_task(store: Store) -> None:
    with pytest.raises(TaskNotFoundError):
        await store.transitions.defer("t", "1.x")


async def test_a_full_server_still_defers(store: Store) -> None:
    claimed = await store.created_and_claimed()
    with store.full():
        await store.transitions.defer("t", claimed.lease)
    assert store.indexes() == {"expiring"}


async def test_a_deadline_of_its_own(store: Store) -> None:
    claimed = await store.created_and_claimed()
    before = store.now_ms()
    await store.transitions.defer("t", claimed.lease, expires_ms=50)
    expires = int(store.record()["expires"])
    assert before + 50 <= expires <= store.now_ms() + 50
    assert store.score(naming.expiring_key()) == expires
    await store.until_expired()
    assert await store.housekeeping.sweep_expired() == 1
    assert (await store.document())["state"] == "expired"
    assert store.numbers() == {}


async def test_a_deadline_beyond_the_tasks_own_changes_nothing(store: Store) -> None:
    claimed = await store.created_and_claimed(expires_ms=60_000)
    await store.transitions.defer("t", claimed.lease, expires_ms=60_001)
    assert int(store.record()["expires"]) == claimed.expires_ms == store.score(naming.expiring_key())
