"""Several workers of a queue on a real server: one listens, the others are parked, and no task waits for luck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from broker import Settings, Task, Worker, bell_duty, naming
from tests.support.store import Store, open_store, until

TIMES_OFF_MS = 3_600_000


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    async with open_store(redis_url) as opened:
        yield opened


@pytest.fixture
def never_unrung(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks without having been rung or woken, so only that can make a task run."""
    monkeypatch.setattr(bell_duty, "TURN_MS", TIMES_OFF_MS)


@asynccontextmanager
async def working(redis_url: str, worker: Worker) -> AsyncIterator[asyncio.Event]:
    """A worker that works until the block is left or the event is set."""
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(Settings(redis_url=redis_url, drain_s=1), stop=stop))
    try:
        await until(lambda: worker.state is not None, "it is connected")
        yield stop
    finally:
        stop.set()
        await running


class Ring:
    """Workers that say which of them runs what."""

    def __init__(self) -> None:
        self.ran: list[tuple[int, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def worker(self, number: int, concurrency: int = 1) -> Worker:
        worker = Worker()

        @worker.handler("q", concurrency=concurrency)
        async def handle(task: Task) -> None:
            self.ran.append((number, task.uuid))
            await self.gate.wait()

        return worker


async def listening(store: Store) -> int:
    """How many workers hear the doorbell."""
    return int(store.raw.publish(naming.request_channel("q", "nobody"), ""))


async def all_parked(store: Store, count: int) -> None:
    await until(lambda: store.raw.info("clients")["blocked_clients"] == count, f"{count} are parked")


async def test_one_of_many_listens(redis_url: str, store: Store) -> None:
    ring = Ring()
    async with AsyncExitStack() as stack:
        for number in range(4):
            await stack.enter_async_context(working(redis_url, ring.worker(number)))
        await all_parked(store, 3)
        assert await listening(store) == 1


@pytest.mark.usefixtures("never_unrung")
async def test_a_listener_without_a_place_passes_the_bell_on(redis_url: str, store: Store) -> None:
    ring = Ring()
    async with AsyncExitStack() as stack:
        for number in range(4):
            await stack.enter_async_context(working(redis_url, ring.worker(number)))
        # Each knows of the others by their second round.
        await all_parked(store, 3)
        store.raw.delete(naming.turn_key("q"))
        ring.gate.clear()
        for name in ("a", "b", "c", "d"):
            await store.create(name)
        await until(lambda: len(ring.ran) == 4, "all four run at a time", deadline_s=5)
        assert {number for number, _ in ring.ran} == {0, 1, 2, 3}
        ring.gate.set()


@pytest.mark.usefixtures("never_unrung")
async def test_a_listener_that_goes_hands_its_duty_on(redis_url: str, store: Store) -> None:
    ring = Ring()
    async with AsyncExitStack() as stack:
        stop = await stack.enter_async_context(working(redis_url, ring.worker(0)))
        await until(lambda: listening(store), "the first listens")
        await stack.enter_async_context(working(redis_url, ring.worker(1)))
        await all_parked(store, 1)
        stop.set()
        await until(lambda: store.raw.info("clients")["blocked_clients"] == 0, "the other is woken")
        await until(lambda: listening(store), "it listens")
        await store.create()
        await until(lambda: ring.ran == [(1, "t")], "it runs the task")


async def test_a_lost_listener_costs_a_moment(redis_url: str, store: Store) -> None:
    """A duty that a dead worker has: somebody asks unrung meanwhile, and takes it over when it runs out."""
    store.raw.set(naming.duty_key("q"), "dead", px=60_000)
    ring = Ring()
    async with working(redis_url, ring.worker(0)):
        await all_parked(store, 1)
        await store.create()
        await until(lambda: ring.ran == [(0, "t")], "it was asked for unrung", deadline_s=5)
        assert await listening(store) == 0
        store.raw.delete(naming.duty_key("q"))
        await until(lambda: listening(store), "the duty was taken over")


async def test_without_the_right_to_park_everybody_listens(redis_url: str, store: Store) -> None:
    store.raw.acl_setuser("default", enabled=True, commands=["-blpop"])
    try:
        ring = Ring()
        async with working(redis_url, ring.worker(0)), working(redis_url, ring.worker(1)):
            await until(partial(_both_listen, store), "both listen")
            await store.create()
            await until(lambda: len(ring.ran) == 1, "one runs it")
    finally:
        store.raw.acl_setuser("default", enabled=True, commands=["+blpop"])


async def _both_listen(store: Store) -> bool:
    return await listening(store) == 2
