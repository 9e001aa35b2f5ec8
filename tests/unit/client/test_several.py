"""Batches and waits for several tasks over HTTP, against an API that answers from a script."""

from __future__ import annotations

from typing import Any

import pytest

from broker.client import RemoteTask
from broker.client.several import MOST_BATCH_BYTES
from broker.errors import ApiError, InvalidRequestError, TaskNotFoundError
from broker.task import TaskState
from tests.unit.client.fake_api import FakeApi, Step, answer, broken, problem, task

UNKNOWN = {"status": 404, "problem": {"code": "task-not-found", "status": 404, "title": "Unknown", "detail": "Gone."}}


def items(*states: str) -> Step:
    return answer({"items": [{"status": 200, "task": task(state, uuid=f"t{i}")} for i, state in enumerate(states)]})


async def test_a_batch_is_one_call_that_may_be_repeated() -> None:
    api = FakeApi(broken, answer({"items": [{"status": 202, "task": task("pending")}, UNKNOWN]}))

    first, second = await api.client().create_many([{"queue": "q", "payload": [1.0]}, {"uuid": "b", "priority": None}])

    assert isinstance(first, RemoteTask)
    assert first.state is TaskState.PENDING
    assert isinstance(second, TaskNotFoundError)
    assert second.uuid == "b"
    assert api.asked == ["POST /createTasks"] * 2
    assert api.body(0) == api.body(1)
    sent = api.body()["tasks"]
    assert (sent[0]["payload"], len(sent[0]["uuid"]), sent[1]) == ([1.0], 32, {"uuid": "b"})


async def test_more_than_one_call_takes_are_several() -> None:
    def created(request: Any) -> Any:
        sent = api.body(len(api.requests) - 1)["tasks"]
        return answer({"items": [{"status": 202, "task": task("pending", uuid=one["uuid"])} for one in sent]})(request)

    api = FakeApi(created)
    many = [{"uuid": f"t{place}"} for place in range(1_001)]
    long = [{"uuid": f"u{place}", "payload": "x" * (MOST_BATCH_BYTES // 2)} for place in range(3)]

    made = await api.client().create_many([*many, *long])

    assert [getattr(one, "uuid", None) for one in made] == [one["uuid"] for one in [*many, *long]]
    assert [len(api.body(place)["tasks"]) for place in range(len(api.requests))] == [1_000, 2, 1, 1]


async def test_raw_payloads_travel_as_they_are() -> None:
    api = FakeApi(answer({"items": [{"status": 202, "task": task("pending")}]}))
    await api.client().create_many([{"payload_json": b'{"a": 1.0}'}])
    assert b'"payload":{"a": 1.0}' in api.requests[0].content


async def test_a_wait_goes_on_over_several_calls() -> None:
    api = FakeApi(items("pending", "running"), items("succeeded", "running"), items("succeeded", "failed"))

    done = await api.client().gather(["t0", "t1"])

    assert [getattr(one, "state", None) for one in done] == [TaskState.SUCCEEDED, TaskState.FAILED]
    assert api.asked == ["GET /queryTaskState?uuid=t0&uuid=t1&until=all&wait=50"] * 3


async def test_a_wait_ends_with_the_first_or_with_its_time() -> None:
    api = FakeApi(items("pending", "succeeded"))
    assert len(await api.client().gather(["t0", "t1"], until="any")) == 2
    assert len(api.requests) == 1

    api = FakeApi(items("pending"))
    (still,) = await api.client().gather(["t0"], timeout=3)
    assert isinstance(still, RemoteTask)
    assert still.state is TaskState.PENDING
    assert api.time.now >= 1_003


async def test_an_unknown_task_counts_as_ended() -> None:
    api = FakeApi(answer({"items": [UNKNOWN]}))
    (unknown,) = await api.client().gather(["t0"])
    assert isinstance(unknown, TaskNotFoundError)


@pytest.mark.parametrize("document", [{}, {"items": []}, {"items": [1]}, {"items": [{"status": 200, "task": 1}]}])
async def test_what_is_no_list_of_tasks_is_an_error(document: object) -> None:
    with pytest.raises(ApiError):
        await FakeApi(answer(document)).client().gather(["t0"])


async def test_a_refusal_of_the_whole_is_raised() -> None:
    with pytest.raises(InvalidRequestError):
        await FakeApi(problem(422, "invalid-request")).client().create_many([{}])
