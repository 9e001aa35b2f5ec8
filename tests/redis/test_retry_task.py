"""retry_task.lua on a real server: a new task of one that failed or expired."""

from __future__ import annotations

import json

import pytest

from broker import naming
from broker.errors import (
    QueueFullError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskConflictError,
    TaskNotFoundError,
)
from broker.task import TaskState
from tests.support.store import LONG_MS, Store, cancelled, failed, rung, succeeded

SHORT = b"[1.0, {}]"
LONG = b'"' + b"x" * 50_000 + b'"'


async def test_a_failed_task_becomes_a_new_one(store: Store) -> None:
    await store.create(payload=SHORT, priority=4, max_attempts=7, retention_ms=5_000)
    await store.transitions.finish("t", failed())
    old, before = await store.document(), store.record()
    with store.ear() as ear:
        new = await store.retried()
        assert rung(ear.messages()) == [("q-request-new", '{"uuid":"new","queue":"q","attempt":0}')]

    assert (new.uuid, new.queue, new.state) == ("new", "q", TaskState.PENDING)
    document = json.loads(new.document)
    assert document == await store.document("new")
    assert (document["retry_of"], document["attempt"]) == ("t", 0)
    record = store.record("new")
    for name in ("queue", "priority", "max_attempts", "retention", "fingerprint", "size"):
        assert record[name] == before[name]
    assert int(record["seq"]) > int(before["seq"])
    assert record["seal"] == new.seal != before["seal"]
    assert store.values("new") == {"payload": SHORT.decode()}
    assert (await store.document(), store.record()) == (old, before)


async def test_it_is_a_task_like_any_other(store: Store) -> None:
    await store.create(payload=SHORT)
    await store.transitions.finish("t", failed())
    await store.retried()
    assert store.indexes("new") == {"pending", "expiring"}
    assert store.listed() == ["new", "t"]
    claimed = await store.claim_one()
    assert (claimed.uuid, claimed.payload, claimed.attempt) == ("new", SHORT, 1)
    await store.transitions.finish("new", succeeded(b"[]"), lease=claimed.lease)
    assert (await store.document("new"))["retry_of"] == "t"


@pytest.mark.parametrize("payload", [b"", SHORT, LONG])
async def test_the_payload_comes_along_byte_for_byte(store: Store, payload: bytes) -> None:
    await store.create("o" * 128, payload=payload)
    await store.transitions.finish("o" * 128, failed())
    await store.retried("o" * 128, "n" * 128)
    assert (await store.claim_one()).payload == (payload or None)


@pytest.mark.parametrize("length", [1, 64, 65, 128])
async def test_the_origin_is_told_however_long_it_is(store: Store, length: int) -> None:
    origin = "o" * length
    await store.create(origin)
    await store.transitions.finish(origin, failed())
    assert json.loads((await store.retried(origin)).document)["retry_of"] == origin
    with store.ear() as ear:
        await store.transitions.finish("new", failed(LONG))
        ((_, text),) = ear.messages()
    assert json.loads(text)["retry_of"] == origin
    assert (await store.document("new"))["retry_of"] == origin


async def test_it_has_as_long_to_live_as_the_first_one_had(store: Store) -> None:
    await store.create(expires_ms=50)
    await store.until_expired()
    await store.housekeeping.sweep_expired()
    await store.retried()
    record = store.record("new")
    assert int(record["expires"]) - int(record["created"]) == 50


async def test_a_task_whose_time_is_over_expires_first(store: Store) -> None:
    await store.create(expires_ms=1)
    await store.until_expired()
    await store.retried()
    assert store.record()["state"] == "expired"
    assert store.record("new")["state"] == "pending"


async def test_a_retry_can_be_retried(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", failed())
    await store.retried("t", "second")
    await store.transitions.finish("second", failed())
    await store.retried("second", "third")
    assert (await store.document("third"))["retry_of"] == "second"


# Refused


@pytest.mark.parametrize("claims", [False, True])
async def test_an_open_task_is_a_conflict(store: Store, claims: bool) -> None:
    await store.create()
    if claims:
        await store.claim_one()
    with pytest.raises(TaskConflictError, match="running" if claims else "pending"):
        await store.retried()
    assert store.record("new") == {}


@pytest.mark.parametrize(("outcome", "word"), [(succeeded(b"1"), "succeeded"), (cancelled(), "cancelled")])
async def test_a_task_that_ended_otherwise_is_final(store: Store, outcome: object, word: str) -> None:
    await store.create()
    await store.transitions.finish("t", outcome)  # type: ignore[arg-type]
    with pytest.raises(TaskAlreadyFinalError, match=word) as refused:
        await store.retried()
    assert json.loads(refused.value.document)["state"] == word
    assert store.record("new") == {}


async def test_an_unknown_task(store: Store) -> None:
    with pytest.raises(TaskNotFoundError):
        await store.retried()


async def test_a_full_queue_takes_no_retry(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", failed())
    await store.create("other")
    with pytest.raises(QueueFullError, match="q is full"):
        await store.retried(most_pending=1)
    assert store.record("new") == {}
    await store.retried(most_pending=1, drops_oldest=True)
    assert store.record("other")["state"] == "failed"
    assert store.pending() == ["new"]


async def test_a_full_server_takes_no_retry(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", failed())
    with store.full(), pytest.raises(StoreUnavailableError):
        await store.retried()


# Repeated


async def test_without_a_key_each_call_makes_a_task(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", failed())
    await store.retried("t", "one")
    await store.retried("t", "two")
    assert store.pending() == ["one", "two"]


async def test_with_a_key_a_repeated_call_finds_the_same_task(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", failed())
    first = await store.retried("t", "one", idempotency="k")
    assert await store.retried("t", "two", idempotency="k") == first
    assert store.pending() == ["one"]
    assert store.raw.get(naming.idempotency_key("k")) == "one"


async def test_nothing_is_left_when_both_are_forgotten(store: Store) -> None:
    origin = "o" * 128
    await store.create(origin, payload=LONG, retention_ms=0)
    await store.transitions.finish(origin, failed())
    await store.retried(origin, idempotency="k")
    await store.transitions.finish("new", failed())
    await store.until_retention_is_over("new")
    await store.housekeeping.sweep_retained(LONG_MS, LONG_MS)
    assert store.remaining() == set()
