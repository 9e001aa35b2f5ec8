"""read_queues.lua on a real server, and the numbers that every other script keeps for it."""

from __future__ import annotations

import asyncio
import random

import pytest

from broker import naming
from broker.errors import BrokerError
from broker.store.queries import QueueNumbers
from tests.support.store import QUEUE, Store, cancelled, failed, succeeded

STEPS = 400


async def numbers_of(store: Store, queue: str = QUEUE) -> QueueNumbers:
    return next(numbers for numbers in await store.queries.read_queues() if numbers.queue == queue)


async def counted(store: Store, queue: str = QUEUE) -> tuple[int, int, int, int]:
    """Pending, running, deferred, delayed."""
    found = await numbers_of(store, queue)
    return found.pending, found.running, found.deferred, found.delayed


async def test_nobody_has_used_a_queue_yet(store: Store) -> None:
    assert await store.queries.read_queues() == []


async def test_queues_come_by_name(store: Store) -> None:
    for queue in ("b", "c", "a"):
        await store.create(f"of-{queue}", queue=queue)
    assert [numbers.queue for numbers in await store.queries.read_queues()] == ["a", "b", "c"]


async def test_a_task_is_counted_where_it_is(store: Store) -> None:
    await store.create(delay_ms=1)
    assert await counted(store) == (0, 0, 0, 1)
    await store.until_over(int(store.record()["due"]))
    await store.housekeeping.sweep_delayed()
    assert await counted(store) == (1, 0, 0, 0)
    claimed = await store.claim_one()
    assert await counted(store) == (0, 1, 0, 0)
    await store.transitions.retry("t", claimed.lease, failed(), 60_000)
    assert await counted(store) == (0, 0, 0, 1)
    await store.transitions.finish("t", cancelled())
    assert await counted(store) == (0, 0, 0, 0)


async def test_a_deferred_task_is_counted_apart(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.defer("t", claimed.lease)
    assert await counted(store) == (0, 0, 1, 0)
    await store.transitions.finish("t", succeeded())
    assert await counted(store) == (0, 0, 0, 0)


async def test_a_lost_lease_and_an_expired_task_are_counted_no_longer(store: Store) -> None:
    claimed = await store.created_and_claimed(lease_ms=1)
    await store.until_over(claimed.lease_end_ms)
    await store.housekeeping.sweep_leases()
    assert await counted(store) == (1, 0, 0, 0)
    await store.create("brief", queue="other", expires_ms=30)
    await store.claim(queue="other")
    await store.until_expired("brief")
    await store.housekeeping.sweep_expired()
    assert await counted(store, "other") == (0, 0, 0, 0)


async def test_queues_are_counted_apart(store: Store) -> None:
    await store.create("a", queue="one")
    await store.create("b", queue="two")
    await store.claim(queue="two")
    assert await counted(store, "one") == (1, 0, 0, 0)
    assert await counted(store, "two") == (0, 1, 0, 0)


@pytest.mark.parametrize("seed", range(4))
async def test_the_numbers_are_those_of_a_recount(store: Store, seed: int) -> None:
    """Any mixture of what can happen, then every record looked at."""
    chance = random.Random(seed)
    leases: dict[str, str] = {}

    async def step(number: int) -> None:
        uuid = f"t{chance.randrange(max(1, number // 2))}"
        lease = leases.get(uuid, "no.lease")
        match chance.randrange(12):
            case 0 | 1 | 2:
                expires_ms = chance.choice([1, 20, 60_000, 60_000])
                await store.create(f"t{number}", delay_ms=chance.choice([0, 0, 1, 60_000]), expires_ms=expires_ms)
            case 3 | 4:
                for claimed in await store.claim(chance.randint(1, 3), lease_ms=chance.choice([1, 60_000])):
                    leases[claimed.uuid] = claimed.lease
            case 5:
                await store.transitions.finish(uuid, succeeded(), lease=lease)
            case 6:
                await store.transitions.finish(uuid, cancelled())
            case 7:
                await store.transitions.retry(uuid, lease, failed(), chance.choice([0, 1, 60_000]))
            case 8:
                await store.transitions.give_back(uuid, lease)
            case 9:
                await store.transitions.defer(uuid, lease)
            case 10:
                await store.retried(uuid, f"t{number}", most_pending=30, drops_oldest=True)
            case 11:
                for sweep in (store.housekeeping.sweep_delayed, store.housekeeping.sweep_leases):
                    await sweep()
                await store.housekeeping.sweep_expired()

    for number in range(STEPS):
        try:
            await step(number)
        except BrokerError:
            # Most steps do not fit the state that their task is in.
            await asyncio.sleep(0)
    assert await counted(store) == recount(store), f"seed {seed}"


def recount(store: Store) -> tuple[int, int, int, int]:
    uuids: list[str] = store.raw.hkeys(naming.tasks_key())  # type: ignore[assignment]
    records = [store.record(uuid) for uuid in uuids]
    pending = [record for record in records if record["state"] == "pending"]
    running = [record for record in records if record["state"] == "running"]
    delayed = sum("due" in record for record in pending)
    leased = sum("lease" in record for record in running)
    return len(pending) - delayed, leased, len(running) - leased, delayed


# The oldest


async def test_the_age_of_the_oldest_claimable_task(store: Store) -> None:
    await store.create("old")
    await store.create("urgent", priority=9)
    await store.create("delayed", delay_ms=60_000)
    created = int(store.record("old")["created"])
    await store.until_over(created + 50)
    age = (await numbers_of(store)).oldest_pending_age
    assert age is not None
    assert 0.05 <= age <= (store.now_ms() - created) / 1_000


async def test_no_claimable_task_has_no_age(store: Store) -> None:
    await store.created_and_claimed()
    assert (await numbers_of(store)).oldest_pending_age is None


# Who is there


async def test_workers_and_held_calls(store: Store) -> None:
    await store.housekeeping.report_workers("w1", {"q": 1, "other": 1}, 60_000)
    await store.housekeeping.report_workers("w2", {"q": 1}, 60_000)
    await store.housekeeping.report_waiters("i1", {"q": 3}, 60_000)
    await store.housekeeping.report_waiters("i2", {"q": 4}, 60_000)
    found = await numbers_of(store)
    assert (found.workers, found.waiters) == (2, 7)
    assert (await numbers_of(store, "other")).workers == 1


async def test_a_full_server_can_be_looked_at(store: Store) -> None:
    await store.create()
    with store.full():
        assert await counted(store) == (1, 0, 0, 0)


async def test_many_queues_are_read_in_batches(store: Store) -> None:
    queues = [f"q{number:03}" for number in range(120)]
    await asyncio.gather(*[store.create(f"of-{queue}", queue=queue) for queue in queues])
    assert [numbers.queue for numbers in await store.queries.read_queues()] == queues
