"""requeue_task.lua on a real server: failed attempts, and tasks given back."""

from __future__ import annotations

import json

import pytest

from broker import naming
from broker.errors import LeaseLostError, TaskAlreadyFinalError, TaskNotFoundError
from broker.task import TaskState
from tests.support.store import Store, answered, cancelled, failed

OUTAGE = failed(b'{"code":"outage","details":[1.0]}')


async def test_a_failed_attempt_is_retried_later(store: Store) -> None:
    claimed = await store.created_and_claimed(attempts=2)
    before = store.record()
    with store.ear() as ear:
        assert await store.transitions.retry("t", claimed.lease, OUTAGE, 60_000)
        assert ear.messages() == []
    record = store.record()
    for gone in ("lease", "worker", "started"):
        del before[gone]
    assert record == {**before, "state": "pending", "attempt": "1", "due": record["due"]}
    assert store.indexes() == {"delayed", "expiring"}
    assert store.score(naming.delayed_key()) == int(record["due"]) >= claimed.created_ms + 60_000
    assert store.values()["last_error"] == OUTAGE.error.decode()


async def test_a_failed_attempt_is_retried_at_once(store: Store) -> None:
    claimed = await store.created_and_claimed()
    with store.ear() as ear:
        assert await store.transitions.retry("t", claimed.lease, OUTAGE, 0)
        assert ear.messages() == [("q-request-t", '{"uuid":"t","queue":"q","attempt":1}')]
    assert store.indexes() == {"pending", "expiring"}


async def test_the_last_error_of_a_retried_task_is_not_its_outcome(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.retry("t", claimed.lease, OUTAGE, 0)
    document = await store.document()
    assert "error" not in document
    assert "started_at" not in document


async def test_the_last_attempt_keeps_its_own_code(store: Store) -> None:
    claimed = await store.created_and_claimed(attempts=1)
    with store.ear() as ear:
        assert not await store.transitions.retry("t", claimed.lease, OUTAGE, 60_000)
        ((channel, text),) = ear.messages()
    assert channel == "q-response-t"
    assert json.loads(text)["error"] == {"code": "outage", "details": [1.0]}
    assert (await store.document())["state"] == "failed"
    assert store.indexes() == {"retained", "ended"}


async def test_what_the_last_attempt_reported_may_be_reported_again(store: Store) -> None:
    claimed = await store.created_and_claimed(attempts=1)
    await store.transitions.retry("t", claimed.lease, OUTAGE, 0)
    assert not (await store.transitions.finish("t", OUTAGE)).changed


@pytest.mark.parametrize("delay_ms", [0, 60_000])
async def test_a_task_given_back_does_not_count(store: Store, delay_ms: int) -> None:
    claimed = await store.created_and_claimed(attempts=1)
    with store.ear() as ear:
        await store.transitions.give_back("t", claimed.lease, delay_ms)
        bells = [text for _, text in ear.messages()]
    assert bells == ([] if delay_ms else ['{"uuid":"t","queue":"q","attempt":0}'])
    assert store.record()["attempt"] == "0"
    assert store.indexes() == {"delayed" if delay_ms else "pending", "expiring"}
    assert "last_error" not in store.values()


async def test_a_task_can_be_given_back_for_ever(store: Store) -> None:
    await store.create(max_attempts=1)
    for _ in range(5):
        claimed = await store.claim_one()
        assert claimed.attempt == 1
        await store.transitions.give_back("t", claimed.lease)


async def test_progress_outlives_a_retry(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.extend("t", claimed.lease, 1_000, b"50")
    await store.transitions.retry("t", claimed.lease, OUTAGE, 0)
    assert (await store.document())["progress"] == 50


async def test_a_delayed_retry_can_be_ended_by_a_third_party(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.retry("t", claimed.lease, OUTAGE, 60_000)
    await store.transitions.finish("t", cancelled())
    assert store.indexes() == {"retained", "ended"}
    assert "due" not in store.record()


async def test_a_wrong_lease_returns_nothing(store: Store) -> None:
    old = await store.created_and_claimed()
    await store.transitions.give_back("t", old.lease)
    await store.claim_one()
    before = store.record()
    with pytest.raises(LeaseLostError):
        await store.transitions.give_back("t", old.lease)
    with pytest.raises(LeaseLostError):
        await store.transitions.retry("t", old.lease, OUTAGE, 0)
    assert store.record() == before


async def test_a_task_that_somebody_ended_meanwhile(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.finish("t", cancelled())
    with pytest.raises(TaskAlreadyFinalError) as refused:
        await store.transitions.retry("t", claimed.lease, OUTAGE, 0)
    assert refused.value.state is TaskState.CANCELLED
    assert json.loads(refused.value.document)["state"] == "cancelled"


async def test_a_task_whose_time_is_over_expires_instead(store: Store) -> None:
    claimed = await store.created_and_claimed(expires_ms=50)
    await store.until_expired()
    with store.ear() as ear:
        with pytest.raises(TaskAlreadyFinalError) as refused:
            await store.transitions.give_back("t", claimed.lease)
        (message,) = answered(ear.messages())
    assert refused.value.state is TaskState.EXPIRED
    assert message["state"] == "expired"
    assert store.indexes() == {"retained", "ended"}


async def test_an_unknown_task(store: Store) -> None:
    with pytest.raises(TaskNotFoundError):
        await store.transitions.give_back("t", "1.x")


async def test_a_full_server_still_takes_tasks_back(store: Store) -> None:
    claimed = await store.created_and_claimed()
    with store.full():
        await store.transitions.retry("t", claimed.lease, OUTAGE, 60_000)
    assert store.indexes() == {"delayed", "expiring"}
