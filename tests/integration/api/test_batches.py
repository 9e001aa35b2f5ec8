"""createTasks: many tasks in one call, each with an answer of its own."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.api import WorkerProcess
from tests.support.caller import Caller, code_of
from tests.support.processes import wait_until


def create_all(caller: Caller, *tasks: Any, **options: Any) -> httpx.Response:
    return caller.call("POST", "/createTasks", json={"tasks": tasks}, **options)


def statuses(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200
    return [item["status"] for item in answer.json()["items"]]


def test_each_task_is_created_as_it_would_be_alone(a: Caller, b: Caller, queue: str, uuid: str) -> None:
    tasks = [{"uuid": f"{uuid}-{place}", "queue": queue, "priority": place % 10} for place in range(300)]

    answer = create_all(a, *tasks)

    assert statuses(answer) == [202] * 300
    assert [item["task"]["uuid"] for item in answer.json()["items"]] == [task["uuid"] for task in tasks]
    for item in answer.json()["items"][::100]:
        assert b.query(item["task"]["uuid"]).json() == item["task"]


def test_a_worker_works_on_them_and_a_second_call_finds_their_ends(
    a: Caller, b: Caller, worker: WorkerProcess, uuid: str
) -> None:
    tasks = [{"uuid": f"{uuid}-{place}", "queue": "test-echo", "payload": [place, 1.5]} for place in range(20)]
    create_all(a, *tasks)
    wait_until(lambda: statuses(create_all(b, *tasks)) == [200] * 20, "all have ended")

    answer = create_all(b, *tasks)

    for task, item in zip(tasks, answer.json()["items"], strict=True):
        assert item["task"]["state"] == "succeeded"
        assert item["task"] == a.query(str(task["uuid"])).json()


def test_values_stay_the_bytes_that_came(a: Caller, b: Caller, queue: str) -> None:
    payload = b'[1.0, 9007199254740993,  "\\u00e9"]'
    body = b'{"tasks":[{"queue":"%s","payload":%s}]}' % (queue.encode(), payload)
    a.call("POST", "/createTasks", content=body, headers={"content-type": "application/json"})

    claim = b.call("POST", "/claimTask", json={"queues": [queue]})

    (task,) = msgspec.json.decode(claim.content, type=dict[str, list[dict[str, msgspec.Raw]]])["tasks"]
    assert bytes(task["payload"]) == payload


def test_one_that_cannot_be_used_harms_no_other(a: Caller, tight: Caller, queue: str, uuid: str) -> None:
    tight.create(uuid=uuid, queue=queue, payload="1")
    tasks: list[tuple[Any, int, str, str | None]] = [
        ({"queue": queue}, 202, "", None),
        ({"uuid": "a b"}, 422, "invalid-request", "tasks[1].uuid"),
        ({"uuid": uuid, "queue": queue, "payload": 2}, 409, "task-conflict", None),
        ({"uuid": uuid, "queue": queue, "payload": 1}, 202, "", None),
        ({"queue": queue, "payload": "x" * 3000}, 413, "payload-too-large", None),
        ({"queue": queue, "wait": 1}, 422, "invalid-request", "tasks[5]"),
        ({"queue": queue, "exclusive": True}, 422, "invalid-request", "tasks[6]"),
        ("no object", 422, "invalid-request", "tasks[7]"),
        ({"queue": queue, "payload": 2**70}, 422, "invalid-request", "tasks[8].payload"),
        ({"queue": queue}, 202, "", None),
    ]

    items = create_all(tight, *[task for task, *_ in tasks]).json()["items"]

    for place, (item, (_, status, code, field)) in enumerate(zip(items, tasks, strict=True)):
        assert item["status"] == status, item
        if code:
            problem = item["problem"]
            assert (problem["status"], problem["code"], problem.get("field")) == (status, code, field)
            assert problem["instance"] == "/createTasks"
            assert f"tasks[{place}]" in problem["detail"]
        else:
            assert item["task"]["queue"] == queue


def test_the_same_uuid_twice_is_one_task(a: Caller, queue: str, uuid: str) -> None:
    task = {"uuid": uuid, "queue": queue}

    answer = create_all(a, task, task, {**task, "payload": 1})

    assert statuses(answer) == [202, 202, 409]
    assert answer.json()["items"][0] == answer.json()["items"][1]


def test_no_task_is_no_harm(a: Caller) -> None:
    assert create_all(a).json() == {"items": []}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 422, "tasks"),
        (b"{", 400, "body"),
        (b'{"tasks":[{]}', 400, "body"),
        (b'{"tasks":[{}],"x":1}', 422, None),
        (b'{"tasks":{}}', 422, "tasks"),
        (b"[]", 422, None),
        (b'{"tasks":[%s{}]}' % (b"{}," * 1000), 422, "tasks"),
        (b'{"tasks":[%s0]}' % (b"0," * 7_000_000), 422, "tasks"),
        (b'{"tasks":[%s' % (b"[" * 1_000_000), 422, None),
    ],
    ids=["empty", "cut", "no object", "unknown", "object", "array", "1001", "millions", "deep"],
)
def test_a_body_that_is_no_batch_is_refused(a: Caller, body: bytes, status: int, field: str | None) -> None:
    answer = a.call("POST", "/createTasks", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == status
    if field:
        assert field in answer.json()["detail"] or answer.json().get("field") == field


def test_a_batch_is_longer_than_any_other_body(a: Caller, queue: str, uuid: str) -> None:
    text = "x" * 250_000
    tasks = [{"uuid": f"{uuid}-{place}", "queue": queue, "payload": text} for place in range(60)]

    assert statuses(create_all(a, *tasks)) == [202] * 60
    assert code_of(create_all(a, *tasks, *tasks)) == (413, "payload-too-large")


def test_an_answer_is_no_longer_than_a_batch(a: Caller, queue: str, uuid: str) -> None:
    tasks = [{"uuid": f"{uuid}-{place}", "queue": queue} for place in range(70)]
    create_all(a, *tasks)
    result = json.dumps("x" * 250_000)
    for task in tasks:
        a.change(task["uuid"], result=result)

    items = create_all(a, *tasks).json()["items"]

    told = [item["status"] for item in items]
    assert told == [200] * 67 + [413] * 3
    assert items[-1]["problem"]["code"] == "payload-too-large"
    query = "&".join(f"uuid={task['uuid']}" for task in tasks)
    assert [item["status"] for item in a.call("GET", f"/queryTaskState?{query}").json()["items"]] == told


def test_a_key_is_refused(a: Caller, queue: str) -> None:
    answer = create_all(a, {"queue": queue}, headers={"idempotency-key": "k"})

    assert code_of(answer) == (422, "invalid-request")
    assert answer.json()["field"] == "Idempotency-Key"


def test_a_full_queue_refuses_those_that_are_too_many(a: Caller, deployment: Any, queue: str) -> None:
    # Written into the scripts' arguments: any instance may have another limit.
    (instance,) = deployment.start_instances(1, queue_max_pending="3")
    caller = Caller(instance.url, a._http, a._threads)

    assert statuses(create_all(caller, *[{"queue": queue}] * 5)) == [202, 202, 202, 429, 429]
