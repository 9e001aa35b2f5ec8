"""Lists of tasks, retries of ended ones, and the numbers of queues, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api import WorkerProcess
from tests.support.caller import Caller, code_of, value_bytes
from tests.support.processes import wait_until

# GET /tasks


def uuids(caller: Caller, query: str) -> list[str]:
    """What a page holds."""
    return [item["uuid"] for item in caller.call("GET", f"/tasks?{query}").json()["items"]]


def test_the_newest_created_comes_first_on_every_instance(a: Caller, b: Caller, queue: str) -> None:
    for number in range(3):
        a.create(uuid=f"{queue}-{number}", queue=queue)

    assert uuids(b, f"queue={queue}") == [f"{queue}-{number}" for number in (2, 1, 0)]


def test_an_item_is_the_task_as_a_query_answers_it(a: Caller, queue: str, uuid: str) -> None:
    a.create(uuid=uuid, queue=queue, payload="[1.0]")
    a.change(uuid, result="[1.0, 9007199254740993]")

    answer = a.call("GET", f"/tasks?queue={queue}", headers={"accept-language": "zh"})

    assert answer.content == b'{"items":[%s]}' % a.query(uuid, headers={"accept-language": "zh"}).content
    assert answer.json()["items"][0]["message"] == "已完成"


def test_pages_follow_one_another(a: Caller, b: Caller, queue: str) -> None:
    for number in range(5):
        a.create(uuid=f"{queue}-{number}", queue=queue)

    found, target = list[str](), f"/tasks?queue={queue}&limit=2"
    page = a.call("GET", target).json()
    while True:
        found += [item["uuid"] for item in page["items"]]
        assert len(page["items"]) <= 2
        if "cursor" not in page:
            break
        page = b.call("GET", f"{target}&cursor={page['cursor']}").json()

    assert found == [f"{queue}-{number}" for number in range(4, -1, -1)]


@pytest.mark.parametrize("state", ["pending", "succeeded", "failed", "cancelled", "running", "expired"])
def test_a_state_can_be_asked_for(a: Caller, queue: str, state: str) -> None:
    for outcome in ("pending", "succeeded", "failed", "cancelled"):
        a.create(uuid=f"{queue}-{outcome}", queue=queue)
        if outcome != "pending":
            a.change(f"{queue}-{outcome}", state=outcome)

    expected = [] if state in ("running", "expired") else [f"{queue}-{state}"]
    assert uuids(a, f"queue={queue}&state={state}") == expected


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "state=done", "queue=A", "cursor=", "cursor=zz", "cursor=-1", "wait=1"]
)
def test_a_list_that_cannot_be(a: Caller, query: str) -> None:
    answer = a.call("GET", f"/tasks?{query}")

    assert code_of(answer) == (422, "invalid-request")


def test_an_invented_cursor_is_harmless(a: Caller, queue: str) -> None:
    a.create(queue=queue)

    assert a.call("GET", f"/tasks?queue={queue}&cursor=0").json() == {"items": []}
    assert len(uuids(a, f"queue={queue}&cursor=fffffffffffff")) == 1


def test_a_list_has_a_head(a: Caller) -> None:
    assert a.call("HEAD", "/tasks?limit=1").status_code == 200


# POST /retryTask


def retry(caller: Caller, uuid: str, **headers: str) -> Any:
    return caller.call("POST", "/retryTask", json={"uuid": uuid}, headers=headers)


def test_a_failed_task_becomes_a_new_one(a: Caller, b: Caller, queue: str, uuid: str) -> None:
    a.create(uuid=uuid, queue=queue, payload="{}")
    a.change(uuid, state="failed")
    before = a.query(uuid).content

    answer = retry(b, uuid)

    new = answer.json()
    assert (answer.status_code, new["state"], new["queue"], new["retry_of"]) == (200, "pending", queue, uuid)
    assert new["links"]["query"] == f"/queryTaskState?uuid={new['uuid']}"
    assert a.query(new["uuid"]).content == answer.content
    assert a.query(uuid).content == before


@pytest.mark.usefixtures("worker")
def test_the_payload_comes_along_byte_for_byte(a: Caller, b: Caller, uuid: str) -> None:
    payload = '[1.0, 9007199254740993, {"b":[],"a":{}}]'
    a.create(uuid=uuid, queue="test-echo", payload=payload, delay=3600)
    a.change(uuid, state="failed")

    new = retry(a, uuid).json()["uuid"]

    assert value_bytes(b.query(new, wait=10), "result") == b'[1.0,9007199254740993,{"b":[],"a":{}}]'


def test_a_key_makes_a_repeated_retry_find_the_same_task(a: Caller, b: Caller, queue: str, uuid: str) -> None:
    a.create(uuid=uuid, queue=queue)
    a.change(uuid, state="failed")

    first = retry(a, uuid, **{"Idempotency-Key": "k"}).json()["uuid"]

    assert retry(b, uuid, **{"Idempotency-Key": '"k"'}).json()["uuid"] == first
    assert retry(b, uuid).json()["uuid"] != first


def test_an_open_task_is_not_retried(a: Caller, queue: str, uuid: str) -> None:
    a.create(uuid=uuid, queue=queue)

    assert code_of(retry(a, uuid)) == (409, "task-conflict")


@pytest.mark.parametrize("state", ["succeeded", "cancelled"])
def test_a_task_that_ended_otherwise_is_not_retried(a: Caller, queue: str, uuid: str, state: str) -> None:
    a.create(uuid=uuid, queue=queue)
    a.change(uuid, state=state)

    answer = retry(a, uuid)

    assert code_of(answer) == (409, "task-already-final")
    assert answer.json()["task"] == a.query(uuid).json()


def test_an_unknown_task_is_not_retried(a: Caller, uuid: str) -> None:
    assert code_of(retry(a, uuid)) == (404, "task-not-found")


@pytest.mark.parametrize("body", [{}, {"uuid": "a b"}, {"uuid": "a", "queue": "q"}])
def test_a_retry_that_cannot_be(a: Caller, body: dict[str, str]) -> None:
    assert code_of(a.call("POST", "/retryTask", json=body)) == (422, "invalid-request")


def test_a_get_retries_nothing(a: Caller) -> None:
    assert code_of(a.call("GET", "/retryTask?uuid=a")) == (405, "method-not-allowed")


# GET /queues


def numbers(caller: Caller, queue: str) -> dict[str, Any] | None:
    """What is told of one queue."""
    items = caller.call("GET", "/queues").json()["items"]
    return next((item for item in items if item["queue"] == queue), None)


def test_what_a_queue_holds(a: Caller, b: Caller, queue: str) -> None:
    a.create(queue=queue)
    a.create(queue=queue, delay=3600)
    held = a.create_later(queue=queue, uuid=queue)
    wait_until(lambda: (numbers(b, queue) or {}).get("waiters") == 1, "the held call is told")

    found = numbers(b, queue)

    assert found is not None
    assert found.pop("oldest_pending_age") > 0
    assert found == {
        **{"queue": queue, "pending": 2, "running": 0, "deferred": 0, "delayed": 1},
        **{"workers": 0, "waiters": 1, "limits": None},
    }
    a.change(queue)
    held.result()


def test_workers_and_what_they_leave_to_others(a: Caller, b: Caller, worker: WorkerProcess, uuid: str) -> None:
    a.create(uuid=uuid, queue="test-deferred")
    wait_until(lambda: (numbers(b, "test-deferred") or {}).get("deferred") == 1, "the task is deferred")
    wait_until(lambda: (numbers(b, "test-deferred") or {}).get("workers") == 1, "its worker is there")

    a.change(uuid)

    found = numbers(b, "test-deferred")
    assert found is not None
    assert (found["deferred"], found["running"], found["oldest_pending_age"]) == (0, 0, None)


def test_queues_take_no_fields(a: Caller) -> None:
    assert code_of(a.call("GET", "/queues?queue=q")) == (422, "invalid-request")
