"""`broker.run`: a worker's result as if it were a function's, and exclusive calls from Python, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker import Broker, Settings, Task, TaskError, TaskFailedError, TaskState, WaiterExistsError, Worker
from broker.errors import InvalidRequestError
from broker.fastapi import DeferredResult
from tests.support.store import until

SOON_S = 0.02


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[Broker]:
    async with Broker(Settings(redis_url=redis_url)) as broker:
        yield broker


@pytest.fixture
async def worker(redis_url: str) -> AsyncIterator[None]:
    worker = Worker()

    @worker.handler("double", max_attempts=1)
    async def double(task: Task) -> int:
        if task.payload is None:
            raise TaskError("Nothing to double.", code="nothing", details=[1])
        return int(task.payload) * 2

    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(Settings(redis_url=redis_url), stop=stop))
    yield
    stop.set()
    await running


async def test_the_result_of_a_worker(broker: Broker, worker: None) -> None:
    assert await broker.run("double", 21, timeout=10) == 42
    # The same uuid runs once.
    assert await broker.run("double", 5, uuid="u", timeout=10) == await broker.run("double", 5, uuid="u") == 10


async def test_a_failure_is_raised(broker: Broker, worker: None) -> None:
    with pytest.raises(TaskFailedError, match="Nothing to double") as failed:
        await broker.run("double", timeout=10)
    assert (failed.value.code, failed.value.details) == ("nothing", [1])
    assert failed.value.task.state is TaskState.FAILED


async def test_what_ended_without_an_error_has_its_state_for_a_code(broker: Broker) -> None:
    running = asyncio.create_task(broker.run("nobody", uuid="u"))
    await until(lambda: broker.hub.held, "it is held")
    await broker.cancel("u")
    with pytest.raises(TaskFailedError, match="u has been cancelled") as failed:
        await running
    assert failed.value.code == "cancelled"


async def test_a_wait_that_is_over_or_cancelled_leaves_the_task_alone(broker: Broker) -> None:
    with pytest.raises(TimeoutError, match="u is still pending"):
        await broker.run("nobody", uuid="u", timeout=SOON_S)
    running = asyncio.create_task(broker.run("nobody", uuid="u"))
    await until(lambda: broker.hub.held, "it is held")
    running.cancel()
    await asyncio.wait({running})
    assert broker.hub.held == 0
    assert (await broker.query("u")).state is TaskState.PENDING
    await broker.change("u", result="late")
    assert await broker.run("nobody", uuid="u") == "late"


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_a_timeout_that_is_none(broker: Broker, timeout: float) -> None:
    with pytest.raises(InvalidRequestError, match="`timeout` must be"):
        await broker.run("nobody", timeout=timeout)
    with pytest.raises(InvalidRequestError, match="`timeout` must be"):
        DeferredResult(broker, timeout=timeout)


async def test_a_closed_broker_ends_the_wait(redis_url: str) -> None:
    async with Broker(Settings(redis_url=redis_url)) as broker:
        running = asyncio.create_task(broker.run("nobody"))
        await until(lambda: broker.hub.held, "it is held")
    with pytest.raises(TimeoutError):
        await running


async def test_exclusive_calls_from_python(broker: Broker) -> None:
    first = asyncio.create_task(broker.run("nobody", uuid="u", exclusive=True))
    await until(lambda: broker.hub.held, "it is held")
    with pytest.raises(WaiterExistsError) as refused:
        await broker.create("nobody", uuid="u", exclusive=True)
    assert refused.value.uuid == "u"
    await broker.change("u", result=1)
    assert await first == 1
    assert (await broker.create("nobody", uuid="u", exclusive=True)).result == 1
