"""The fixtures of `broker.testing`, as a user's tests have them, with a user's application in this process."""

from __future__ import annotations

import asyncio
import os

import httpx
import pytest

from broker import Broker, Task, TaskState, Worker
from broker.errors import ConfigurationError
from broker.fastapi import DeferredResult
from broker.testing import OpenApp, RunWorker
from tests.support.shop import make_app
from tests.support.store import until

pytest_plugins = ["broker.testing"]


@pytest.mark.parametrize("time", [1, 2])
async def test_each_test_finds_an_empty_server(broker: Broker, broker_url: str, time: int) -> None:
    assert os.environ["BROKER_REDIS_URL"] == broker.settings.redis_url == broker_url
    assert not (await broker.list()).items
    await broker.create(uuid="same")


async def test_a_worker_runs_until_the_end_of_the_test(broker: Broker, run_worker: RunWorker) -> None:
    worker = Worker()

    @worker.handler("double")
    async def double(task: Task) -> int:
        return int(task.payload) * 2

    await run_worker(worker)

    assert await broker.run("double", 4, timeout=10) == 8


async def test_two_instances_of_an_application(open_app: OpenApp, broker: Broker) -> None:
    one, other = await open_app(make_app()), await open_app(make_app())
    await DeferredResult(broker, "7").open()
    held = asyncio.create_task(one.get("/orders/7"))

    assert (await other.post("/orders/7/payment", json={"amount": 5})).json() is True

    assert (await held).json() == {"amount": 5}
    assert (await one.get("/called")).json()[-1] == "completion"


async def test_a_key_of_its_own_ends_with_its_call(open_app: OpenApp, broker: Broker) -> None:
    app = await open_app(make_app())

    answer = await app.get("/own?timeout=0.01")

    key, *called = (await app.get("/called")).json()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "0")
    assert called == ["timeout", "completion"]
    assert await DeferredResult.of(broker, key).set_result("late") is False
    ended = await broker.query(key)
    assert (ended.state, ended.error and ended.error.code) == (TaskState.CANCELLED, "timeout")


async def test_a_cancelled_call_ends_its_own_key(open_app: OpenApp, broker: Broker) -> None:
    app = await open_app(make_app())
    held = asyncio.create_task(app.get("/own?timeout=20"))
    await until(lambda: _is_held(broker), "it is held")

    held.cancel()

    (task,) = (await broker.list()).items
    await until(lambda: _has_ended(broker, task.uuid), "the key has ended")
    assert (await app.get("/called")).json()[-1] == "completion"


async def test_a_result_that_is_set_before_the_call_is_held(broker: Broker) -> None:
    result = DeferredResult(broker)
    assert await result.set_result({"a": 1})
    assert not await result.set_error_result("Too late.")
    assert (await broker.query(result.key)).result == {"a": 1}


async def test_an_application_that_does_not_start(
    broker_url: str, open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_LEASE_S", "never")
    with pytest.raises(ConfigurationError, match="BROKER_LEASE_S"):
        await open_app(make_app())


async def test_an_application_without_its_lifespan_says_so() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="http://test") as client:
        answer = await client.get("/orders/1")
    assert (answer.status_code, answer.json()["code"]) == (500, "configuration")
    assert "install_broker" in answer.json()["detail"]


async def _is_held(broker: Broker) -> bool:
    return bool((await broker.list()).items)


async def _has_ended(broker: Broker, uuid: str) -> bool:
    return (await broker.query(uuid)).state.is_terminal
