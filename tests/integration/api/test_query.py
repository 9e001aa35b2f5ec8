"""queryTaskState: the task whatever its state, conditional reads, held reads."""

from __future__ import annotations

import httpx
import pytest

from tests.support.api import WorkerProcess
from tests.support.caller import Caller, code_of
from tests.support.channels import Channels
from tests.support.processes import wait_until


def test_any_instance_answers_for_any_task(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    created = a.create(uuid=uuid, queue=queue).json()

    assert a.query(uuid).json() == created
    assert b.query(uuid).json() == created


def test_a_running_task_has_a_start(a: Caller, b: Caller, worker: WorkerProcess, uuid: str) -> None:
    a.create(uuid=uuid, queue="test-deferred")
    wait_until(lambda: b.query(uuid).json()["state"] == "running", "the task runs")

    task = b.query(uuid).json()

    assert task["attempt"] == 1
    assert task["message"] == "in progress"
    assert "started_at" in task
    assert "finished_at" not in task


@pytest.mark.parametrize("wait", [0, 10])
def test_an_unknown_task_is_told_at_once(a: Caller, uuid: str, wait: int) -> None:
    assert code_of(a.query(uuid, wait=wait)) == (404, "task-not-found")


@pytest.mark.parametrize(
    "query", ["", "?uuid=", "?uuid=a%20b", "?uuid=a&wait=-1", "?uuid=a&wait=x", "?uuid=a&wait=nan", "?uuid=a&x=1"]
)
def test_a_query_that_cannot_be_used_is_refused(a: Caller, query: str) -> None:
    assert code_of(a.call("GET", "/queryTaskState" + query)) == (422, "invalid-request")


def test_secrets_never_show(a: Caller, b: Caller, worker: WorkerProcess, uuid: str) -> None:
    answers = [
        a.create(uuid=uuid, queue="test-deferred", payload='"private"'),
        b.query(uuid),
        b.change(uuid, result="1"),
        a.query(uuid),
        a.create(uuid=uuid, queue="test-deferred", payload='"private"'),
    ]

    for answer in answers:
        assert not {"seal", "lease", "payload"} & set(answer.json())


# Holding


def test_a_query_with_a_wait_is_held_until_the_end(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    a.create(uuid=uuid, queue=queue)
    held = b.query_later(uuid)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    a.change(uuid, result="[]")

    assert held.result().status_code == 200
    assert held.result().json()["result"] == []


def test_a_query_whose_wait_is_over_tells_the_state(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)

    answer = a.query(uuid, wait=0.2)

    assert answer.status_code == 200
    assert answer.json()["state"] == "pending"
    assert answer.elapsed.total_seconds() >= 0.2


def test_a_query_without_a_wait_is_not_held(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)

    assert a.query(uuid).elapsed.total_seconds() < 5


def test_a_longer_wait_than_the_limit_is_shortened(tight: Caller, uuid: str, queue: str) -> None:
    tight.create(uuid=uuid, queue=queue)

    assert 0.4 <= tight.query(uuid, wait=1000).elapsed.total_seconds() < 5


def test_prefer_wait_is_followed_and_answered(a: Caller, tight: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)

    answer = tight.query(uuid, headers={"prefer": "wait=60"})

    assert answer.elapsed.total_seconds() >= 0.4
    assert answer.headers["preference-applied"] == "wait=0.4"


@pytest.mark.parametrize("wait", [0, 0.1])
def test_the_query_beats_prefer(a: Caller, uuid: str, queue: str, wait: float) -> None:
    a.create(uuid=uuid, queue=queue)

    answer = a.query(uuid, wait=wait, headers={"prefer": "wait=9"})

    assert answer.elapsed.total_seconds() < 5
    assert "preference-applied" not in answer.headers


# ETag


@pytest.fixture
def known(a: Caller, uuid: str, queue: str) -> httpx.Response:
    """What a caller knows of a pending task."""
    a.create(uuid=uuid, queue=queue)
    return a.query(uuid)


@pytest.mark.parametrize("pattern", ["{0}", "W/{0}", '"x", {0}', '{0},"x"', "*", '"x" , W/{0}', '"a,b", {0}'])
def test_an_unchanged_task_is_not_sent_again(b: Caller, known: httpx.Response, pattern: str) -> None:
    etag = known.headers["etag"]

    answer = b.query(known.json()["uuid"], headers={"if-none-match": pattern.format(etag)})

    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["etag"] == etag


@pytest.mark.parametrize("text", ['"x"', 'W/"x"', "", "x"])
def test_another_etag_gets_the_task(b: Caller, known: httpx.Response, text: str) -> None:
    assert b.query(known.json()["uuid"], headers={"if-none-match": text}).status_code == 200


def test_a_changed_task_is_sent_with_another_etag(a: Caller, b: Caller, known: httpx.Response) -> None:
    uuid, etag = known.json()["uuid"], known.headers["etag"]
    a.change(uuid)

    answer = b.query(uuid, headers={"if-none-match": etag})

    assert answer.status_code == 200
    assert answer.headers["etag"] != etag


def test_both_instances_give_the_same_etag(b: Caller, known: httpx.Response) -> None:
    assert b.query(known.json()["uuid"]).headers["etag"] == known.headers["etag"]


def test_another_language_has_another_etag(b: Caller, known: httpx.Response) -> None:
    headers = {"accept-language": "zh", "if-none-match": known.headers["etag"]}

    assert b.query(known.json()["uuid"], headers=headers).status_code == 200


def test_an_answer_with_an_etag_may_be_kept_if_it_is_checked(known: httpx.Response) -> None:
    assert known.headers["cache-control"] == "no-cache"


def test_an_etag_is_compared_when_a_held_query_is_answered(
    a: Caller, b: Caller, channels: Channels, known: httpx.Response, queue: str
) -> None:
    uuid = known.json()["uuid"]
    held = b.query_later(uuid, headers={"if-none-match": known.headers["etag"]})
    channels.wait_for_listeners(f"{queue}-response-{uuid}")
    a.change(uuid)

    assert held.result().status_code == 200
    assert held.result().json()["state"] == "succeeded"


def test_a_held_query_that_saw_no_change_is_304(b: Caller, known: httpx.Response) -> None:
    headers = {"if-none-match": known.headers["etag"]}

    answer = b.query(known.json()["uuid"], wait=0.2, headers=headers)

    assert answer.status_code == 304
    assert answer.elapsed.total_seconds() >= 0.2


@pytest.mark.parametrize("unknown", ["*", '"x"'])
def test_an_unknown_task_is_404_whatever_the_etag(a: Caller, uuid: str, unknown: str) -> None:
    assert a.query(uuid, headers={"if-none-match": unknown}).status_code == 404


def test_head_is_get_without_a_body(a: Caller, known: httpx.Response) -> None:
    answer = a.call("HEAD", f"/queryTaskState?uuid={known.json()['uuid']}")

    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["etag"] == known.headers["etag"]
    assert answer.headers["content-length"] == str(len(known.content))
