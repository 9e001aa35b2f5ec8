"""A worker on a real server: slots, retries, lost doorbells, drains, and servers that go away."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from broker import bell_duty
from broker import claimer as claimer_module
from broker import executor as executor_module
from broker.errors import ConfigurationError, StoreUnavailableError, TaskError
from broker.handlers import Handler
from broker.request_bell import RequestBell
from broker.settings import Settings
from broker.task import DEFERRED, Task
from broker.worker import Worker
from tests.support.processes import freeze
from tests.support.proxy import Proxy
from tests.support.server import OwnServer
from tests.support.store import Store, cancelled, open_store, succeeded, until


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    async with open_store(redis_url) as store:
        yield store


@pytest.fixture
def worker() -> Worker:
    return Worker()


class Running:
    """A worker that runs in the background."""

    def __init__(self, worker: Worker, settings: Settings, concurrency: int | None) -> None:
        self._stop = asyncio.Event()
        self.task = asyncio.create_task(worker.run(settings, stop=self._stop, concurrency=concurrency))

    async def stop(self, deadline_s: float = 15) -> None:
        self._stop.set()
        await self.until_ended(deadline_s)

    async def cancel(self, deadline_s: float = 5) -> None:
        self.task.cancel()
        await self.until_ended(deadline_s)

    async def until_ended(self, deadline_s: float) -> None:
        done, _ = await asyncio.wait({self.task}, timeout=deadline_s)
        assert done, f"The worker has not ended within {deadline_s:g} s."


@asynccontextmanager
async def running(worker: Worker, url: str, concurrency: int | None = None, **settings: Any) -> AsyncIterator[Running]:
    """Runs a worker, and stops it at the end."""
    background = Running(worker, Settings(redis_url=url, **{"drain_s": 0.2, **settings}), concurrency)
    try:
        yield background
    finally:
        if not background.task.done():
            await background.stop()
    if not background.task.cancelled():
        background.task.result()


async def has_ended(store: Store, uuid: str = "t") -> bool:
    return (await store.queries.read(uuid)).state.is_terminal


async def until_ended(store: Store, *uuids: str) -> None:
    for uuid in uuids or ("t",):
        await until(lambda uuid=uuid: has_ended(store, uuid), f"{uuid} has ended")  # type: ignore[misc]


async def is_reported(store: Store) -> bool:
    """Whether a worker says that it is there, which it does once it is connected."""
    return [numbers.workers for numbers in await store.queries.read_queues()] == [1]


class Crowd:
    """Handlers that wait at a gate, and how many there are at once."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.present = 0
        self.most = 0
        self.seen: list[str] = []

    async def handle(self, task: Task) -> str:
        self.seen.append(task.uuid)
        self.present += 1
        self.most = max(self.most, self.present)
        try:
            await self.gate.wait()
        finally:
            self.present -= 1
        return task.uuid


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


# Registration


def test_a_decorated_function_is_a_handler_and_stays_itself(worker: Worker) -> None:
    def function(_: Task) -> None: ...

    assert worker.handler("q", concurrency=2, timeout=3, max_attempts=4)(function) is function
    handler = worker.handlers["q"]
    assert (handler.retry_on, handler.no_retry_on) == ((Exception,), ())
    assert (handler.function, handler.concurrency, handler.timeout_s, handler.max_attempts) == (function, 2, 3, 4)


def test_one_handler_per_queue(worker: Worker) -> None:
    worker.handler("q")(print)
    with pytest.raises(ConfigurationError, match="already"):
        worker.handler("q")(print)


def test_errors_are_named_as_except_names_them(worker: Worker) -> None:
    worker.handler("q", retry_on=OSError, no_retry_on=[ValueError, KeyError], min_backoff=0.5, max_backoff=2)(print)
    handler = worker.handlers["q"]
    assert (handler.retry_on, handler.no_retry_on) == ((OSError,), (ValueError, KeyError))
    assert (handler.min_backoff_s, handler.max_backoff_s) == (0.5, 2)


@pytest.mark.parametrize(
    "arguments", [{"concurrency": 0}, {"timeout": 0}, {"max_attempts": 0}, {"min_backoff": 61}, {"retry_on": ["x"]}]
)
def test_arguments_that_cannot_work(worker: Worker, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        worker.handler("q", **arguments)(print)


async def test_a_worker_without_handlers(worker: Worker) -> None:
    with pytest.raises(ConfigurationError, match="no handlers"):
        await worker.run(Settings(), stop=asyncio.Event())


async def test_nobody_answers_at_the_start(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.link.Link.open.__defaults__", (0.2,))
    worker.handler("q")(print)
    with pytest.raises(StoreUnavailableError):
        await worker.run(Settings(redis_url="redis://127.0.0.1:1"), stop=asyncio.Event())


# Work


async def test_tasks_are_run(redis_url: str, store: Store, worker: Worker) -> None:
    @worker.handler("q")
    async def handler(task: Task) -> Any:
        return {"payload": task.payload, "attempt": task.attempt}

    @worker.handler("plain")
    def plain(task: Task) -> Any:
        return task.queue

    await store.create("before", payload=b"[1]")
    async with running(worker, redis_url):
        await store.create("after", payload=b"[2]")
        await store.create("plain", queue="plain")
        await until_ended(store, "before", "after", "plain")
    assert (await store.document("before"))["result"] == {"payload": [1], "attempt": 1}
    assert (await store.document("after"))["result"] == {"payload": [2], "attempt": 1}
    assert (await store.document("plain"))["result"] == "plain"


async def test_no_more_than_its_slots(redis_url: str, store: Store, worker: Worker, crowd: Crowd) -> None:
    worker.handler("q", concurrency=3)(crowd.handle)
    uuids = [f"t{number}" for number in range(10)]
    await asyncio.gather(*[store.create(uuid) for uuid in uuids])
    async with running(worker, redis_url):
        await until(lambda: crowd.present == 3, "all slots are taken")
        assert len(store.pending()) == 7
        crowd.gate.set()
        await until_ended(store, *uuids)
    assert crowd.most == 3
    assert sorted(crowd.seen) == sorted(uuids)


async def test_slots_from_the_command_line(redis_url: str, store: Store, worker: Worker, crowd: Crowd) -> None:
    worker.handler("q", concurrency=1)(crowd.handle)
    await asyncio.gather(*[store.create(f"t{number}") for number in range(3)])
    async with running(worker, redis_url, concurrency=3):
        await until(lambda: crowd.present == 3, "all run at once")
        crowd.gate.set()


async def test_a_plain_handler_has_as_many_threads_as_slots(redis_url: str, store: Store, worker: Worker) -> None:
    gate, present = threading.Event(), list[str]()

    @worker.handler("q", concurrency=1)
    def handler(task: Task) -> None:
        present.append(task.uuid)
        gate.wait(20)

    await asyncio.gather(*[store.create(f"t{number}") for number in range(3)])
    async with running(worker, redis_url, concurrency=3):
        try:
            await until(lambda: len(present) == 3, "all run at once")
        finally:
            gate.set()
        await until_ended(store, "t0", "t1", "t2")


async def test_a_busy_queue_does_not_hold_up_another(
    redis_url: str, store: Store, worker: Worker, crowd: Crowd
) -> None:
    worker.handler("q", concurrency=1)(crowd.handle)

    @worker.handler("free")
    async def free(_: Task) -> None: ...

    for number in range(3):
        await store.create(f"t{number}")
    async with running(worker, redis_url):
        await until(lambda: crowd.present == 1, "the slot is taken")
        await store.create("other", queue="free")
        await until_ended(store, "other")
        crowd.gate.set()


async def test_several_workers_run_each_task_once(redis_url: str, store: Store) -> None:
    runs: list[str] = []

    def new_worker() -> Worker:
        worker = Worker()

        @worker.handler("q", concurrency=4)
        async def handler(task: Task) -> None:
            runs.append(task.uuid)

        return worker

    uuids = [f"t{number}" for number in range(100)]
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(running(new_worker(), redis_url))
        await asyncio.gather(*[store.create(uuid) for uuid in uuids])
        await until_ended(store, *uuids)
    assert sorted(runs) == sorted(uuids)


# Failure and retries


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "retry_delay_s", lambda *_: 0.001)


@pytest.mark.usefixtures("quick_retries")
async def test_as_many_attempts_as_the_handler_says(redis_url: str, store: Store, worker: Worker) -> None:
    attempts: list[int] = []

    @worker.handler("q", max_attempts=2)
    async def handler(task: Task) -> None:
        attempts.append(task.attempt)
        raise ValueError(f"attempt {task.attempt}")

    await store.create()
    async with running(worker, redis_url):
        await until_ended(store)
    assert attempts == [1, 2]
    document = await store.document()
    assert document["error"] == {"code": "ValueError", "message": "attempt 2"}
    assert (document["state"], document["attempt"]) == ("failed", 2)


@pytest.mark.usefixtures("quick_retries")
async def test_the_tasks_own_limit_beats_the_handlers(redis_url: str, store: Store, worker: Worker) -> None:
    @worker.handler("q", max_attempts=9)
    async def handler(_: Task) -> None:
        raise ValueError

    await store.create(max_attempts=1)
    async with running(worker, redis_url):
        await until_ended(store)
    assert (await store.document())["attempt"] == 1


@pytest.mark.usefixtures("quick_retries")
async def test_a_second_attempt_may_succeed(redis_url: str, store: Store, worker: Worker) -> None:
    @worker.handler("q")
    async def handler(task: Task) -> str:
        if task.attempt == 1:
            raise ValueError
        return "at last"

    await store.create()
    async with running(worker, redis_url):
        await until_ended(store)
    document = await store.document()
    assert (document["state"], document["result"]) == ("succeeded", "at last")
    assert "error" not in document


async def test_a_task_error_is_final(redis_url: str, store: Store, worker: Worker) -> None:
    @worker.handler("q", max_attempts=9)
    async def handler(_: Task) -> None:
        raise TaskError("no such branch", code="unknown-branch", details=[1])

    await store.create()
    async with running(worker, redis_url):
        await until_ended(store)
    document = await store.document()
    assert document["error"] == {"code": "unknown-branch", "message": "no such branch", "details": [1]}
    assert document["attempt"] == 1


async def test_a_worker_that_dies_loses_its_lease_and_another_takes_over(
    redis_url: str, store: Store, worker: Worker
) -> None:
    @worker.handler("q")
    async def handler(task: Task) -> int:
        return task.attempt

    await store.created_and_claimed(lease_ms=100)  # by somebody who is never heard of again
    async with running(worker, redis_url):
        await until_ended(store)
    assert (await store.document())["result"] == 2


# Third parties


async def test_a_deferred_task_is_finished_by_a_third_party(redis_url: str, store: Store, worker: Worker) -> None:
    @worker.handler("q")
    async def handler(_: Task) -> Any:
        return DEFERRED

    await store.create()
    async with running(worker, redis_url):
        await until(lambda: "leases" not in store.indexes() and store.record()["state"] == "running", "deferred")
        await store.transitions.finish("t", succeeded(b"1"))
    assert (await store.document())["result"] == 1


async def test_a_running_handler_is_told_of_its_cancellation_within_a_second(
    redis_url: str, store: Store, worker: Worker, crowd: Crowd
) -> None:
    worker.handler("q")(crowd.handle)
    await store.create()
    async with running(worker, redis_url):
        await until(lambda: crowd.present == 1, "it runs")
        await store.transitions.finish("t", cancelled())
        await until(lambda: crowd.present == 0, "the handler was stopped", deadline_s=1)
    assert (await store.document())["state"] == "cancelled"


async def test_a_plain_handler_sees_its_cancellation_within_a_second(
    redis_url: str, store: Store, worker: Worker
) -> None:
    running_now, seen = threading.Event(), threading.Event()

    @worker.handler("q")
    def handler(task: Task) -> None:
        running_now.set()
        while not task.cancelled and not seen.wait(0.001):
            pass
        seen.set()

    await store.create()
    async with running(worker, redis_url):
        try:
            await until(running_now.is_set, "it runs")
            await store.transitions.finish("t", cancelled())
            await until(seen.is_set, "the handler was told", deadline_s=1)
        finally:
            seen.set()


async def test_a_forged_message_stops_no_handler(redis_url: str, store: Store, worker: Worker, crowd: Crowd) -> None:
    """A forged message never runs a task twice; stopping it here would lead to just that."""
    worker.handler("q")(crowd.handle)
    await store.create()
    async with running(worker, redis_url, lease_s=0.3):
        await until(lambda: crowd.present == 1, "it runs")
        (channel,) = store.raw.pubsub_channels("broker:worker:*")
        for _ in range(3):
            store.raw.publish(channel, "t")
        # Heard behind the forgeries, on the same connection.
        await store.create("second")
        await until(lambda: crowd.present == 2 or len(crowd.seen) > 2, "the second runs, too")
        crowd.gate.set()
        await until_ended(store, "t", "second")
    assert crowd.seen.count("t") == 1
    assert (await store.document())["attempt"] == 1


async def test_forged_requests_run_nothing(redis_url: str, store: Store, worker: Worker, crowd: Crowd) -> None:
    worker.handler("q")(crowd.handle)
    crowd.gate.set()
    async with running(worker, redis_url):
        for message in (b"", b"\xff", b'{"uuid":"ghost","queue":"q","attempt":0}'):
            store.raw.publish("q-request-ghost", message)
        await store.create()
        await until_ended(store)
    assert crowd.seen == ["t"]


# Lost doorbells


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """No doorbell is ever heard."""
    monkeypatch.setattr(RequestBell, "_take_push", lambda *_: None)
    monkeypatch.setattr(bell_duty, "ROUND_S", 0.02)
    monkeypatch.setattr(bell_duty, "TURN_MS", 10)


@pytest.mark.usefixtures("deaf")
async def test_slow_asking_finds_what_no_doorbell_told(redis_url: str, store: Store, worker: Worker) -> None:
    @worker.handler("q", concurrency=2)
    async def handler(_: Task) -> None: ...

    async with running(worker, redis_url):
        # Not each: what a question finds that was overtaken by the next one counts as found in time.
        for number in range(100):
            await store.create(f"t{number}")
            await until_ended(store, f"t{number}")
            if worker.measures.bells_missed >= 4:
                break
        else:
            pytest.fail(f"Of 100 missed bells, {worker.measures.bells_missed} were counted.")


async def test_in_health_no_bell_is_missed(
    redis_url: str, store: Store, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell_duty, "ROUND_S", 0.1)
    monkeypatch.setattr(bell_duty, "TURN_MS", 50)

    @worker.handler("q", concurrency=2)
    async def handler(_: Task) -> None:
        await asyncio.sleep(0.01)

    await store.create("backlog")  # nobody could hear of it
    async with running(worker, redis_url):
        for number in range(30):
            await store.create(f"t{number}")
            await asyncio.sleep(0.01)
        await until_ended(store, "backlog", *[f"t{number}" for number in range(30)])
        await asyncio.sleep(0.25)
    assert worker.measures.bells_missed == 0
    # The first few may have rung before it was listening.
    assert worker.measures.bells_heard >= 25


async def test_what_rings_while_all_slots_are_taken_is_not_forgotten(
    redis_url: str, store: Store, worker: Worker, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell_duty, "TURN_MS", 3_600_000)
    worker.handler("q", concurrency=1)(crowd.handle)
    async with running(worker, redis_url):
        for uuid in ("a", "b", "c"):
            await store.create(uuid)
        await until(lambda: crowd.present == 1, "the slot is taken")
        crowd.gate.set()
        await until_ended(store, "a", "b", "c")


# The end


async def test_a_drain_waits_for_what_ends_in_time(redis_url: str, store: Store, worker: Worker, crowd: Crowd) -> None:
    worker.handler("q")(crowd.handle)
    await store.create()
    async with running(worker, redis_url, drain_s=20) as background:
        await until(lambda: crowd.present == 1, "it runs")
        stopping = asyncio.create_task(background.stop())
        await asyncio.sleep(0)
        await store.create("later")
        crowd.gate.set()
        await stopping
    assert (await store.document())["state"] == "succeeded"
    assert (await store.document("later"))["state"] == "pending"


async def test_a_drain_gives_the_rest_back_uncounted(
    redis_url: str, store: Store, worker: Worker, crowd: Crowd
) -> None:
    worker.handler("q")(crowd.handle)
    for uuid in ("a", "b"):
        await store.create(uuid)
    async with running(worker, redis_url, drain_s=0.05) as background:
        await until(lambda: crowd.present == 2, "both run")
        await background.stop()
    assert store.pending() == ["a", "b"]
    assert [store.record(uuid)["attempt"] for uuid in ("a", "b")] == ["0", "0"]


async def test_a_cancelled_worker_gives_its_tasks_back_and_ends(
    redis_url: str, store: Store, worker: Worker, crowd: Crowd
) -> None:
    """What it gives back rings its own bell, and it must not take it again."""
    worker.handler("q")(crowd.handle)
    await store.create()
    async with running(worker, redis_url) as background:
        await until(lambda: crowd.present == 1, "it runs")
        await background.cancel(deadline_s=3)
    assert store.pending() == ["t"]
    assert store.record()["attempt"] == "0"
    assert crowd.seen == ["t"]


async def test_a_stopped_worker_leaves_no_connection(redis_url: str, worker: Worker) -> None:
    worker.handler("q")(print)
    async with Proxy(redis_url) as proxy:
        async with running(worker, proxy.url):
            await until(lambda: proxy.connections == 2, "connected")
        await until(lambda: proxy.connections == 0, "both connections are gone")


# Servers that go away


@pytest.fixture
def quick_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.link.COMMAND_DEADLINE_S", 0.3)
    monkeypatch.setattr("broker.store.link.REPLY_DEADLINE_S", 0.2)
    monkeypatch.setattr("broker.store.link.CONNECT_DEADLINE_S", 0.3)
    monkeypatch.setattr(executor_module, "SETTLE_RETRY_S", 0.02)
    monkeypatch.setattr(claimer_module, "RETRY_CLAIM_S", 0.02)


@pytest.fixture
def frozen(own_server: OwnServer) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A server's URL, and how to freeze it and thaw it."""
    server = own_server()

    def thaw() -> None:
        server.process.send_signal(signal.SIGCONT)

    yield server.url, partial(freeze, server.process, server.pid), thaw
    server.process.send_signal(signal.SIGCONT)


@pytest.mark.usefixtures("quick_store")
async def test_an_outcome_outlives_an_outage(
    frozen: tuple[str, Callable[[], None], Callable[[], None]], worker: Worker, crowd: Crowd
) -> None:
    url, freeze, thaw = frozen
    worker.handler("q")(crowd.handle)
    async with open_store(url) as store, running(worker, url):
        await store.create()
        await until(lambda: crowd.present == 1, "it runs")
        freeze()
        crowd.gate.set()
        await until(lambda: crowd.present == 0, "the handler has returned")
        thaw()
        await until_ended(store)
        assert (await store.document())["result"] == "t"
        assert crowd.seen == ["t"]


@pytest.mark.usefixtures("quick_store")
async def test_a_worker_finds_its_server_again(redis_url: str, store: Store, worker: Worker) -> None:
    @worker.handler("q")
    async def handler(_: Task) -> None: ...

    async with Proxy(redis_url) as proxy, running(worker, proxy.url):
        await until(lambda: is_reported(store), "it works")
        await proxy.refuse()
        await store.create()
        await proxy.listen()
        await until_ended(store)


@pytest.mark.usefixtures("quick_store")
async def test_a_worker_ends_though_its_server_is_away(
    redis_url: str, store: Store, worker: Worker, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "CLOSE_DEADLINE_S", 0.2)
    worker.handler("q")(crowd.handle)
    await store.create()
    async with Proxy(redis_url) as proxy, running(worker, proxy.url) as background:
        await until(lambda: crowd.present == 1, "it runs")
        await proxy.refuse()
        await background.stop(deadline_s=5)
    assert store.record()["state"] == "running"  # until its lease runs out


async def test_a_worker_is_counted_while_it_serves_a_queue(redis_url: str, store: Store, worker: Worker) -> None:
    worker.handler("q")(print)

    async with running(worker, redis_url):
        await until(lambda: is_reported(store), "it is there")
    assert [numbers.workers for numbers in await store.queries.read_queues()] == [0]


async def test_an_error_that_must_not_be_retried(redis_url: str, store: Store, worker: Worker) -> None:
    @worker.handler("q", no_retry_on=ValueError)
    async def handler(task: Task) -> None:
        raise ValueError("bad")

    await store.create()
    async with running(worker, redis_url):
        await until_ended(store)
    document = await store.document()
    assert (document["attempt"], document["error"]) == (1, {"code": "ValueError", "message": "bad"})


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_timeout_counts_as_a_timeout_error(redis_url: str, store: Store, worker: Worker, kind: str) -> None:
    gate = threading.Event()

    async def endless(_: Task) -> None:
        await asyncio.Event().wait()

    def stuck(_: Task) -> None:
        gate.wait(20)

    worker.handler("q", timeout=0.05, no_retry_on=TimeoutError)(endless if kind == "async" else stuck)
    await store.create()
    async with running(worker, redis_url):
        await until_ended(store)
        gate.set()
    document = await store.document()
    assert (document["attempt"], document["error"]["code"]) == (1, "timeout")


async def test_the_pause_between_attempts_is_the_handlers_own(redis_url: str, store: Store, worker: Worker) -> None:
    @worker.handler("q", min_backoff=30, max_backoff=40)
    async def handler(task: Task) -> None:
        raise ValueError

    await store.create()
    async with running(worker, redis_url):
        await until(lambda: "due" in store.record(), "it is to be retried")
    assert 15_000 - 5_000 <= int(store.record()["due"]) - store.now_ms() <= 30_000


# Measures


def executions(worker: Worker) -> dict[tuple[str, str], int]:
    return {labels: sum(histogram.counts) for labels, histogram in worker.measures.executions.items()}


async def test_what_became_of_executions_is_counted(redis_url: str, store: Store, worker: Worker) -> None:
    @worker.handler("q")
    async def handler(task: Task) -> Any:
        match task.uuid:
            case "fails":
                raise TaskError("no")
            case "retried" if task.attempt == 1:
                raise TaskError("not yet", retry=True)
            case "deferred":
                return DEFERRED
        return 1

    async with running(worker, redis_url):
        for uuid in ("works", "fails", "retried", "deferred"):
            await store.create(uuid)
        await until_ended(store, "works", "fails", "retried")
        await until(lambda: sum(executions(worker).values()) == 5, "all are counted")
    assert executions(worker) == {
        ("q", "succeeded"): 2,
        ("q", "failed"): 1,
        ("q", "retried"): 1,
        ("q", "deferred"): 1,
    }
    assert worker.measures.claimed == {"q": 5}
    assert worker.measures.claims >= 2


async def test_the_present_state_is_seen_while_it_runs(
    redis_url: str, store: Store, worker: Worker, crowd: Crowd
) -> None:
    worker.handler("q", concurrency=3)(crowd.handle)
    async with running(worker, redis_url):
        await store.create()
        await until(lambda: crowd.present == 1, "it runs")
        state = worker.state
        assert state is not None
        assert (state.running, state.free, state.is_stopping) == (1, {"q": 2}, False)
        assert all(link.is_connected for link in state.links.values())
    assert worker.state is None
    assert executions(worker) == {("q", "given-back"): 1}


async def test_a_lease_that_is_lost_is_counted(redis_url: str, store: Store, worker: Worker, crowd: Crowd) -> None:
    worker.handler("q")(crowd.handle)
    async with running(worker, redis_url, lease_s=0.3):
        await store.create()
        await until(lambda: crowd.present == 1, "it runs")
        store.put_field("lease", "99.elsewhere")
        await until(lambda: crowd.present == 0, "its handler is stopped")
    assert worker.measures.leases_lost == 1
    assert executions(worker) == {("q", "ended-elsewhere"): 1}
