"""create_tasks.lua on a real server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from broker import naming
from broker.errors import (
    IdempotencyMismatchError,
    QueueFullError,
    StoreError,
    StoreUnavailableError,
    TaskConflictError,
)
from broker.store.creates import Created
from broker.task import TaskState
from tests.support.store import LONG_MS, Store, answered, new_task, rung, succeeded


async def test_the_record_of_a_new_task(store: Store) -> None:
    new = new_task("t", payload=b"[1.0, {}]", priority=4, max_attempts=7, retention_ms=5_000)
    created = await store.transitions.create(new)

    assert (created.uuid, created.is_new, created.seal, created.state) == ("t", True, new.seal, TaskState.PENDING)
    record = store.record()
    at = int(record.pop("created"))
    assert store.now_ms() - 5_000 < at <= store.now_ms()
    assert record == {
        "queue": "q",
        "state": "pending",
        "attempt": "0",
        "priority": "4",
        "seq": "1",
        "expires": str(at + LONG_MS),
        "retention": "5000",
        "seal": new.seal,
        "fingerprint": new.fingerprint,
        "size": "9",
        "max_attempts": "7",
    }
    assert store.values() == {"payload": "[1.0, {}]"}


async def test_the_document_of_a_new_task(store: Store) -> None:
    created = await store.create()
    assert created.document is not None
    assert created.document == (await store.queries.read("t")).document
    assert list(json.loads(created.document)) == ["uuid", "queue", "state", "attempt", "created_at", "expires_at"]


async def test_a_claimable_task_is_indexed_and_rings(store: Store) -> None:
    with store.ear() as ear:
        await store.create("084Tkjfh")
        message = '{"uuid":"084Tkjfh","queue":"q","attempt":0}'
        assert ear.messages() == [("q-request-084Tkjfh", message)]
    assert store.indexes("084Tkjfh") == {"pending", "expiring"}


async def test_a_delayed_task_is_indexed_and_does_not_ring(store: Store) -> None:
    with store.ear() as ear:
        await store.create(delay_ms=60_000)
        assert ear.messages() == []
    assert store.indexes() == {"delayed", "expiring"}
    record = store.record()
    assert int(record["due"]) == int(record["created"]) + 60_000 == store.score(naming.delayed_key())


async def test_an_absent_payload_takes_no_key(store: Store) -> None:
    await store.create()
    assert store.remaining() == {
        naming.tasks_key(),
        naming.pending_key("q"),
        naming.expiring_key(),
        naming.created_key(),
    }


async def test_the_order_is_priority_then_age(store: Store) -> None:
    for uuid, priority in (("e", 0), ("d", 9), ("c", 5), ("b", 9), ("a", 0)):
        await store.create(uuid, priority=priority)
    assert store.pending() == ["d", "b", "c", "e", "a"]


async def test_a_great_sequence_stays_below_a_step_of_priority(store: Store) -> None:
    store.raw.set(naming.sequence_key(), 10**13)
    await store.create("first")
    await store.create("second")
    store.raw.set(naming.sequence_key(), 2 * 10**13)
    await store.create("third")
    await store.create("urgent", priority=1)
    assert store.pending() == ["urgent", "first", "second", "third"]


# Attaching


async def test_a_known_uuid_attaches_and_rings_nobody(store: Store) -> None:
    first = await store.create(payload=b'{"a":1,"b":2}')
    before = store.record()
    with store.ear() as ear:
        second = await store.create(payload=b'{ "b": 2, "a": 1 }', priority=9, delay_ms=5, max_attempts=1)
        assert ear.messages() == []
    assert (second.is_new, second.seal, second.document) == (False, first.seal, first.document)
    assert store.record() == before
    assert store.values() == {"payload": '{"a":1,"b":2}'}


async def test_attaching_to_an_ended_task_gives_its_outcome(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", succeeded(b"[1]"))
    attached = await store.create()
    assert attached.state is TaskState.SUCCEEDED
    assert attached.document == (await store.queries.read("t")).document


@pytest.mark.parametrize("other", [{"queue": "other"}, {"payload": b"2"}])
async def test_another_request_under_the_same_uuid_is_a_conflict(store: Store, other: dict[str, Any]) -> None:
    await store.create(payload=b"1")
    before = store.record()
    with pytest.raises(TaskConflictError):
        await store.create(**{"payload": b"1", **other})
    assert store.record() == before


async def test_absent_and_null_payloads_are_the_same(store: Store) -> None:
    await store.create(payload=b"")
    assert not (await store.create(payload=b"null")).is_new


# Idempotency keys


async def test_a_key_attaches_whatever_uuid_was_made_for_the_call(store: Store) -> None:
    first = await store.create("a", chosen=False, idempotency="k")
    second = await store.create("b", chosen=False, idempotency="k")
    assert (second.uuid, second.is_new, second.seal) == ("a", False, first.seal)
    assert store.record("b") == {}
    assert store.raw.get(naming.idempotency_key("k")) == "a"


@pytest.mark.parametrize("other", [{"queue": "other"}, {"payload": b"2"}])
async def test_another_request_under_the_same_key_is_a_mismatch(store: Store, other: dict[str, Any]) -> None:
    await store.create("a", chosen=False, idempotency="k", payload=b"1")
    with pytest.raises(IdempotencyMismatchError):
        await store.create("b", **{"chosen": False, "idempotency": "k", "payload": b"1", **other})
    assert store.record("b") == {}


async def test_a_key_and_another_tasks_uuid_disagree(store: Store) -> None:
    await store.create("a", idempotency="k")
    await store.create("b")
    for uuid in ("b", "new"):
        with pytest.raises(IdempotencyMismatchError):
            await store.create(uuid, idempotency="k")
    assert store.record("new") == {}


async def test_the_same_key_and_uuid_attach(store: Store) -> None:
    await store.create("a", idempotency="k")
    assert not (await store.create("a", idempotency="k")).is_new


async def test_a_fresh_key_binds_to_a_task_without_one(store: Store) -> None:
    await store.create("a")
    assert not (await store.create("a", idempotency="k")).is_new
    assert (await store.create("b", chosen=False, idempotency="k")).uuid == "a"
    assert store.record("a")["idempotency"] == "k"


async def test_a_second_key_for_the_same_task_is_a_mismatch(store: Store) -> None:
    await store.create("a", idempotency="k")
    with pytest.raises(IdempotencyMismatchError):
        await store.create("a", idempotency="l")
    assert store.raw.get(naming.idempotency_key("l")) is None


async def test_a_key_whose_record_is_gone_stands_for_the_next_task(store: Store) -> None:
    store.raw.set(naming.idempotency_key("k"), "gone")
    assert (await store.create("a", chosen=False, idempotency="k")).is_new
    assert store.raw.get(naming.idempotency_key("k")) == "a"


# A full server


async def test_a_full_server_refuses_new_tasks_and_keeps_nothing_of_them(store: Store) -> None:
    with store.ear() as ear, store.full():
        with pytest.raises(StoreUnavailableError) as refused:
            await store.create(payload=b"1", idempotency="k")
        assert not refused.value.may_have_run
        assert rung(ear.messages()) == []
    assert store.remaining() == set()


# Values, short ones inside the record


@pytest.mark.parametrize("length", [2, 511, 512, 513, 1_000])
async def test_a_value_of_any_length_comes_back(store: Store, length: int) -> None:
    value = b'"' + b"x" * (length - 2) + b'"'
    await store.create(payload=value)
    claimed = await store.claim_one()
    assert claimed.payload == value
    await store.transitions.extend("t", claimed.lease, LONG_MS, value)
    await store.transitions.finish("t", succeeded(value), lease=claimed.lease)
    document = await store.document()
    assert document["result"] == document["progress"] == "x" * (length - 2)


async def test_a_value_may_grow_and_shrink(store: Store) -> None:
    claimed = await store.created_and_claimed()
    for value in (b"1", b'"' + b"x" * 600 + b'"', b"2", b'"' + b"y" * 510 + b'"', b'"' + b"z" * 600 + b'"', b"3"):
        await store.transitions.extend("t", claimed.lease, LONG_MS, value)
        assert b'"progress":' + value + b"," in (await store.queries.read("t")).document


# A full queue


async def test_a_full_queue_refuses_a_task(store: Store) -> None:
    await store.create("a", most_pending=2)
    await store.create("b", most_pending=2)
    with store.ear() as ear:
        with pytest.raises(QueueFullError, match="q is full: at most 2"):
            await store.create("c", most_pending=2)
        assert ear.messages() == []
    assert store.record("c") == {}
    assert store.pending() == ["a", "b"]
    assert store.listed() == ["b", "a"]


async def test_delayed_tasks_take_a_place_and_running_ones_do_not(store: Store) -> None:
    await store.create("delayed", delay_ms=60_000)
    await store.create("running")
    await store.claim_one()
    with pytest.raises(QueueFullError):
        await store.create(most_pending=1)
    await store.create(most_pending=2)


async def test_a_full_queue_is_no_other_queues_matter(store: Store) -> None:
    await store.create("a")
    await store.create("b", queue="other", most_pending=1)


async def test_a_full_queue_still_lets_attach(store: Store) -> None:
    first = await store.create(idempotency="k")
    assert (await store.create(most_pending=1)).seal == first.seal
    assert (await store.create("x", chosen=False, idempotency="k", most_pending=1)).seal == first.seal


async def test_a_returned_task_is_never_refused(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.create("other", most_pending=1)
    await store.transitions.give_back("t", claimed.lease)
    assert store.pending() == ["t", "other"]


async def test_the_oldest_of_the_lowest_priority_is_dropped(store: Store) -> None:
    for uuid, priority in (("high", 9), ("old", 1), ("young", 1)):
        await store.create(uuid, priority=priority)
    with store.ear() as ear:
        await store.create("new", priority=1, most_pending=3, drops_oldest=True)
        messages = ear.messages()
    assert store.pending() == ["high", "young", "new"]
    (told,) = answered(messages, uuid="old")
    assert (told["state"], told["error"]["code"]) == ("failed", "queue-full")
    assert (await store.document("old"))["error"] == told["error"]
    assert store.indexes("old") == {"retained", "ended"}


async def test_no_task_is_dropped_for_one_of_a_lower_priority(store: Store) -> None:
    await store.create("high", priority=5)
    with pytest.raises(QueueFullError):
        await store.create("low", priority=4, most_pending=1, drops_oldest=True)
    await store.create("same", priority=5, most_pending=1, drops_oldest=True)
    assert store.pending() == ["same"]


async def test_delayed_tasks_are_not_dropped(store: Store) -> None:
    await store.create("delayed", delay_ms=60_000)
    with pytest.raises(QueueFullError):
        await store.create("new", most_pending=1, drops_oldest=True)
    assert store.record("delayed")["state"] == "pending"


async def test_an_expired_task_makes_room_as_expired(store: Store) -> None:
    await store.create("over", expires_ms=1)
    await store.until_expired("over")
    await store.create("new", most_pending=1, drops_oldest=True)
    assert store.record("over")["state"] == "expired"


async def test_an_entry_without_a_task_makes_room(store: Store) -> None:
    store.raw.zadd(naming.pending_key("q"), {"nothing": 5e15})
    await store.create("new", most_pending=1, drops_oldest=True)
    assert store.pending() == ["new"]


async def test_a_lowered_limit_is_reached_over_several_creates(store: Store) -> None:
    for number in range(30):
        await store.create(f"t{number:02}")
    await store.create("x", most_pending=5, drops_oldest=True)
    assert len(store.pending()) == 21
    for number in range(5):
        await store.create(f"y{number}", most_pending=5, drops_oldest=True)
    assert store.pending() == [f"y{number}" for number in range(5)]


# Several in one call


async def test_several_in_one_call_are_as_several_calls(store: Store) -> None:
    """Among them one that attaches to its neighbour, one in conflict, and one that a full queue refuses."""
    news = [
        new_task("a"),
        new_task("b", priority=1),
        new_task("a"),
        new_task("a", payload=b"1"),
        new_task("c", most_pending=2),
    ]
    before = store.raw.info("commandstats")["cmdstat_evalsha"]["calls"]
    told = await asyncio.gather(*[store.transitions.create(new) for new in news], return_exceptions=True)
    assert store.raw.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 2  # `most_pending` is another batch
    assert [one.is_new if isinstance(one, Created) else type(one) for one in told] == [
        True,
        True,
        False,
        TaskConflictError,
        QueueFullError,
    ]
    assert store.pending() == ["b", "a"]


async def test_a_damaged_record_harms_no_neighbour(store: Store) -> None:
    store.raw.hset(naming.tasks_key(), "b", "no record")
    told = await asyncio.gather(*[store.transitions.create(new_task(uuid)) for uuid in "abc"], return_exceptions=True)
    assert [type(one) for one in told] == [Created, StoreError, Created]
    assert store.pending() == ["a", "c"]
    assert store.indexes("a") == store.indexes("c") == {"pending", "expiring"}


async def test_a_full_queue_drops_what_its_own_call_has_made(store: Store) -> None:
    news = [new_task(uuid, most_pending=2, drops_oldest=True) for uuid in "abcd"]
    assert all(one.is_new for one in await asyncio.gather(*[store.transitions.create(new) for new in news]))
    assert store.pending() == ["c", "d"]
    for uuid in "ab":
        assert (await store.queries.read(uuid)).state is TaskState.FAILED
        assert store.indexes(uuid) == {"retained", "ended"}
