"""report_presence.lua on a real server: who is there for a queue, and for how long that counts."""

from __future__ import annotations

import pytest

from broker import naming
from broker.store import housekeeping
from tests.support.store import Store, until


async def present(store: Store, queue: str = "q") -> tuple[int, int]:
    """Workers and held calls."""
    found = next(numbers for numbers in await store.queries.read_queues() if numbers.queue == queue)
    return found.workers, found.waiters


async def test_a_report_replaces_the_one_before(store: Store) -> None:
    await store.housekeeping.report_waiters("i", {"q": 3}, 60_000)
    await store.housekeeping.report_waiters("i", {"q": 5}, 60_000)
    assert await present(store) == (0, 5)


async def test_nothing_takes_a_process_out_at_once(store: Store) -> None:
    await store.housekeeping.report_workers("w", {"q": 1}, 60_000)
    await store.housekeeping.report_workers("w", {"q": 0}, 60_000)
    assert await present(store) == (0, 0)
    assert store.remaining() == set()


async def test_a_process_that_died_counts_no_longer(store: Store) -> None:
    await store.housekeeping.report_workers("dead", {"q": 1}, 1)
    await store.housekeeping.report_workers("alive", {"q": 1}, 60_000)

    async def is_gone() -> bool:
        return await present(store) == (1, 0)

    await until(is_gone, "only one is left")
    await store.housekeeping.report_workers("alive", {"q": 1}, 60_000)
    assert store.raw.zrange(naming.workers_key("q"), 0, -1) == ["alive"]


async def test_nothing_is_left_of_the_last_one_that_died(store: Store) -> None:
    await store.housekeeping.report_workers("dead", {"q": 1}, 1)
    await until(lambda: not store.remaining(), "its entry is gone")


async def test_a_number_beyond_what_fits_is_cut(store: Store) -> None:
    await store.housekeeping.report_waiters("i", {"q": 10**9}, 60_000)
    assert await present(store) == (0, 2**20 - 1)


async def test_a_worker_makes_its_queue_known(store: Store) -> None:
    await store.housekeeping.report_workers("w", {"new": 1}, 60_000)
    assert store.raw.zrange(naming.queues_key(), 0, -1) == ["new"]


async def test_many_queues_are_reported_in_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "PRESENCE_BATCH", 2)
    await store.housekeeping.report_waiters("i", {f"q{number}": number for number in range(5)}, 60_000)
    assert [(await present(store, f"q{number}"))[1] for number in range(1, 5)] == [1, 2, 3, 4]


async def test_a_full_server_takes_reports(store: Store) -> None:
    with store.full():
        await store.housekeeping.report_workers("w", {"q": 1}, 60_000)
    assert await present(store) == (1, 0)
