"""The broker as a library, on real servers: create, attach, wait, change, query, cancel, and servers that go away."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import Broker, Settings
from broker.errors import (
    ConfigurationError,
    IdempotencyMismatchError,
    InvalidRequestError,
    LeaseLostError,
    PayloadTooLargeError,
    QueueFullError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskConflictError,
    TaskNotFoundError,
    TooManyWaitersError,
)
from broker.requests import CreateRequest, NewTask, new_task
from broker.store.queries import StoredTask
from broker.task import Task, TaskFailure, TaskState
from tests.support.processes import freeze
from tests.support.proxy import Proxy
from tests.support.server import OwnServer
from tests.support.store import until

OpenBroker = Callable[..., Awaitable[Broker]]


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    """Closes at the end what the test opened, latest first."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def open_broker(closing: AsyncExitStack) -> OpenBroker:
    """`open_broker(url)`: one more instance, which closes with the test."""

    async def opened(url: str, **settings: Any) -> Broker:
        return await closing.enter_async_context(Broker(Settings(redis_url=url, **settings)))

    return opened


@pytest.fixture
async def broker(redis_url: str, open_broker: OpenBroker) -> Broker:
    return await open_broker(redis_url)


def request(broker: Broker, uuid: str | None = "t", key: str | None = None, **fields: Any) -> NewTask:
    return new_task(CreateRequest(uuid=uuid, **fields), broker.settings, idempotency_key=key)


def held(broker: Broker, new: NewTask, wait_s: float = 20) -> asyncio.Task[Any]:
    return asyncio.create_task(broker.holding.create(new, wait_s))


# The ordinary way


async def test_create_change_and_query(broker: Broker) -> None:
    task = await broker.create("createbranch", {"branch": "x"}, uuid="084Tkjfh")
    assert (task.uuid, task.queue, task.state, task.attempt) == ("084Tkjfh", "createbranch", TaskState.PENDING, 0)
    assert await broker.change("084Tkjfh", "succeeded", result={"commit": "9f1c"})
    done = await broker.query("084Tkjfh")
    assert (done.state, done.result) == (TaskState.SUCCEEDED, {"commit": "9f1c"})
    assert not await broker.change("084Tkjfh", "succeeded", result={"commit": "9f1c"})


async def test_a_uuid_is_made_where_none_is_given(broker: Broker) -> None:
    first, second = await broker.create(), await broker.create()
    assert first.uuid != second.uuid
    assert len(first.uuid) == 32


async def test_waiting_on_another_instance(redis_url: str, broker: Broker, open_broker: OpenBroker) -> None:
    other = await open_broker(redis_url)
    task = await broker.create(uuid="t")
    waiting = asyncio.create_task(task.wait(timeout=20))
    await until(lambda: broker.hub.subscriptions.actual == 1, "the wait is subscribed")
    await other.change("t", result=[1.0])
    done = await waiting
    assert (done.state, done.result) == (TaskState.SUCCEEDED, [1.0])
    assert broker.hub.held == 0


async def test_a_wait_that_is_over_leaves_the_task_alone(broker: Broker) -> None:
    task = await broker.create(uuid="t")
    with pytest.raises(TimeoutError, match="still pending"):
        await task.wait(timeout=0.01)
    assert (await broker.query("t")).state is TaskState.PENDING
    await broker.change("t")
    assert (await task.wait(timeout=0.01)).state is TaskState.SUCCEEDED


async def test_waiting_for_no_time_is_a_look(broker: Broker) -> None:
    task = await broker.create(uuid="t")
    with pytest.raises(TimeoutError):
        await task.wait(timeout=0)


async def test_waiting_without_end(broker: Broker) -> None:
    task = await broker.create(uuid="t")
    waiting = asyncio.create_task(task.wait(timeout=float("inf")))
    await until(lambda: broker.hub.subscriptions.actual == 1 or waiting.done(), "the wait is subscribed")
    await broker.change("t")
    assert (await waiting).state is TaskState.SUCCEEDED


async def test_a_failure_has_its_error(broker: Broker) -> None:
    await broker.create(uuid="t")
    await broker.change("t", "failed", error={"code": "no-space", "message": "Full.", "details": {"free": [0]}})
    assert (await broker.query("t")).error == TaskFailure("no-space", "Full.", {"free": [0]})


async def test_a_failure_without_a_reason(broker: Broker) -> None:
    await broker.create(uuid="t")
    await broker.change("t", "failed")
    assert (await broker.query("t")).error == TaskFailure("failed")


async def test_cancelling(broker: Broker) -> None:
    await broker.create(uuid="t")
    assert await broker.cancel("t")
    assert (await broker.query("t")).cancelled
    assert not await broker.cancel("t")


async def test_the_first_outcome_stays(broker: Broker) -> None:
    await broker.create(uuid="t")
    await broker.change("t", result=1)
    with pytest.raises(TaskAlreadyFinalError) as refused:
        await broker.change("t", result=2)
    assert b'"result":1' in refused.value.document
    assert refused.value.state is TaskState.SUCCEEDED


async def test_unknown_tasks(broker: Broker) -> None:
    for call in (broker.query("nope"), broker.change("nope"), broker.cancel("nope"), broker.holding.query("nope", 5)):
        with pytest.raises(TaskNotFoundError, match="nope"):
            await call


async def test_a_wrong_lease(broker: Broker) -> None:
    await broker.create(uuid="t")
    with pytest.raises(LeaseLostError):
        await broker.change("t", lease="1.x")


@pytest.mark.parametrize(
    "arguments",
    [
        {"uuid": "no spaces"},
        {"queue": "Upper"},
        {"queue": "a-request"},
        {"priority": 10},
        {"priority": "high"},
        {"delay": -1},
        {"delay": float("nan")},
        {"expires_in": 0},
        {"expires_in": float("inf")},
        {"max_attempts": 0},
        {"payload": {1, 2}},
        {"payload": 2**64},
        {"payload": "\ud800"},
        {"idempotency_key": ""},
        {"idempotency_key": "k" * 256},
        {"idempotency_key": "\ud800"},
    ],
)
async def test_arguments_that_cannot_be_used(broker: Broker, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        await broker.create(**arguments)


async def test_a_payload_beyond_the_limit(broker: Broker) -> None:
    with pytest.raises(PayloadTooLargeError):
        await broker.create(payload="x" * broker.settings.max_body_bytes)


async def test_only_a_handler_reports_progress(broker: Broker) -> None:
    task = await broker.create()
    with pytest.raises(RuntimeError, match="only its handler"):
        await task.progress(1)


# Attaching


async def test_a_known_uuid_attaches(broker: Broker) -> None:
    await broker.create("q", {"a": 1, "b": 2}, uuid="t")
    assert (await broker.create("q", {"b": 2, "a": 1}, uuid="t")).uuid == "t"
    with pytest.raises(TaskConflictError):
        await broker.create("q", {"a": 2}, uuid="t")


async def test_an_idempotency_key_attaches(broker: Broker) -> None:
    first = await broker.create("q", 1, idempotency_key="order 7")
    assert (await broker.create("q", 1, idempotency_key="order 7")).uuid == first.uuid
    with pytest.raises(IdempotencyMismatchError):
        await broker.create("q", 2, idempotency_key="order 7")
    assert (await broker.create("other", 2, idempotency_key="order 7")).uuid != first.uuid


# Held creates


async def test_a_held_create_ends_with_the_outcome(redis_url: str, broker: Broker, open_broker: OpenBroker) -> None:
    other = await open_broker(redis_url)
    holding = held(broker, request(broker))
    await until(lambda: broker.hub.subscriptions.actual == 1, "the create is held")
    await other.change("t", result={"a": []})
    task = await holding
    assert task == await broker.queries.read("t")
    assert task.state is TaskState.SUCCEEDED


async def test_a_held_create_whose_wait_is_over_tells_the_last_state(broker: Broker) -> None:
    task = await broker.holding.create(request(broker), 0.01)
    assert task.state is TaskState.PENDING
    assert task.document == (await broker.queries.read("t")).document
    assert broker.hub.held == 0


async def test_the_second_look_comes_behind_the_subscription(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outcome between the two would be neither read nor heard."""
    task = await broker.create(uuid="t")
    read, live = broker.queries.read, list[int]()

    async def noted(uuid: str) -> Any:
        live.append(broker.hub.subscriptions.actual)
        return await read(uuid)

    monkeypatch.setattr(broker.queries, "read", noted)
    with pytest.raises(TimeoutError):
        await task.wait(0.01)
    assert live[:2] == [0, 1]


async def test_without_a_wait_nothing_is_held(broker: Broker) -> None:
    task = await broker.holding.create(request(broker), 0)
    assert task == await broker.queries.read("t")
    assert broker.hub.subscriptions.desired == 0


async def test_a_held_create_of_an_ended_task_has_its_outcome_at_once(broker: Broker) -> None:
    await broker.holding.create(request(broker), 0)
    await broker.change("t", result=1)
    assert await broker.holding.create(request(broker), 20) == await broker.queries.read("t")


async def test_many_held_creates_of_one_task(redis_url: str, broker: Broker, open_broker: OpenBroker) -> None:
    other = await open_broker(redis_url)
    holding = [held(instance, request(instance)) for instance in (broker, other) for _ in range(10)]
    await until(lambda: broker.hub.subscriptions.actual == other.hub.subscriptions.actual == 1, "all are held")
    await broker.change("t", result=1)
    assert {task.document for task in await asyncio.gather(*holding)} == {(await broker.queries.read("t")).document}


async def test_a_held_create_by_a_key_waits_for_the_task_it_stands_for(broker: Broker) -> None:
    """Its own uuid, made for the call, names no task."""
    first = await broker.holding.create(request(broker, None, "key"), 0)
    holding = held(broker, request(broker, None, "key"))
    channel = f"createbranch-response-{first.uuid}".encode()
    await until(lambda: channel in broker.hub.subscriptions._actual, "the true channel is subscribed")
    await broker.change(first.uuid, result=1)
    task = await holding
    assert (task.uuid, task.state) == (first.uuid, TaskState.SUCCEEDED)
    assert broker.hub.held == 0


async def test_a_held_create_by_a_key_of_an_ended_task(broker: Broker) -> None:
    first = await broker.holding.create(request(broker, None, "key"), 0)
    await broker.change(first.uuid)
    assert (await broker.holding.create(request(broker, None, "key"), 20)).state is TaskState.SUCCEEDED


async def test_a_held_create_that_conflicts(broker: Broker) -> None:
    await broker.holding.create(request(broker), 0)
    with pytest.raises(TaskConflictError):
        await broker.holding.create(request(broker, payload=msgspec.Raw(b"1")), 20)
    await broker.holding.create(request(broker, "new", "key"), 0)
    with pytest.raises(IdempotencyMismatchError):
        await broker.holding.create(request(broker, "t", "key"), 20)
    assert broker.hub.held == 0


async def test_a_caller_that_goes_away_leaves_the_task(broker: Broker) -> None:
    holding = held(broker, request(broker))
    await until(lambda: broker.hub.subscriptions.actual == 1, "the create is held")
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert broker.hub.held == 0
    assert (await broker.query("t")).state is TaskState.PENDING


async def test_closing_ends_held_calls_with_the_last_state(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker(Settings(redis_url=redis_url)) as closing_broker:
        read, answers = closing_broker.queries.read, list[StoredTask]()

        async def noted(uuid: str) -> StoredTask:
            answers.append(await read(uuid))
            return answers[-1]

        def is_read_twice() -> bool:
            # The first check after connecting may have read the other task, too.
            return sum(answer.uuid == "other" for answer in answers) >= 2

        monkeypatch.setattr(closing_broker.queries, "read", noted)
        holding = held(closing_broker, request(closing_broker))
        task = await closing_broker.create(uuid="other")
        waiting = asyncio.create_task(task.wait(20))
        await until(lambda: closing_broker.hub.subscriptions.actual == 2 and is_read_twice(), "both are held")
    async with asyncio.timeout(2):
        assert (await holding).state is TaskState.PENDING
        with pytest.raises(TimeoutError):
            await waiting


# Servers that go away


async def test_waits_survive_a_restart_of_the_server(
    own_server: OwnServer, tmp_path: Path, open_broker: OpenBroker
) -> None:
    server = own_server(tmp_path, options={"appendfsync": "always"})
    broker, other = await open_broker(server.url), await open_broker(server.url)
    holding = held(broker, request(broker), 60)
    task = await broker.create(uuid="other")
    waiting = asyncio.create_task(task.wait(60))
    await until(lambda: broker.hub.subscriptions.actual == 2, "both are held")
    server.kill()
    await until(lambda: broker.hub.subscriptions.actual == 0, "the loss was noticed")
    server.start()
    await until(lambda: _answers(other), "the other instance is back")
    await other.change("t", result=1)
    await other.change("other", result=2)
    assert (await holding).state is TaskState.SUCCEEDED
    assert (await waiting).result == 2


async def test_a_frozen_server_is_told_in_bounded_time_and_found_again(
    own_server: OwnServer, open_broker: OpenBroker
) -> None:
    server = own_server()
    broker = await open_broker(server.url)
    holding = held(broker, request(broker), 60)
    await until(lambda: broker.hub.subscriptions.actual == 1, "the create is held")
    freeze(server.process, server.pid)
    try:
        started = time.monotonic()
        calls = [broker.query("t"), broker.create(), broker.change("t"), broker.holding.create(request(broker), 60)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - started < 5
        assert [type(failure) for failure in failures] == [StoreUnavailableError] * 4
        assert not broker.hub.subscriptions.is_delivering or broker.hub.subscriptions.actual == 0
    finally:
        server.process.send_signal(signal.SIGCONT)
    await until(lambda: broker.hub.subscriptions.actual == 1, "subscribed again")
    await until(lambda: _answers(broker), "the server was found again")
    if (await broker.query("t")).state is TaskState.PENDING:
        await broker.cancel("t")
    assert (await holding).state.is_terminal


async def _answers(broker: Broker) -> bool:
    try:
        await broker.query("t")
    except StoreUnavailableError:
        return False
    return True


async def test_a_wait_that_ends_while_the_server_is_away_tells_what_was_known(
    redis_url: str, closing: AsyncExitStack, open_broker: OpenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.store.link.COMMAND_DEADLINE_S", 0.2)
    proxy = await closing.enter_async_context(Proxy(redis_url))
    broker = await open_broker(proxy.url)
    holding = held(broker, request(broker), 1)
    await until(lambda: broker.hub.subscriptions.actual == 1, "the create is held")
    await proxy.refuse()
    task = await holding
    assert (task.uuid, task.state) == ("t", TaskState.PENDING)
    assert b'"state":"pending"' in task.document


async def test_a_creation_that_nobody_confirmed_is_an_outage(
    redis_url: str, closing: AsyncExitStack, open_broker: OpenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.store.link.COMMAND_DEADLINE_S", 0.2)
    proxy = await closing.enter_async_context(Proxy(redis_url))
    broker = await open_broker(proxy.url)
    await proxy.refuse()
    for wait_s in (0, 0.01, 20):
        with pytest.raises(StoreUnavailableError):
            await broker.holding.create(request(broker), wait_s)
    assert broker.hub.held == 0


@pytest.mark.parametrize("way", ["created", "looked up", "by key"])
async def test_a_wait_ends_in_time_while_the_server_is_frozen(
    redis_url: str, closing: AsyncExitStack, open_broker: OpenBroker, way: str
) -> None:
    proxy = await closing.enter_async_context(Proxy(redis_url))
    broker = await open_broker(proxy.url)
    first = await broker.transitions.create(request(broker, uuid=None, key="k"))
    started = time.monotonic()
    if way == "looked up":
        holding = asyncio.create_task(broker.holding.query(first.uuid, 1))
    else:
        new = request(broker) if way == "created" else request(broker, uuid=None, key="k")
        holding = held(broker, new, 1)
    await until(lambda: broker.hub.subscriptions.actual == 1, "the call is held")
    proxy.freeze()
    assert (await holding).state is TaskState.PENDING
    assert time.monotonic() - started < 2
    proxy.thaw()


async def test_a_wait_that_begins_while_the_server_is_frozen_ends_in_time(
    redis_url: str, closing: AsyncExitStack, open_broker: OpenBroker
) -> None:
    proxy = await closing.enter_async_context(Proxy(redis_url))
    broker = await open_broker(proxy.url)
    await broker.create(uuid="t")
    proxy.freeze()
    started = time.monotonic()
    failures = await asyncio.gather(
        broker.holding.query("t", 0.5), broker.holding.create(request(broker, "new"), 0.5), return_exceptions=True
    )
    assert [type(failure) for failure in failures] == [StoreUnavailableError] * 2
    assert time.monotonic() - started < 1.5
    proxy.thaw()


async def test_a_drain_does_not_wait_for_a_frozen_server(
    redis_url: str, closing: AsyncExitStack, open_broker: OpenBroker
) -> None:
    proxy = await closing.enter_async_context(Proxy(redis_url))
    broker = await open_broker(proxy.url)
    await broker.create(uuid="t")
    holding = asyncio.create_task(broker.holding.query("t", 20))
    await until(lambda: broker.hub.held == 1, "the call is held")
    proxy.freeze()
    started = time.monotonic()
    broker.hub.end_all()
    assert (await holding).state is TaskState.PENDING
    assert time.monotonic() - started < 1
    proxy.thaw()


async def test_an_outcome_that_cannot_be_read_is_not_told_without_its_result(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The create's reply says that the task has ended, but not how."""
    await broker.holding.create(request(broker), 0)
    await broker.change("t", result=1)

    async def away(_: str) -> Any:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(broker.queries, "read", away)
    with pytest.raises(StoreUnavailableError):
        await broker.holding.create(request(broker), 20)


async def test_nobody_answers_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.link.Link.open.__defaults__", (0.2,))
    with pytest.raises(StoreUnavailableError):
        await Broker(Settings(redis_url="redis://127.0.0.1:1")).open()


async def test_a_url_that_cannot_be_used() -> None:
    with pytest.raises(ConfigurationError):
        await Broker(Settings(redis_url="http://127.0.0.1")).open()


async def test_closing_leaves_no_connection(redis_url: str) -> None:
    async with Proxy(redis_url) as proxy:
        async with Broker(Settings(redis_url=proxy.url)) as broker:
            await broker.create(uuid="t")
            assert proxy.connections == 2
        await until(lambda: proxy.connections == 0, "both connections are gone")


async def test_a_broker_sweeps(broker: Broker) -> None:
    await broker.create(uuid="t", expires_in=0.01)
    await until(lambda: _is_expired(broker), "the task has expired", deadline_s=5)


async def _is_expired(broker: Broker) -> bool:
    return (await broker.query("t")).state is TaskState.EXPIRED


async def test_a_snapshot_cannot_wait() -> None:
    task = Task(uuid="t", queue="q", state=TaskState.PENDING)
    with pytest.raises(RuntimeError, match="snapshot"):
        await task.wait(1)


# Lists, retries, numbers


async def test_an_ended_task_can_be_retried(broker: Broker) -> None:
    await broker.create("q", {"n": 1}, uuid="t", priority=3)
    await broker.change("t", "failed")
    new = await broker.retry("t")
    assert (new.queue, new.state, new.retry_of) == ("q", TaskState.PENDING, "t")
    assert new.uuid != "t"
    await broker.change(new.uuid, result=1)
    assert (await new.wait(timeout=5)).retry_of == "t"


async def test_a_retry_with_a_key_is_made_once(broker: Broker) -> None:
    await broker.create("q", uuid="t")
    with pytest.raises(TaskConflictError, match="still pending"):
        await broker.retry("t", idempotency_key="k")
    await broker.change("t", "failed")
    first = await broker.retry("t", idempotency_key="k")
    assert (await broker.retry("t", idempotency_key="k")).uuid == first.uuid
    assert (await broker.retry("t", idempotency_key="other")).uuid != first.uuid
    assert (await broker.create("q", idempotency_key="k")).uuid != first.uuid
    with pytest.raises(InvalidRequestError):
        await broker.retry("t", idempotency_key="k" * 256)


async def test_tasks_are_listed_in_pages(broker: Broker) -> None:
    for number in range(3):
        await broker.create("q", number, uuid=f"t{number}")
    await broker.change("t1", result=[1.0])
    first = await broker.list(limit=2)
    assert [task.uuid for task in first.items] == ["t2", "t1"]
    assert first.items[1].result == [1.0]
    second = await broker.list(limit=2, cursor=first.cursor)
    assert [task.uuid for task in second.items] == ["t0"]
    assert second.cursor is None
    assert [task.uuid for task in (await broker.list(queue="q", state="succeeded")).items] == ["t1"]


@pytest.mark.parametrize("argument", [{"limit": 0}, {"limit": 501}, {"state": "done"}, {"cursor": "x"}, {"queue": "-"}])
async def test_a_list_that_cannot_be(broker: Broker, argument: dict[str, Any]) -> None:
    (field,) = argument
    with pytest.raises(InvalidRequestError, match=field):
        await broker.list(**argument)


async def waiters(broker: Broker) -> list[int]:
    """Held calls of each queue."""
    return [queue.waiters for queue in await broker.queues()]


async def until_waiters(broker: Broker, *numbers: int) -> None:
    async def are_there() -> bool:
        return await waiters(broker) == list(numbers)

    await until(are_there, f"{numbers} calls are held")


async def test_held_calls_are_counted_by_their_queue(broker: Broker) -> None:
    holding = [held(broker, request(broker, f"t{number}", queue="q"), 20) for number in range(3)]
    await until_waiters(broker, 3)
    for number in range(3):
        await broker.change(f"t{number}")
    await asyncio.gather(*holding)
    await until_waiters(broker, 0)


async def test_a_broker_that_closes_is_gone_at_once(redis_url: str, broker: Broker) -> None:
    async with Broker(Settings(redis_url=redis_url)) as closing_broker:
        holding = held(closing_broker, request(closing_broker, queue="q"))
        await until_waiters(broker, 1)
    await holding
    assert await waiters(broker) == [0]


# Limits


async def test_a_full_queue(redis_url: str, open_broker: OpenBroker) -> None:
    broker = await open_broker(redis_url, queue_max_pending=1)
    await broker.create("q", uuid="first")
    with pytest.raises(QueueFullError):
        await broker.create("q")
    with pytest.raises(QueueFullError):
        await broker.holding.create(request(broker, queue="q"), 20)
    assert (await broker.create("q", uuid="first")).uuid == "first"


async def test_a_waiter_is_told_that_its_task_was_dropped(redis_url: str, open_broker: OpenBroker) -> None:
    broker = await open_broker(redis_url, queue_max_pending=1, queue_full="drop-oldest")
    await broker.create("q", uuid="t")
    holding = asyncio.create_task(broker.holding.query("t", 20))
    await until(lambda: broker.hub.subscriptions.actual == 1, "it is held")
    await broker.create("q", uuid="next")
    dropped = await holding
    assert dropped.state is TaskState.FAILED
    assert b'"code":"queue-full"' in dropped.document


async def test_no_more_waits_are_held_than_may_be(redis_url: str, open_broker: OpenBroker) -> None:
    broker = await open_broker(redis_url, max_waiters=1)
    holding = held(broker, request(broker))
    await until(lambda: broker.hub.subscriptions.actual == 1, "one is held")
    with pytest.raises(TooManyWaitersError):
        await broker.holding.create(request(broker, "other"), 20)
    with pytest.raises(TaskNotFoundError):
        await broker.query("other")
    await broker.create(uuid="other")
    with pytest.raises(TooManyWaitersError):
        await broker.holding.query("other", 20)
    assert (await broker.holding.query("other", 0)).state is TaskState.PENDING
    await broker.change("other")
    assert (await broker.holding.query("other", 20)).state is TaskState.SUCCEEDED
    await broker.change("t")
    await holding
    third = await broker.create(uuid="third")
    with pytest.raises(TimeoutError):
        await third.wait(timeout=0.05)


async def test_a_create_may_drop_a_task_that_its_own_connection_waits_for(
    redis_url: str, open_broker: OpenBroker
) -> None:
    broker = await open_broker(redis_url, queue_max_pending=1, queue_full="drop-oldest")
    for number in range(20):
        await broker.create("q", uuid=f"t{number}")
        holding = held(broker, request(broker, f"t{number}", queue="q"))
        await until(lambda number=number: broker.hub.held == 1, "it is held")  # type: ignore[misc]
        await broker.hub.confirm()
        dropping = held(broker, request(broker, f"other{number}", queue="q"))
        assert (await holding).state is TaskState.FAILED
        assert await broker.change(f"other{number}", result=number)
        assert (await dropping).state is TaskState.SUCCEEDED
    assert broker.hub.subscriptions.reconnects == 0
    assert broker.hub.rescued == 0
