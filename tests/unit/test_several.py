"""Batches and waits for several tasks as a program uses them, and what they say when Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker import Broker, Settings
from broker.errors import BrokerError, InvalidRequestError, StoreUnavailableError, TaskConflictError, TaskNotFoundError
from broker.store import link
from broker.task import Task, TaskState
from tests.support.proxy import Proxy
from tests.support.store import until


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[Broker]:
    async with Broker(Settings(redis_url=redis_url)) as broker:
        yield broker


def tasks(items: object) -> list[Task]:
    assert isinstance(items, list)
    assert all(isinstance(item, Task) for item in items), items
    return items


async def test_many_tasks_are_created_in_order(broker: Broker) -> None:
    created = tasks(await broker.create_many({"uuid": f"t{place}", "payload": [place]} for place in range(2_001)))

    assert [task.uuid for task in created] == [f"t{place}" for place in range(2_001)]
    assert await broker.query("t2000") == created[-1]


async def test_those_that_fail_stand_in_their_place(broker: Broker) -> None:
    await broker.create("q", 1, uuid="known")

    wrong, conflicting, attached, nameless = await broker.create_many(
        [
            {"uuid": "a b"},
            {"queue": "q", "uuid": "known"},
            {"queue": "q", "uuid": "known", "payload": 1},
            {"queue": "q"},
        ]
    )

    assert isinstance(wrong, InvalidRequestError)
    assert wrong.field == "tasks[0].uuid"
    assert isinstance(conflicting, TaskConflictError)
    assert [task.uuid for task in tasks([attached])] == ["known"]
    assert tasks([nameless])[0].uuid


async def test_several_are_waited_for(broker: Broker) -> None:
    names = [task.uuid for task in tasks(await broker.create_many([{"queue": "q"}] * 3))]
    waiting = asyncio.create_task(broker.gather(names, timeout=20))
    first = asyncio.create_task(broker.gather(names, timeout=20, until="any"))
    await until(lambda: broker.hub.subscriptions.actual == 3, "they are waited for")
    await broker.change(names[1], result=1)
    assert [task.state.is_terminal for task in tasks(await first)] == [False, True, False]
    await broker.change(names[0], result=0)
    await broker.cancel(names[2])

    assert [(task.state, task.result) for task in tasks(await waiting)] == [
        (TaskState.SUCCEEDED, 0),
        (TaskState.SUCCEEDED, 1),
        (TaskState.CANCELLED, None),
    ]
    assert broker.hub.held == 0


async def test_an_unknown_one_is_an_error_in_its_place(broker: Broker) -> None:
    await broker.create("q", uuid="t")

    known, unknown = await broker.gather(["t", "unknown"], timeout=0)

    assert isinstance(known, Task)
    assert isinstance(unknown, TaskNotFoundError)


async def test_a_record_that_goes_meanwhile_ends_its_wait(broker: Broker) -> None:
    await broker.create("q", uuid="t", retention=0)
    waiting = asyncio.create_task(broker.gather(["t", "t"], timeout=20))
    await until(lambda: broker.hub.subscriptions.actual == 1, "it is waited for")
    await broker.cancel("t")

    assert {type(item) for item in await waiting} <= {Task, TaskNotFoundError}


async def test_what_cannot_be_asked(broker: Broker) -> None:
    for uuids in ([], ["a b"], ["t"] * 101):
        with pytest.raises(InvalidRequestError):
            await broker.gather(uuids)


async def test_an_outage_at_the_end_of_a_wait_tells_what_is_known(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "COMMAND_DEADLINE_S", 0.4)
    async with Proxy(redis_url) as proxy, Broker(Settings(redis_url=proxy.url)) as broker:
        await broker.create_many([{"queue": "q", "uuid": uuid} for uuid in "ab"])
        waiting = asyncio.create_task(broker.gather(["a", "b"], timeout=0.4))
        await until(lambda: broker.hub.subscriptions.actual == 2, "they are waited for")
        proxy.freeze()

        assert [task.state for task in tasks(await waiting)] == [TaskState.PENDING] * 2
        with pytest.raises(StoreUnavailableError):
            await broker.gather(["a", "b"], timeout=0)
        outage = asyncio.create_task(broker.create_many([{"queue": "q"}, {"queue": "Q"}]))
        with pytest.raises(StoreUnavailableError):
            await outage


async def test_what_fits_no_more_is_told(redis_url: str) -> None:
    async with Broker(Settings(redis_url=redis_url, max_batch_bytes=2_000)) as broker:
        for uuid in "abc":
            await broker.create("q", uuid=uuid)
            await broker.change(uuid, result="x" * 800)
        items: list[BrokerError | Task] = [*await broker.gather(["a", "b", "c"])]
        assert [getattr(item, "code", "task") for item in items] == ["task", "task", "payload-too-large"]
