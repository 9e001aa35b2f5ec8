"""requeue_task.lua on a real server: failed attempts, and tasks given back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from broker import naming
from broker.errors import LeaseLostError, TaskAlreadyFinalError, TaskNotFoundError
from broker.requests import Release
from broker.store.claims import Claimed
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


# Releases, which are answered with the task JSON


def release(claimed: Claimed, **fields: Any) -> Release:
    return Release(uuid=claimed.uuid, lease=claimed.lease, **fields)


async def test_a_release_tells_what_became_of_the_task(store: Store) -> None:
    claimed = await store.created_and_claimed(attempts=1)
    given_back = await store.transitions.release(release(claimed))
    assert (given_back.changed, given_back.state) == (True, TaskState.PENDING)
    assert given_back.document == (await store.queries.read("t")).document
    failed_now = await store.transitions.release(
        release(await store.claim_one(max_attempts=1), has_failed=True, error=OUTAGE.error)
    )
    assert (failed_now.changed, failed_now.state) == (True, TaskState.FAILED)
    assert failed_now.document == (await store.queries.read("t")).document


async def test_a_release_that_ended_the_task_may_be_repeated(store: Store) -> None:
    failing = release(await store.created_and_claimed(attempts=1), has_failed=True, error=OUTAGE.error)
    first = await store.transitions.release(failing)
    again = await store.transitions.release(failing)
    assert (again.changed, again.document) == (False, first.document)
    for other in (b'{"code":"other"}', b""):
        with pytest.raises(TaskAlreadyFinalError):
            await store.transitions.release(msgspec.structs.replace(failing, error=other, has_failed=bool(other)))


@pytest.mark.parametrize(
    ("attempts", "longest_ms", "delay_ms"), [(1, 60_000, 1_000), (3, 60_000, 4_000), (3, 3_000, 3_000)]
)
async def test_a_delay_that_doubles(store: Store, attempts: int, longest_ms: int, delay_ms: int) -> None:
    claimed = await store.created_and_claimed(attempts=9)
    for _ in range(attempts - 1):
        await store.transitions.retry("t", claimed.lease, OUTAGE, 0)
        claimed = await store.claim_one()
    before = store.now_ms()
    await store.transitions.release(
        release(claimed, has_failed=True, error=OUTAGE.error, delay_ms=1_000, longest_delay_ms=longest_ms)
    )
    assert before + delay_ms <= store.score(naming.delayed_key()) <= store.now_ms() + delay_ms


async def test_a_release_to_a_third_party(store: Store) -> None:
    claimed = await store.created_and_claimed()
    deferred = await store.transitions.release(release(claimed, defers=True))
    assert (deferred.state, store.numbers()) == (TaskState.RUNNING, {"deferred": 1})
    assert deferred.document == (await store.queries.read("t")).document
    with pytest.raises(LeaseLostError):
        await store.transitions.release(release(claimed, defers=True))
    with pytest.raises(TaskNotFoundError):
        await store.transitions.release(Release(uuid="unknown", lease=claimed.lease))
