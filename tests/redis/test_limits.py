"""Limits of queues on a real server: set_limits.lua, and claims within them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import naming
from broker.errors import InvalidRequestError
from broker.requests import LimitsRequest
from broker.store import housekeeping, transitions
from broker.store.claims import Claims, ClaimWish
from broker.store.queries import QueueLimits
from tests.support.store import LONG_MS, WORKER, Store, rung, succeeded


async def limit(store: Store, queue: str = "q", **limits: float) -> None:
    await store.transitions.set_limits(queue, LimitsRequest(**limits))  # type: ignore[arg-type]


async def create(store: Store, number: int, **fields: object) -> None:
    for place in range(number):
        await store.create(f"t{place}", **fields)


async def claim(store: Store, *wishes: ClaimWish) -> Claims:
    return await store.transitions.claim(WORKER, LONG_MS, wishes or [ClaimWish("q", 100)])


@given(rate=st.floats(0.0001, 1_000_000))
def test_a_window_holds_the_rate_and_is_a_second_or_a_little_more(rate: float) -> None:
    most, window_ms = LimitsRequest(max_rate_per_s=rate).window or (0, 0)
    assert window_ms >= 1_000
    assert most - 1 <= max(rate, 0) <= most
    assert most * 1_000 / window_ms <= rate
    assert window_ms - 1 < most * 1_000 / rate


async def test_no_more_run_than_may(store: Store) -> None:
    await limit(store, max_running=2)
    await create(store, 5)

    first = await claim(store)
    assert len(first.tasks) == 2
    assert await claim(store) == Claims([], {})
    await store.transitions.finish(first.tasks[0].uuid, succeeded(), lease=first.tasks[0].lease)
    assert [task.uuid for task in (await claim(store)).tasks] == ["t2"]
    assert await claim(store) == Claims([], {})


async def test_a_queue_that_is_named_twice_has_one_limit(store: Store) -> None:
    await limit(store, max_running=3, max_rate_per_s=3)
    await create(store, 5)

    assert len((await claim(store, ClaimWish("q", 2), ClaimWish("q", 2))).tasks) == 3


async def test_other_queues_are_not_limited(store: Store) -> None:
    await limit(store, max_running=0, max_rate_per_s=1)
    await create(store, 2)
    await store.create("other", queue="other")

    assert [task.uuid for task in (await claim(store, ClaimWish("q", 9), ClaimWish("other", 9))).tasks] == ["other"]


@pytest.mark.parametrize("way", ["finish", "third party", "retry", "give back", "defer", "lease lost", "expire"])
async def test_a_place_that_is_free_again_rings_for_the_next_task(store: Store, way: str) -> None:
    await limit(store, max_running=1)
    lease_ms = 1 if way == "lease lost" else LONG_MS
    await store.create("t0", expires_ms=300 if way == "expire" else LONG_MS)
    await store.create("next", priority=0)
    (held,) = (await store.transitions.claim(WORKER, lease_ms, [ClaimWish("q", 9)])).tasks
    with store.ear("q-request-*") as ear:
        match way:
            case "finish":
                await store.transitions.finish("t0", succeeded(), lease=held.lease)
            case "third party":
                await store.transitions.finish("t0", succeeded())
            case "retry":
                await store.transitions.retry("t0", held.lease, succeeded(), LONG_MS)
            case "give back":
                await store.transitions.give_back("t0", held.lease, LONG_MS)
            case "defer":
                await store.transitions.defer("t0", held.lease)
            case "lease lost":
                await store.until_over(held.lease_end_ms)
                await store.housekeeping.sweep_leases()
            case _:
                await store.until_expired("t0")
                await store.housekeeping.sweep_expired()
        messages = ear.messages()

    first = "t0" if way == "lease lost" else "next"
    assert messages[-1] == (f"q-request-{first}", f'{{"uuid":"{first}","queue":"q","attempt":{int(first == "t0")}}}')
    assert len((await claim(store)).tasks) == 1


async def test_nothing_rings_where_nothing_waits_or_is_limited(store: Store) -> None:
    await create(store, 2)
    (held,) = (await claim(store, ClaimWish("q", 1))).tasks
    await limit(store, "other", max_running=1)
    await store.create("o", queue="other")
    (other,) = (await claim(store, ClaimWish("other", 1))).tasks
    with store.ear("*-request-*") as ear:
        await store.transitions.finish(held.uuid, succeeded(), lease=held.lease)
        await store.transitions.finish(other.uuid, succeeded(), lease=other.lease)
        assert rung(ear.messages()) == []


async def test_a_lower_limit_ends_nothing_and_a_higher_one_rings(store: Store) -> None:
    await create(store, 5)
    assert len((await claim(store, ClaimWish("q", 3))).tasks) == 3

    await limit(store, max_running=1)
    assert (await claim(store)).tasks == []
    with store.ear("q-request-*") as ear:
        await limit(store, max_running=4)
        assert [channel for channel, _ in ear.messages()] == ["q-request-t3"]
    assert len((await claim(store)).tasks) == 1
    await limit(store)
    assert len((await claim(store)).tasks) == 1


async def test_a_rate_is_kept_in_every_window(store: Store) -> None:
    """In windows of the server's milliseconds, over several of them, by claims that come whenever they are told to."""
    await limit(store, max_rate_per_s=40)
    await create(store, 100)
    started: list[int] = []
    while len(started) < 100:
        claims = await claim(store, ClaimWish("q", 7))
        started += [int(store.record(task.uuid)["started"]) for task in claims.tasks]
        if "q" in claims.again_ms:
            again_at = store.now_ms() + claims.again_ms["q"]
            assert claims.again_ms["q"] <= 1_000
            await store.until_over(again_at - 1)
    assert all(later - earlier >= 1_000 for earlier, later in zip(started, started[40:], strict=False))
    # Nor is any time wasted: the hundredth is due two windows after the first.
    assert started[-1] - started[0] < 3_000


async def test_what_is_started_lately_is_forgotten_in_time(store: Store) -> None:
    await limit(store, max_rate_per_s=2)
    await create(store, 3)
    claims = await claim(store)
    assert len(claims.tasks) == 2
    assert 0 < claims.again_ms["q"] <= 1_000
    assert 0 < store.raw.pttl(naming.starts_key("q")) <= 1_000
    # A wish that was fulfilled with nothing left behind it needs no second question.
    await store.transitions.finish("t2", succeeded())
    assert await claim(store) == Claims([], {})


async def test_below_one_a_second_it_is_one_in_a_while(store: Store) -> None:
    await limit(store, max_rate_per_s=0.5)
    await create(store, 2)
    claims = await claim(store)
    assert len(claims.tasks) == 1
    assert 1_000 < claims.again_ms["q"] <= 2_000


async def test_both_limits_hold_together(store: Store) -> None:
    await limit(store, max_running=2, max_rate_per_s=3)
    await create(store, 9)
    first = await claim(store)
    assert (len(first.tasks), first.again_ms) == (2, {})
    for task in first.tasks:
        await store.transitions.finish(task.uuid, succeeded())
    second = await claim(store)
    assert len(second.tasks) == 1
    assert second.again_ms["q"] <= 1_000


async def test_limits_are_read_with_the_numbers(store: Store) -> None:
    await store.create()
    assert (await store.queries.read_queue("q")).limits is None
    await limit(store, max_running=5, max_rate_per_s=2.5)
    (numbers,) = await store.queries.read_queues()
    assert numbers.limits == QueueLimits(5, 2.5)
    assert (await store.queries.read_queue("q")).limits == numbers.limits
    await limit(store)
    assert (await store.queries.read_queue("q")).limits is None
    assert not store.raw.exists(naming.limits_key())


async def test_an_unused_queue_may_have_limits_and_stays_known(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "QUEUE_KEPT_MS", 0)
    await limit(store, "unused", max_running=1)
    await store.housekeeping.sweep_queues()
    assert [numbers.queue for numbers in await store.queries.read_queues()] == ["unused"]
    await limit(store, "unused")
    await store.housekeeping.sweep_queues()
    assert await store.queries.read_queues() == []


async def test_only_so_many_queues_have_limits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "MOST_LIMITED", 1)
    await limit(store, "a", max_running=1)
    with pytest.raises(InvalidRequestError):
        await limit(store, "b", max_running=1)
    await limit(store, "a", max_running=2)
    await limit(store, "a")
    await limit(store, "b", max_running=1)
