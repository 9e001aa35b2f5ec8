"""createTask: what it makes, how long it holds, what it says when the wait is over."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import httpx
import pytest

from broker import Broker, Settings
from broker.store.claims import ClaimWish
from tests.integration.api.conftest import Deployment
from tests.support.api import WorkerProcess
from tests.support.caller import Caller, code_of, value_bytes
from tests.support.channels import Channels
from tests.support.processes import wait_until

FORMS = pytest.mark.parametrize("by", ["POST", "GET"])
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


# What comes back


@FORMS
def test_a_new_task_is_pending(a: Caller, uuid: str, queue: str, by: str) -> None:
    answer = a.create(by=by, uuid=uuid, queue=queue, payload='{"branch":"x"}')

    assert answer.status_code == 202
    task = answer.json()
    times = [task.pop(name) for name in ("created_at", "expires_at")]
    assert all(_TIME.fullmatch(time) for time in times)
    assert task == {
        "uuid": uuid,
        "queue": queue,
        "state": "pending",
        "message": "in progress",
        "attempt": 0,
        "links": {"query": f"/queryTaskState?uuid={uuid}", "events": f"/taskEvents?uuid={uuid}"},
    }


@FORMS
def test_an_answer_that_is_not_the_end_says_where_to_ask_again(a: Caller, uuid: str, queue: str, by: str) -> None:
    answer = a.create(by=by, uuid=uuid, queue=queue)

    assert answer.headers["location"] == f"/queryTaskState?uuid={uuid}"
    assert answer.headers["retry-after"].isdigit()
    assert a.call("GET", answer.headers["location"]).json()["state"] == "pending"


@pytest.mark.parametrize("body", [b"", b"  ", b"{}"], ids=["nothing", "blanks", "empty-object"])
def test_no_body_is_an_empty_one(tight: Caller, body: bytes) -> None:
    answer = tight.call("POST", "/createTask", content=body)

    assert answer.status_code in (200, 202)
    assert answer.json()["queue"] == "createbranch"
    tight.cancel(answer.json()["uuid"])


def test_a_get_without_parameters_is_an_empty_body(a: Caller) -> None:
    answer = a.call("GET", "/createTask", headers={"prefer": "wait=0"})

    assert answer.json()["queue"] == "createbranch"
    a.cancel(answer.json()["uuid"])


def test_uuids_made_here_are_long_and_different(a: Caller, queue: str) -> None:
    uuids = {a.create(queue=queue).json()["uuid"] for _ in range(5)}

    assert len(uuids) == 5
    # 122 bits in letters of at most 6 bits each.
    assert all(len(uuid) >= 21 for uuid in uuids)


def test_a_content_type_with_parameters_is_json(a: Caller, queue: str) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    assert a.call(
        "POST", "/createTask", content=b'{"wait":0,"queue":"%s"}' % queue.encode(), headers=headers
    ).is_success


# Holding


@FORMS
def test_a_call_is_held_until_its_worker_has_finished(a: Caller, worker: WorkerProcess, uuid: str, by: str) -> None:
    answer = a.create(by=by, uuid=uuid, queue="test-echo", payload='{"branch":"x"}', wait=10)

    assert answer.status_code == 200
    task = answer.json()
    assert task["state"] == "succeeded"
    assert task["message"] == "completed"
    assert task["result"] == {"branch": "x"}
    assert task["attempt"] == 1
    assert _times(task, "created_at", "started_at", "finished_at", "expires_at") == sorted(
        _times(task, "created_at", "started_at", "finished_at", "expires_at")
    )
    assert "location" not in answer.headers


def test_a_failed_task_is_an_answer_like_any_other(a: Caller, worker: WorkerProcess) -> None:
    answer = a.create(queue="test-fails", payload='"x"', wait=10)

    assert answer.status_code == 200
    assert answer.json()["state"] == "failed"
    assert answer.json()["message"] == "failed"
    assert answer.json()["error"] == {
        "code": "no-branch",
        "message": "There is no such branch.",
        "details": {"branch": "x"},
    }


def test_a_deferred_task_runs_until_a_third_party_finishes_it(
    a: Caller, b: Caller, worker: WorkerProcess, uuid: str
) -> None:
    held = a.create_later(uuid=uuid, queue="test-deferred")
    wait_until(lambda: _state(b, uuid) == "running", "the task runs")

    b.change(uuid, result='{"by":"third party"}')

    assert held.result().json()["result"] == {"by": "third party"}


def test_a_wait_of_nothing_does_not_hold(a: Caller, queue: str) -> None:
    assert a.create(queue=queue, wait=0).status_code == 202


def test_a_wait_may_be_a_fraction(a: Caller, queue: str) -> None:
    answer = a.create(queue=queue, wait=0.25)

    assert answer.status_code == 202
    assert 0.25 <= answer.elapsed.total_seconds() < 5


def test_without_a_wait_the_default_applies(tight: Caller, queue: str) -> None:
    answer = tight.call("POST", "/createTask", json={"queue": queue})

    assert answer.status_code == 202
    assert answer.elapsed.total_seconds() >= 0.2


def test_a_null_wait_is_none(tight: Caller, queue: str) -> None:
    assert tight.create(queue=queue, wait=None).elapsed.total_seconds() >= 0.2


def test_a_longer_wait_than_the_limit_is_shortened(tight: Caller, queue: str) -> None:
    answer = tight.create(queue=queue, wait=1e9)

    assert answer.status_code == 202
    assert 0.4 <= answer.elapsed.total_seconds() < 5


# Prefer


def test_prefer_wait_is_followed_and_answered(a: Caller, queue: str) -> None:
    answer = a.call("POST", "/createTask", json={"queue": queue}, headers={"prefer": "wait=0"})

    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=0"


@pytest.mark.parametrize(
    "prefer",
    ["wait=0", "WAIT=0", 'wait="0"', "respond-async, wait=0", "wait=0, respond-async", "wait = 0;foo=bar"],
)
def test_prefer_wait_is_found_among_other_preferences(a: Caller, queue: str, prefer: str) -> None:
    answer = a.call("POST", "/createTask", json={"queue": queue}, headers={"prefer": prefer})

    assert answer.headers["preference-applied"] == "wait=0"


def test_prefer_wait_in_a_second_header_line_is_found(a: Caller, queue: str) -> None:
    body = b'{"queue":"%s"}' % queue.encode()
    lines = (b"Prefer: respond-async", b"Prefer: wait=0", b"Content-Length: %d" % len(body))

    answer = a.exchange("POST", "/createTask", *lines, body=body)

    assert answer.headers["preference-applied"] == "wait=0"


def test_prefer_wait_is_shortened_to_the_limit(tight: Caller, queue: str) -> None:
    answer = tight.call("POST", "/createTask", json={"queue": queue}, headers={"prefer": "wait=1000"})

    assert answer.headers["preference-applied"] == "wait=0.4"


def test_a_number_too_large_to_read_is_shortened_as_well(tight: Caller, queue: str) -> None:
    answer = tight.call("POST", "/createTask", json={"queue": queue}, headers={"prefer": "wait=" + 400 * "9"})

    assert answer.headers["preference-applied"] == "wait=0.4"


@pytest.mark.parametrize("by", ["POST", "GET"])
def test_the_body_beats_prefer(a: Caller, queue: str, by: str) -> None:
    answer = a.create(by=by, queue=queue, wait=0, headers={"prefer": "wait=9"})

    assert answer.status_code == 202
    assert answer.elapsed.total_seconds() < 5
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("prefer", ["wait", "wait=", "wait=soon", "wait=-1", "await=1", "respond-async"])
def test_a_preference_that_cannot_be_read_is_ignored(tight: Caller, queue: str, prefer: str) -> None:
    answer = tight.call("POST", "/createTask", json={"queue": queue}, headers={"prefer": prefer})

    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


# Order and time


def test_a_delayed_task_is_announced_when_it_is_due(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    heard = channels.listen(f"{queue}-request-*")
    created = a.create(uuid=uuid, queue=queue, delay=0.4).json()
    heard.assert_no_more()

    heard.next(timeout_s=5)

    assert a.query(uuid).json()["created_at"] == created["created_at"]


def test_a_delayed_task_is_not_run_before_it_is_due(a: Caller, worker: WorkerProcess) -> None:
    task = a.create(queue="test-echo", delay=0.5, wait=10).json()

    created, started = _times(task, "created_at", "started_at")
    assert (started - created).total_seconds() >= 0.5


def test_a_delayed_task_can_be_finished_before_it_is_due(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue, delay=60)

    assert a.change(uuid).json()["changed"] is True


def test_a_task_that_nobody_ended_in_time_expires(a: Caller, queue: str) -> None:
    answer = a.create(queue=queue, expires_in=0.3, wait=10)

    assert answer.status_code == 200
    assert answer.json()["state"] == "expired"
    assert answer.json()["message"] == "timed out"
    created, finished = _times(answer.json(), "created_at", "finished_at")
    assert 0.3 <= (finished - created).total_seconds() < 5


def test_an_expired_task_cannot_be_finished(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue, expires_in=0.001)
    wait_until(lambda: _state(a, uuid) == "expired", "the task expires")

    answer = a.change(uuid)

    assert code_of(answer) == (409, "task-already-final")
    assert answer.json()["task"]["state"] == "expired"


def test_expires_at_is_when_the_caller_said(a: Caller, queue: str) -> None:
    created, expires = _times(a.create(queue=queue, expires_in=90.5).json(), "created_at", "expires_at")

    assert (expires - created).total_seconds() == 90.5


def test_a_record_goes_when_its_retention_is_over(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue, retention=0.2)
    a.change(uuid)

    wait_until(lambda: a.query(uuid).status_code == 404, "the record is gone")

    assert a.create(uuid=uuid, queue=queue, payload='"another"').json()["state"] == "pending"


def test_a_record_stays_for_its_retention(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue, retention=60)
    a.change(uuid)
    gone = a.create(queue=queue, retention=0).json()["uuid"]
    a.change(gone)

    wait_until(lambda: a.query(gone).status_code == 404, "the record without retention is gone")

    assert a.query(uuid).json()["state"] == "succeeded"


def test_a_call_held_for_a_task_without_retention_gets_its_outcome(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    held = a.create_later(uuid=uuid, queue=queue, retention=0)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    b.change(uuid, result='"kept"')

    assert value_bytes(held.result(), "result") == b'"kept"'


async def test_the_highest_priority_is_claimed_first_then_the_oldest(
    a: Caller, deployment: Deployment, queue: str
) -> None:
    uuids = [a.create(queue=queue, priority=priority).json()["uuid"] for priority in (0, 9, 5, 9)]

    async with Broker.from_url(deployment.server.url, Settings()) as broker:
        claimed = (await broker.transitions.claim("test", 30_000, [ClaimWish(queue, 4)])).tasks

    assert [task.uuid for task in claimed] == [uuids[1], uuids[3], uuids[2], uuids[0]]


# What is refused


@FORMS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wait", -0.1),
        ("delay", -1),
        ("delay", 1e12),
        ("expires_in", 0),
        ("expires_in", -1),
        ("expires_in", 1e12),
        ("retention", -1),
        ("retention", 1e12),
        ("priority", -1),
        ("priority", 10),
        ("priority", 0.5),
        ("max_attempts", 0),
        ("max_attempts", 10**6),
    ],
)
def test_a_number_out_of_range_is_refused(a: Caller, queue: str, by: str, name: str, value: float) -> None:
    answer = a.create(by=by, queue=queue, **_field(name, value))

    assert code_of(answer) == (422, "invalid-request")
    assert answer.json()["field"] == name
    assert name in answer.json()["detail"]


@pytest.mark.parametrize("name", ["wait", "delay", "expires_in", "retention"])
@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf", "1e999", "soon", ""])
def test_what_is_no_number_is_refused_in_a_query(a: Caller, queue: str, name: str, text: str) -> None:
    assert code_of(a.create(by="GET", queue=queue, **_field(name, text))) == (422, "invalid-request")


@pytest.mark.parametrize(
    "member",
    [
        '"wait":"5"',
        '"wait":true',
        '"wait":[]',
        '"wait":1e999',
        '"priority":"1"',
        '"priority":1.5',
        f'"priority":{10**400}',
        '"delay":null',
        '"queue":null',
        '"queue":7',
        '"uuid":7',
        '"exclusive":1',
    ],
)
def test_a_field_of_another_type_is_refused(a: Caller, member: str) -> None:
    assert a.call("POST", "/createTask", content="{" + member + "}").status_code == 422


@FORMS
def test_an_unknown_field_is_refused(a: Caller, queue: str, by: str) -> None:
    answer = a.create(by=by, queue=queue, colour="red")

    assert code_of(answer) == (422, "invalid-request")
    assert "colour" in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"7"])
def test_a_body_that_is_no_object_is_refused(a: Caller, body: bytes) -> None:
    assert code_of(a.call("POST", "/createTask", content=body)) == (422, "invalid-request")


def test_a_field_given_twice_in_the_query_is_refused(a: Caller, queue: str) -> None:
    answer = a.call("GET", f"/createTask?queue={queue}&wait=0&wait=0")

    assert code_of(answer) == (422, "invalid-request")
    assert answer.json()["field"] == "wait"


def test_a_query_of_very_many_fields_is_refused(a: Caller) -> None:
    assert a.call("GET", "/createTask?" + "a=1&" * 1_000).status_code == 422


def test_a_query_that_is_not_utf8_is_refused(a: Caller) -> None:
    assert code_of(a.exchange("GET", "/createTask?uuid=%ff")) == (422, "invalid-request")


def test_fields_of_a_post_in_the_query_are_refused(a: Caller) -> None:
    assert code_of(a.call("POST", "/createTask?wait=0")) == (422, "invalid-request")


def test_nothing_is_created_by_a_call_that_is_refused(a: Caller, uuid: str) -> None:
    a.create(uuid=uuid, priority=10)

    assert a.query(uuid).status_code == 404


# Helpers


def _times(task: dict[str, str], *names: str) -> list[datetime]:
    return [datetime.fromisoformat(task[name]) for name in names]


def _state(caller: Caller, uuid: str) -> str:
    answer: httpx.Response = caller.query(uuid)
    return str(answer.json().get("state"))


def _field(name: str, value: object) -> dict[str, Any]:
    return {name: value}
