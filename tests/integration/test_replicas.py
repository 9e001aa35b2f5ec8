"""What is told with `wait_replicas`: on real servers, one of which stands still."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import redis

from broker import Broker, Task, Worker
from broker.errors import StoreUnavailableError, TaskAlreadyFinalError
from broker.settings import Settings
from broker.store import fence, replicas
from broker.store.commands import Command
from broker.store.doctor import examine
from broker.store.embedded import EmbeddedServer
from broker.store.fence import Fence, FencedLink
from broker.store.link import Link
from broker.store.topology import Topology
from broker.task import TaskState
from tests.support.processes import freeze
from tests.support.sentinel import command, until
from tests.support.server import make_empty

DEADLINE_S = 0.6


class Pair:
    """A master and its replica."""

    def __init__(self, master: EmbeddedServer, replica: EmbeddedServer) -> None:
        self.master = master
        self.replica = replica

    def is_in_step(self) -> bool:
        """Whether the replica confirms."""
        _, _, replicas = command(self.master.port, "ROLE")
        return len(replicas) == 1

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The replica stands still meanwhile."""
        freeze(self.replica.process, self.replica.pid)
        try:
            yield
        finally:
            self.replica.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    options = {"repl-diskless-sync-delay": "0"}
    with EmbeddedServer(folder / "master", options=options) as master:
        options = {**options, "replicaof": f"127.0.0.1 {master.port}"}
        with EmbeddedServer(folder / "replica", options=options) as replica:
            pair = Pair(master, replica)
            until(pair.is_in_step, "the replica is in step")
            # Valkey's confirms for the first time up to a second after that.
            with redis.Redis.from_url(master.url) as raw:
                raw.set("test:first", 1)
                assert raw.wait(1, 10_000) == 1
            yield pair


@pytest.fixture
def pair(shared_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """An empty master with a replica in step; who is not confirmed is told so soon."""
    monkeypatch.setattr(fence, "CONFIRM_DEADLINE_S", DEADLINE_S)
    monkeypatch.setattr(fence, "WAIT_MS", 100)
    monkeypatch.setattr(replicas, "HOLD_S", 0.3)
    make_empty(shared_pair.master.url)
    return shared_pair


@asynccontextmanager
async def opened(pair: Pair, wait_replicas: int = 1) -> AsyncIterator[Broker]:
    settings = Settings(redis_url=pair.master.url, wait_replicas=wait_replicas, lease_s=2)
    async with Broker(settings) as broker:
        yield broker


@asynccontextmanager
async def working(pair: Pair, worker: Worker) -> AsyncIterator[None]:
    stop = asyncio.Event()
    settings = Settings(redis_url=pair.master.url, wait_replicas=1, lease_s=2, drain_s=1)
    running = asyncio.create_task(worker.run(settings, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def holding(broker: Broker) -> None:
    """Returns when the broker holds a call, and has looked at its task."""
    async with asyncio.timeout(5):
        while not broker.hub.held:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
    await broker.query("held")


async def test_all_is_as_ever_while_the_replica_confirms(pair: Pair) -> None:
    worker = Worker()

    @worker.handler("quick")
    async def quick(task: Task) -> str:
        return task.uuid

    async with opened(pair) as broker, working(pair, worker):
        tasks = [await broker.create("quick") for _ in range(20)]
        done = await asyncio.gather(*[task.wait(timeout=5) for task in tasks])
        assert [task.result for task in done] == [task.uuid for task in tasks]
        assert (await broker.list(queue="quick")).items
        assert broker.links["fences"].is_connected


async def test_nobody_is_told_of_what_the_replica_does_not_have(pair: Pair) -> None:
    async with opened(pair) as broker, opened(pair, wait_replicas=0) as careless:
        await broker.create("q", uuid="known")
        await broker.create("q", uuid="held")
        ended = await careless.create("q", uuid="ended")
        held = asyncio.create_task((await broker.query("held")).wait(timeout=20))
        await holding(broker)
        with pair.frozen():
            # The wait hears of an outcome that it must not tell.
            await careless.change("held", result=1)
            await careless.change("ended", result=2)
            calls = [
                broker.create("q", uuid="new"),
                broker.change("known", result=3),
                broker.change("ended", "failed"),
                broker.query("ended"),
                broker.query("nothing"),
                ended.wait(timeout=0.1),
            ]
            loop = asyncio.get_running_loop()
            began = loop.time()
            told = await asyncio.gather(*calls, return_exceptions=True)
            assert loop.time() - began < DEADLINE_S + 1
            *refused, late = told
            assert [type(one) for one in refused] == [fence.UnconfirmedError] * len(refused)
            assert isinstance(late, Task)  # by the broker that promises nothing
            assert all(isinstance(one, StoreUnavailableError) and one.may_have_run for one in refused)
            assert not held.done()
        # All goes on by itself, and who asks again hears the truth.
        assert (await held).result == 1
        assert (await broker.create("q", uuid="new")).state is TaskState.PENDING
        assert await broker.change("known", result=3) is False
        with pytest.raises(TaskAlreadyFinalError):
            await broker.change("ended", "failed")


async def test_a_wait_that_ends_meanwhile_tells_what_is_certain(pair: Pair) -> None:
    async with opened(pair) as broker, opened(pair, wait_replicas=0) as careless:
        task = await broker.create("q", uuid="held")
        waiting = asyncio.create_task(task.wait(timeout=0.8))
        await holding(broker)
        with pair.frozen():
            await careless.change("held", result=1)
            with pytest.raises(TimeoutError):
                await waiting
        assert (await broker.query("held")).result == 1


async def test_a_worker_uses_up_no_attempts_meanwhile(pair: Pair) -> None:
    worker = Worker()
    attempts: list[int] = []

    @worker.handler("q", max_attempts=1)
    async def note(task: Task) -> None:
        attempts.append(task.attempt)

    async with opened(pair) as broker, opened(pair, wait_replicas=0) as careless, working(pair, worker):
        await broker.queues()
        with pair.frozen():
            task = await careless.create("q")
            # Claimed, not confirmed, and given back.
            await asyncio.sleep(DEADLINE_S + 0.7)
            assert (await careless.query(task.uuid)).state is TaskState.PENDING
            assert attempts == []
        assert (await (await broker.query(task.uuid)).wait(timeout=5)).state is TaskState.SUCCEEDED
        assert attempts == [1]


async def test_the_same_words_from_another_server_confirm_nothing(pair: Pair, tmp_path: Path) -> None:
    """A fence counts on the server that gave the reply, whatever another one says."""
    with EmbeddedServer(tmp_path / "other") as other:
        link = Link(Topology.from_url(other.url), name="commands", identifies=True)
        fences = Fence(Topology.from_url(pair.master.url), name="fences", replicas=1)
        await link.open()
        await fences.open()
        try:
            with pytest.raises(fence.UnconfirmedError):
                await FencedLink(link, fences).send(Command(("SET", "k", "v")))
        finally:
            await link.close()
            await fences.close()


# The doctor


def verdict(pair: Pair, wait_replicas: int) -> str:
    (finding,) = [one for one in examine(pair.master.url, wait_replicas=wait_replicas) if one.name == "replicas"]
    return finding.status


def test_the_doctor_asks_replicas_to_confirm(pair: Pair) -> None:
    assert [verdict(pair, count) for count in (0, 1, 2)] == ["ok", "warn", "fail"]


def test_the_doctor_does_not_count_on_a_replica_that_stands_still(pair: Pair) -> None:
    with pair.frozen():
        assert verdict(pair, 1) == "fail"


def test_the_doctor_without_sentinels() -> None:
    found = examine("redis+sentinel://127.0.0.1:1,127.0.0.1:2/main")
    assert [(one.name, one.status) for one in found] == [("sentinels", "fail"), ("connection", "fail")]
