"""take_duties.lua on a real server."""

from __future__ import annotations

import pytest

from broker import naming
from broker.store.duties import Duties, Duty
from tests.support.store import LONG_MS, Store, until


@pytest.fixture
def duties(store: Store) -> Duties:
    return Duties(store.link)


async def take(duties: Duties, worker: str, *queues: str, held_ms: int = LONG_MS, turn_ms: int = LONG_MS) -> list[Duty]:
    return await duties.take(worker, queues or ("q",), held_ms=held_ms, turn_ms=turn_ms)


async def test_one_worker_of_a_queue_listens(duties: Duties) -> None:
    assert [(duty.queue, duty.listens) for duty in await take(duties, "w1", "a", "b")] == [("a", True), ("b", True)]
    assert [duty.listens for duty in await take(duties, "w2", "a", "b", "c")] == [False, False, True]
    assert [duty.listens for duty in await take(duties, "w1", "a", "c")] == [True, False]


async def test_the_duty_is_kept_by_asking_again(store: Store, duties: Duties) -> None:
    await take(duties, "w1", held_ms=60_000)
    store.raw.pexpire(naming.duty_key("q"), 30_000)
    await take(duties, "w2", held_ms=90_000)
    assert int(store.raw.pttl(naming.duty_key("q"))) <= 30_000
    await take(duties, "w1", held_ms=60_000)
    assert int(store.raw.pttl(naming.duty_key("q"))) > 30_000


async def test_a_duty_that_ran_out_is_free(duties: Duties) -> None:
    await take(duties, "w1", held_ms=1)

    async def is_free() -> bool:
        return (await take(duties, "w2"))[0].listens

    await until(is_free, "the duty is free")


async def test_one_worker_a_turn_asks(store: Store, duties: Duties) -> None:
    assert [duty.asks_now for duty in await take(duties, "w1", "a", "b")] == [True, True]
    assert [duty.asks_now for duty in await take(duties, "w2", "a", "c")] == [False, True]
    assert not (await take(duties, "w1", "a"))[0].asks_now
    store.raw.delete(naming.turn_key("a"))
    assert (await take(duties, "w2", "a"))[0].asks_now


async def test_the_known_workers_are_counted(store: Store, duties: Duties) -> None:
    assert (await take(duties, "w1"))[0].workers == 0
    for worker in ("w1", "w2"):
        await store.housekeeping.report_workers(worker, {"q": 1}, LONG_MS)
    assert (await take(duties, "w1"))[0].workers == 2
