"""changeTaskState and cancelTask: the first outcome wins, from any instance, in any of the sender's formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from broker import naming
from tests.support.api import WorkerProcess
from tests.support.caller import Caller, code_of, value_bytes
from tests.support.channels import Channels
from tests.support.processes import wait_until
from tests.support.store import READ_FIELDS

FORMS = pytest.mark.parametrize("by", ["POST", "GET"])
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=cut"


@pytest.fixture
def task(a: Caller, uuid: str, queue: str) -> str:
    """The uuid of a pending task."""
    a.create(uuid=uuid, queue=queue)
    return uuid


# Ending a task


@FORMS
def test_a_held_call_is_finished_from_the_other_instance(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str, by: str
) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    changed = b.change(uuid, by=by, result='{"commit":"9f1c"}')

    assert changed.status_code == 200
    assert changed.json()["changed"] is True
    answer = held.result()
    assert answer.status_code == 200
    assert answer.json()["state"] == "succeeded"
    assert answer.json()["message"] == "completed"
    assert answer.json()["result"] == {"commit": "9f1c"}


@FORMS
@pytest.mark.parametrize(
    ("state", "message"), [("succeeded", "completed"), ("failed", "failed"), ("cancelled", "cancelled")]
)
def test_each_outcome_is_stored(a: Caller, b: Caller, task: str, by: str, state: str, message: str) -> None:
    answer = a.change(task, by=by, state=state)

    assert (answer.json()["state"], answer.json()["message"]) == (state, message)
    stored = b.query(task).json()
    assert (stored["state"], stored["message"]) == (state, message)
    assert "finished_at" in stored


@FORMS
def test_an_error_is_stored_with_all_its_parts(a: Caller, b: Caller, task: str, by: str) -> None:
    error = {"code": "no-branch", "message": "There is none. 没有", "details": {"branch": "x"}}

    a.change(task, by=by, state="failed", error=json.dumps(error))

    assert b.query(task).json()["error"] == error


@pytest.mark.parametrize("error", [None, "{}", '{"code":"failed"}'], ids=["absent", "empty", "default-code"])
def test_an_errors_code_is_failed_unless_given(a: Caller, task: str, error: str | None) -> None:
    answer = a.change(task, state="failed", **_error(error))

    assert answer.json()["error"] == {"code": "failed"}


def test_a_cancelled_task_may_have_an_error(a: Caller, task: str) -> None:
    answer = a.change(task, state="cancelled", error='{"code":"user","message":"closed the page"}')

    assert answer.json()["error"] == {"code": "user", "message": "closed the page"}


def test_a_failed_task_may_have_a_result(a: Caller, task: str) -> None:
    assert a.change(task, state="failed", result="[1]").json()["result"] == [1]


def test_a_task_finished_without_a_result_has_none(a: Caller, task: str) -> None:
    assert "result" not in a.change(task).json()


def test_a_null_result_is_told(a: Caller, b: Caller, task: str) -> None:
    a.change(task, result="null")

    assert value_bytes(b.query(task), "result") == b"null"


def _error(text: str | None) -> dict[str, Any]:
    return {} if text is None else {"error": text}


# Repeating and contradicting


@FORMS
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"result": '{"a":1,"b":2}'}, {"result": '{"b":2,"a":1}'}),
        ({"result": "null"}, {}),
        ({}, {"result": "null"}),
        ({"state": "failed"}, {"state": "failed", "error": "{}"}),
        (
            {"state": "failed", "error": '{"details":{"a":1,"b":2}}'},
            {"state": "failed", "error": '{"details":{"b":2,"a":1}}'},
        ),
        ({"state": "cancelled"}, {"state": "cancelled"}),
    ],
    ids=["key-order", "null-absent", "absent-null", "default-error", "details-order", "cancelled"],
)
def test_the_same_outcome_again_changes_nothing(
    a: Caller, b: Caller, task: str, by: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    winner = a.change(task, **first)
    again = b.change(task, by=by, **second)

    assert again.status_code == 200
    assert again.json()["changed"] is False
    assert again.json()["message"] == "already completed, nothing to set again"
    assert again.json()["finished_at"] == winner.json()["finished_at"]


@FORMS
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"result": "1"}, {"result": "2"}),
        ({"result": "[1,2]"}, {"result": "[2,1]"}),
        ({"result": "1"}, {"state": "failed"}),
        ({"state": "cancelled"}, {}),
        ({"state": "failed", "error": '{"code":"x"}'}, {"state": "failed", "error": '{"code":"y"}'}),
        ({}, {"result": "0"}),
    ],
    ids=["result", "order", "state", "cancelled", "error", "absent"],
)
def test_another_outcome_is_refused_with_the_winner(
    a: Caller, b: Caller, task: str, by: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    a.change(task, **first)
    winner = a.query(task)

    answer = b.change(task, by=by, **second)

    assert code_of(answer) == (409, "task-already-final")
    assert answer.json()["task"] == winner.json()
    assert b.query(task).content == winner.content


def test_the_winner_is_told_byte_for_byte(a: Caller, b: Caller, task: str) -> None:
    a.change(task, result="[ 1.0, 9007199254740993, {} ]")

    assert b'"result":[ 1.0, 9007199254740993, {} ]' in b.change(task, state="failed").content


def test_of_many_at_once_exactly_one_wins(a: Caller, b: Caller, threads: ThreadPoolExecutor, task: str) -> None:
    calls = [threads.submit(caller.change, task, result=str(number)) for number in range(10) for caller in (a, b)]
    answers = [call.result() for call in calls]

    won = [answer for answer in answers if answer.status_code == 200 and answer.json()["changed"]]
    assert len(won) == 1
    stored = a.query(task).json()["result"]
    assert stored == won[0].json()["result"]
    for answer in answers:
        told = answer.json() if answer.status_code == 200 else answer.json()["task"]
        assert told["result"] == stored


def test_repeating_publishes_nothing(a: Caller, b: Caller, channels: Channels, task: str, queue: str) -> None:
    heard = channels.listen(f"{queue}-response-*")
    for caller in (a, b, a):
        caller.change(task)
    b.change(task, state="failed")

    heard.next()
    heard.assert_no_more()


# Refused


@FORMS
def test_an_unknown_task_is_told(a: Caller, uuid: str, by: str) -> None:
    assert code_of(a.change(uuid, by=by)) == (404, "task-not-found")


@FORMS
@pytest.mark.parametrize(
    "fields",
    [
        {"state": "pending"},
        {"state": "running"},
        {"state": "expired"},
        {"state": "done"},
        {"state": ""},
        {"error": "{}"},
        {"state": "failed", "error": "[]"},
        {"state": "failed", "error": '{"code":""}'},
        {"state": "failed", "error": '{"code":7}'},
        {"state": "failed", "error": '{"text":"x"}'},
        {"lease": ""},
        {"lease": "x" * 129},
        {"payload": "1"},
    ],
    ids=str,
)
def test_fields_that_cannot_be_used_are_refused(a: Caller, task: str, by: str, fields: dict[str, Any]) -> None:
    assert code_of(a.change(task, by=by, **fields)) == (422, "invalid-request")
    assert a.query(task).json()["state"] == "pending"


def test_a_missing_uuid_is_refused(a: Caller) -> None:
    assert code_of(a.call("POST", "/changeTaskState", json={})) == (422, "invalid-request")


# Leases


def _lease(store: redis.Redis, uuid: str) -> str:
    flat: Any = store.eval(READ_FIELDS + "return fields_of(ARGV[1])", 1, naming.tasks_key(), uuid)
    return str(dict(zip(flat[::2], flat[1::2], strict=True))[b"lease"], "ascii")


@pytest.fixture
def running(a: Caller, worker: WorkerProcess, uuid: str, tmp_path: Path) -> str:
    """The uuid of a task whose handler runs without an end."""
    a.create(uuid=uuid, queue="test-endless", payload=json.dumps(str(tmp_path)))
    wait_until((tmp_path / "started").exists, "the handler runs")
    return uuid


@FORMS
def test_the_lease_holder_may_finish(a: Caller, store: redis.Redis, running: str, by: str) -> None:
    answer = a.change(running, by=by, lease=_lease(store, running), result="1")

    assert answer.json()["changed"] is True


@FORMS
@pytest.mark.parametrize(
    "lease", ["1.wrong", "x", "0.AAAAAAAAAAAAAAAAAAAAAA", "\0", "\x001\0not json\0nor this\0", "\x000\0\0\0"]
)
def test_a_lease_that_does_not_hold_is_lost(a: Caller, b: Caller, running: str, by: str, lease: str) -> None:
    assert code_of(a.change(running, by=by, lease=lease)) == (409, "lease-lost")
    assert b.cancel(running).status_code == 200


def test_a_lease_of_a_task_that_nobody_claimed_is_lost(a: Caller, task: str) -> None:
    assert code_of(a.change(task, lease="1.x")) == (409, "lease-lost")


def test_a_task_that_has_ended_is_judged_by_its_outcome_before_the_lease(a: Caller, task: str) -> None:
    a.change(task, result="1")

    assert a.change(task, result="1", lease="1.x").json()["changed"] is False
    assert code_of(a.change(task, result="2", lease="1.x")) == (409, "task-already-final")


def test_a_third_party_is_not_fenced(a: Caller, running: str) -> None:
    assert a.change(running, result='"by a third party"').json()["changed"] is True


# Raw bodies


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/cloudevents+json",
        "text/plain",
        "application/octet-stream",
        FORM,
        None,
    ],
)
def test_a_raw_json_body_is_the_result(a: Caller, b: Caller, task: str, media_type: str | None) -> None:
    answer = a.change_raw(task, b'{"state": "failed", "n": 1.0}', media_type)

    assert answer.json()["state"] == "succeeded"
    assert value_bytes(b.query(task), "result") == b'{"state": "failed", "n": 1.0}'


@pytest.mark.parametrize("body", [b"[]", b"1.0", b'"text"', b"null", b"true"])
def test_a_raw_body_may_be_any_json_value(a: Caller, task: str, body: bytes) -> None:
    assert value_bytes(a.change_raw(task, body, "application/json"), "result") == body


@pytest.mark.parametrize(
    ("form", "result"),
    [
        ("a=1&b=two+words", {"a": "1", "b": "two words"}),
        ("a=1&a=2&b=", {"a": ["1", "2"], "b": ""}),
        ("%E4%B8%AD=%F0%9F%8E%89", {"中": "🎉"}),
        ("uuid=other&state=failed&raw=0", {"uuid": "other", "state": "failed", "raw": "0"}),
    ],
    ids=["fields", "repeated-and-empty", "unicode", "our-own-names"],
)
def test_a_raw_form_is_an_object_of_texts(a: Caller, task: str, form: str, result: object) -> None:
    answer = a.change_raw(task, form.encode(), FORM)

    assert answer.json()["state"] == "succeeded"
    assert answer.json()["result"] == result


def _multipart(*fields: tuple[str, str]) -> bytes:
    parts = [f'--cut\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields]
    return ("".join(parts) + "--cut--\r\n").encode()


def test_a_raw_multipart_form_is_an_object_of_texts(a: Caller, task: str) -> None:
    body = _multipart(("a", "1"), ("a", "2"), ("text", "中 & 🎉\r\nline"))

    answer = a.change_raw(task, body, MULTIPART)

    assert answer.json()["result"] == {"a": ["1", "2"], "text": "中 & 🎉\r\nline"}


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"--cut\r\nnonsense", MULTIPART),
        (b"", "multipart/form-data"),
        (b"--cut\r\n\r\n", "multipart/form-data; boundary="),
        (b'--cut\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nx\r\n--cut--\r\n', MULTIPART),
        (_multipart(("a", "1"))[:-10], MULTIPART),
        (b"--cut\r\nContent-Disposition: form-data\r\n\r\nx\r\n--cut--\r\n", MULTIPART),
        (b'--cut\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\xff\r\n--cut--\r\n', MULTIPART),
    ],
    ids=["nonsense", "no-boundary", "empty-boundary", "file", "cut-short", "no-name", "not-utf8"],
)
def test_a_multipart_form_that_cannot_be_read_is_no_defect(a: Caller, task: str, body: bytes, media_type: str) -> None:
    assert a.change_raw(task, body, media_type).status_code in (200, 400, 422)


@pytest.mark.parametrize("form", [b"a=%ff", b"a=\xff", b"&".join([b"a=1"] * 1_001)], ids=["escaped", "raw", "many"])
def test_a_form_that_cannot_be_read_is_refused(a: Caller, task: str, form: bytes) -> None:
    assert code_of(a.change_raw(task, form, FORM)) == (422, "invalid-request")


@pytest.mark.parametrize("media_type", ["application/xml", "image/png", "text/html"])
def test_a_raw_body_of_another_type_is_refused(a: Caller, task: str, media_type: str) -> None:
    assert code_of(a.change_raw(task, b"<x/>", media_type)) == (415, "unsupported-media-type")


@pytest.mark.parametrize("body", [b"{", b"text", b'{"a":1}}', b"\xff"], ids=["open", "text", "more", "not-utf8"])
def test_a_raw_body_that_is_not_json_is_refused(a: Caller, task: str, body: bytes) -> None:
    assert code_of(a.change_raw(task, body, "application/json")) == (400, "malformed-json")


def test_a_raw_completion_reads_state_and_ignores_other_parameters(a: Caller, task: str) -> None:
    answer = a.change_raw(task, b'"why"', None, state="cancelled", result="7", timestamp="1", signature="x")

    assert answer.json()["state"] == "cancelled"
    assert answer.json()["result"] == "why"


def test_a_raw_completion_reads_the_lease(a: Caller, task: str) -> None:
    assert code_of(a.change_raw(task, b"1", None, lease="1.x")) == (409, "lease-lost")


def test_a_raw_completion_without_a_body_has_no_result(a: Caller, task: str) -> None:
    assert "result" not in a.change_raw(task, b"", None).json()


def test_a_raw_completion_by_get_needs_no_more_than_the_uuid(a: Caller, task: str) -> None:
    assert a.call("GET", f"/changeTaskState?uuid={task}&raw=1&any=thing").json()["state"] == "succeeded"


def test_a_raw_completion_without_a_uuid_is_refused(a: Caller) -> None:
    assert code_of(a.call("POST", "/changeTaskState?raw=1", content=b"1")) == (422, "invalid-request")


def test_a_hostile_raw_body_is_judged_quickly(a: Caller, task: str) -> None:
    """Brackets and quotes that never close: no check may take quadratic time."""
    answer = a.change_raw(task, b"[" * 200 + b'"' + b'\\"' * 20_000, "application/json")

    assert answer.status_code in (400, 422)
    assert answer.elapsed.total_seconds() < 1.5


# cancelTask


def test_a_pending_task_can_be_cancelled(a: Caller, b: Caller, task: str) -> None:
    answer = a.cancel(task)

    assert answer.json()["changed"] is True
    assert answer.json()["state"] == "cancelled"
    assert b.query(task).json()["message"] == "cancelled"


def test_cancelling_again_changes_nothing(a: Caller, b: Caller, task: str) -> None:
    a.cancel(task)

    assert b.cancel(task).json()["changed"] is False
    assert b.change(task, state="cancelled").json()["changed"] is False


def test_a_task_that_has_ended_cannot_be_cancelled(a: Caller, b: Caller, task: str) -> None:
    a.change(task)

    assert code_of(b.cancel(task)) == (409, "task-already-final")


def test_an_unknown_task_cannot_be_cancelled(a: Caller, uuid: str) -> None:
    assert code_of(a.cancel(uuid)) == (404, "task-not-found")


@pytest.mark.parametrize("body", [b"{}", b'{"uuid":"a","state":"failed"}', b'{"uuid":null}'])
def test_cancelling_takes_a_uuid_and_nothing_else(a: Caller, body: bytes) -> None:
    assert code_of(a.call("POST", "/cancelTask", content=body)) == (422, "invalid-request")


def test_a_cancelled_tasks_waiter_is_told(a: Caller, b: Caller, channels: Channels, uuid: str, queue: str) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    b.cancel(uuid)

    assert held.result().json()["state"] == "cancelled"


@pytest.mark.parametrize("queue", ["test-endless", "test-endless-thread"], ids=["async", "thread"])
@pytest.mark.parametrize("end", [Caller.cancel, Caller.change], ids=["cancel", "change"])
def test_a_running_handler_is_told_within_a_second(
    a: Caller,
    b: Caller,
    worker: WorkerProcess,
    uuid: str,
    tmp_path: Path,
    queue: str,
    end: Callable[[Caller, str], object],
) -> None:
    a.create(uuid=uuid, queue=queue, payload=json.dumps(str(tmp_path)))
    wait_until((tmp_path / "started").exists, "the handler runs")

    end(b, uuid)

    wait_until((tmp_path / "cancelled").exists, "the handler is told", deadline_s=1.5)
