"""claim_tasks.lua on a real server."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from broker import naming
from broker.store.claims import ClaimWish
from tests.support.store import LONG_MS, WORKER, Store, answered, failed, rung, succeeded

MOST_OF_ONE_CALL = 1_000


async def test_a_claim_gives_the_attempt(store: Store) -> None:
    await store.create(payload=b"[ 1.0,9007199254740993 ]")
    (claimed,) = await store.claim(lease_ms=30_000)
    record = store.record()
    assert (claimed.uuid, claimed.queue, claimed.attempt) == ("t", "q", 1)
    assert claimed.payload == b"[ 1.0,9007199254740993 ]"
    assert claimed.created_ms == int(record["created"])
    assert claimed.expires_ms == int(record["expires"])
    assert claimed.lease_end_ms == int(record["started"]) + 30_000


async def test_a_claim_changes_the_record_and_the_indexes(store: Store) -> None:
    await store.create()
    before = store.record()
    (claimed,) = await store.claim(max_attempts=5)
    assert store.record() == {
        **before,
        "state": "running",
        "attempt": "1",
        "started": str(claimed.lease_end_ms - LONG_MS),
        "lease": claimed.lease,
        "worker": WORKER,
        "max_attempts": "5",
    }
    assert store.indexes() == {"leases", "expiring"}
    assert store.score(naming.leases_key()) == claimed.lease_end_ms


async def test_a_claim_publishes_nothing(store: Store) -> None:
    await store.create()
    with store.ear() as ear:
        await store.claim()
        assert ear.messages() == []


async def test_a_task_without_payload(store: Store) -> None:
    claimed = await store.created_and_claimed()
    assert claimed.payload is None


async def test_the_tasks_own_limit_of_attempts_beats_the_handlers(store: Store) -> None:
    await store.created_and_claimed(max_attempts=9)
    assert store.record()["max_attempts"] == "9"


async def test_highest_priority_first_then_oldest(store: Store) -> None:
    for uuid, priority in (("d", 0), ("c", 9), ("b", 5), ("a", 9)):
        await store.create(uuid, priority=priority)
    assert [task.uuid for task in await store.claim(3)] == ["c", "a", "b"]
    assert [task.uuid for task in await store.claim(3)] == ["d"]
    assert await store.claim(3) == []


async def test_several_queues_in_one_claim(store: Store) -> None:
    for uuid, queue in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "z")):
        await store.create(uuid, queue=queue)
    wishes = [ClaimWish("x", 1, 3), ClaimWish("empty", 5, 3), ClaimWish("y", 5, 4)]
    claimed = (await store.transitions.claim(WORKER, LONG_MS, wishes)).tasks
    assert [(task.uuid, task.queue) for task in claimed] == [("a", "x"), ("c", "y")]
    assert store.record("c")["max_attempts"] == "4"
    assert store.pending("x") == ["b"]
    assert store.pending("z") == ["d"]


async def test_no_task_is_claimed_twice(store: Store) -> None:
    for number in range(60):
        await store.create(f"t{number}")
    claims = await asyncio.gather(*[store.claim(7) for _ in range(10)])
    uuids = [task.uuid for task in itertools.chain(*claims)]
    assert sorted(uuids) == sorted({f"t{number}" for number in range(60)})


async def test_leases_are_fenced_and_secret(store: Store) -> None:
    for uuid in ("a", "b"):
        await store.create(uuid)
    leases = [task.lease for task in await store.claim(2)]
    await store.transitions.give_back("a", leases[0])
    leases.append((await store.claim_one()).lease)
    fences = [int(lease.partition(".")[0]) for lease in leases]
    assert fences == sorted(set(fences))
    assert all(len(lease.partition(".")[2]) >= 22 for lease in leases)
    assert leases[0].partition(".")[2] != leases[2].partition(".")[2]


async def test_a_delayed_task_cannot_be_claimed(store: Store) -> None:
    await store.create(delay_ms=60_000)
    assert await store.claim() == []


async def test_a_task_whose_time_is_over_ends_instead(store: Store) -> None:
    created = await store.create("old", expires_ms=1)
    await store.create("new")
    await store.until_expired("old")
    with store.ear() as ear:
        assert [task.uuid for task in await store.claim(1)] == ["new"]
        (message,) = answered(ear.messages(), uuid="old")
    assert (message["state"], message["seal"]) == ("expired", created.seal)
    assert store.indexes("old") == {"retained", "ended"}


async def test_leftovers_in_the_queue_give_no_task(store: Store) -> None:
    """Whatever an operator's hand or an older version left there."""
    await store.create("ended")
    await store.transitions.finish("ended", succeeded())
    await store.create("good")
    store.raw.zadd(naming.pending_key("q"), {"gone": 0, "ended": 1})
    assert [task.uuid for task in await store.claim(2)] == ["good"]
    assert store.pending() == []
    assert store.record("ended")["state"] == "succeeded"
    assert store.record("gone") == {}


async def test_one_call_does_bounded_work_however_many_have_expired(store: Store) -> None:
    """A script that ends a hundred thousand expired tasks stops the server for everybody."""
    count = 2 * MOST_OF_ONE_CALL
    await asyncio.gather(*[store.create(f"t{number}", expires_ms=1) for number in range(count)])
    await store.until_expired(f"t{count - 1}")
    await store.claim(1)
    assert store.raw.zcard(naming.retained_key()) <= MOST_OF_ONE_CALL


async def test_a_retried_task_keeps_its_place(store: Store) -> None:
    for uuid in ("c", "b", "a"):
        await store.create(uuid)
    first, second = await store.claim(2)
    await store.transitions.give_back(second.uuid, second.lease)
    await store.transitions.retry(first.uuid, first.lease, failed(), 0)
    assert [task.uuid for task in await store.claim(3)] == ["c", "b", "a"]


async def test_a_full_server_still_gives_work(store: Store) -> None:
    await store.create()
    with store.full():
        assert [task.uuid for task in await store.claim()] == ["t"]


@pytest.mark.parametrize("times", [3])
async def test_attempts_are_counted(store: Store, times: int) -> None:
    await store.create(max_attempts=times + 1)
    with store.ear() as ear:
        for attempt in range(1, times + 1):
            claimed = await store.claim_one()
            assert claimed.attempt == attempt
            await store.transitions.retry("t", claimed.lease, failed(), 0)
        bells = [text for _, text in rung(ear.messages())]
    assert bells == [f'{{"uuid":"t","queue":"q","attempt":{attempt}}}' for attempt in range(1, times + 1)]


async def test_many_queues_and_tasks_in_one_claim(store: Store) -> None:
    """More than a Lua call can take as arguments, were they passed on together."""
    queues, each = 50, 100
    uuids = [f"t{number}" for number in range(queues * each)]
    await asyncio.gather(*[store.create(uuid, queue=f"q{number % queues}") for number, uuid in enumerate(uuids)])
    wishes = [ClaimWish(f"q{number}", each, 3) for number in range(queues)]
    claimed: list[str] = []
    while batch := (await store.transitions.claim(WORKER, LONG_MS, wishes)).tasks:
        claimed += [task.uuid for task in batch]
    assert sorted(claimed) == sorted(uuids)
    assert store.raw.zcard(naming.leases_key()) == len(uuids)


async def test_a_limit_in_all_goes_to_the_first_queues(store: Store) -> None:
    for uuid, queue in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")):
        await store.create(uuid, queue=queue)
    wishes = [ClaimWish(queue, 3) for queue in ("empty", "b", "a")]
    claimed = (await store.transitions.claim(WORKER, LONG_MS, wishes, most=3)).tasks
    assert [task.uuid for task in claimed] == ["b1", "b2", "a1"]
    assert store.numbers("b") == {"running": 2}
    assert store.numbers("a") == {"running": 1}


async def test_the_task_json_comes_where_it_is_wanted(store: Store) -> None:
    claimed = await store.created_and_claimed(payload=b"[1.0]")
    assert claimed.document is None
    await store.transitions.extend("t", claimed.lease, LONG_MS, b'{"percent":1.0}')
    await store.transitions.give_back("t", claimed.lease)
    (again,) = (await store.transitions.claim(WORKER, LONG_MS, [ClaimWish("q", 1)], wants_documents=True)).tasks
    assert again.document == (await store.queries.read("t")).document
    assert again.document is not None
    assert b'"progress":{"percent":1.0}' in again.document
    assert again.payload == b"[1.0]"
