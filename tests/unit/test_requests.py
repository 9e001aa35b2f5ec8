"""What callers may ask: each field checked, defaults filled in, values as they came."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from broker.errors import InvalidRequestError, MalformedJsonError, PayloadTooLargeError
from broker.requests import (
    ChangeRequest,
    Completion,
    CreateRequest,
    ErrorRequest,
    NewTask,
    QueryRequest,
    completion,
    convert,
    is_outcome_of,
    new_task,
)
from broker.settings import Settings
from broker.task import TaskState

MOST = 1_000


def created(settings: Settings | None = None, key: str | None = None, **fields: Any) -> NewTask:
    return new_task(convert(fields, CreateRequest), settings or Settings(), idempotency_key=key)


def changed(**fields: Any) -> Completion:
    return completion(convert({"uuid": "t", **fields}, ChangeRequest), max_bytes=MOST)


# Creating


def test_the_defaults_of_a_task() -> None:
    new = created()
    assert (new.queue, new.payload, new.priority, new.delay_ms, new.max_attempts) == ("createbranch", b"", 0, 0, None)
    assert (new.expires_ms, new.retention_ms) == (86_400_000, 86_400_000)
    assert (new.uuid_is_chosen, new.idempotency) == (False, None)
    assert len(new.uuid) == 32
    assert new.uuid != created().uuid
    assert new.seal != created().seal


def test_the_fields_of_a_task() -> None:
    new = created(
        uuid="084Tkjfh",
        queue="q",
        payload=Raw(b"[1.0, {}]"),
        priority=9,
        delay=0.5,
        expires_in=1.5,
        retention=0,
        max_attempts=7,
    )
    assert (new.uuid, new.uuid_is_chosen, new.queue, new.payload) == ("084Tkjfh", True, "q", b"[1.0, {}]")
    assert (new.priority, new.delay_ms, new.expires_ms, new.retention_ms, new.max_attempts) == (9, 500, 1_500, 0, 7)


def test_settings_fill_in() -> None:
    new = created(Settings(task_ttl_s=2, retention_s=3))
    assert (new.expires_ms, new.retention_ms) == (2_000, 3_000)


def test_a_task_lives_for_a_millisecond_at_least() -> None:
    assert created(expires_in=0.0001).expires_ms == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"uuid": ""}, "uuid"),
        ({"uuid": "a\n"}, "uuid"),
        ({"queue": "a-request"}, "queue"),
        ({"priority": 10}, "priority"),
        ({"priority": -1}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": True}, "priority"),
        ({"wait": -1}, "wait"),
        ({"wait": "30"}, "wait"),
        ({"delay": -1}, "delay"),
        ({"delay": 1e12}, "delay"),
        ({"expires_in": 0}, "expires_in"),
        ({"retention": -1}, "retention"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1_001}, "max_attempts"),
        ({"exclusive": "yes"}, "exclusive"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError, match=field) as refused:
        created(**fields)
    assert refused.value.field == field


def test_a_field_that_is_unknown() -> None:
    with pytest.raises(InvalidRequestError, match="nonsense"):
        created(nonsense=1)


@pytest.mark.parametrize("text", ["nan", "-1", "x", "1e999"])
def test_a_wait_in_a_query_that_is_no_time(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="wait"):
        convert({"uuid": "t", "wait": text}, QueryRequest, from_text=True)


def test_numbers_in_a_query_come_as_text() -> None:
    assert convert({"uuid": "t", "wait": "1.5"}, QueryRequest, from_text=True).wait == 1.5
    assert convert({"uuid": "12", "wait": "0"}, QueryRequest, from_text=True).uuid == "12"


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"{", MalformedJsonError),
        (b"NaN", InvalidRequestError),
        (b"99999999999999999999", InvalidRequestError),
        (b"[" * 200 + b"]" * 200, InvalidRequestError),
        (b'"' + b"x" * MOST + b'"', PayloadTooLargeError),
    ],
)
def test_a_payload_that_cannot_be_used(payload: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match="payload"):
        created(Settings(max_body_bytes=MOST), payload=Raw(payload))


def test_equal_payloads_have_one_fingerprint() -> None:
    one = created(payload=Raw(b'{"a":1,"b":[]}')).fingerprint
    assert one == created(payload=Raw(b'{ "b": [], "a": 1 }')).fingerprint
    assert one != created(payload=Raw(b'{"a":1.0,"b":[]}')).fingerprint
    assert created().fingerprint == created(payload=Raw(b"null")).fingerprint


# Idempotency keys


def test_a_key_belongs_to_its_queue() -> None:
    one = created(key="order 7", queue="q").idempotency
    assert one == created(key="order 7", queue="q").idempotency
    assert one != created(key="order 8", queue="q").idempotency
    assert one != created(key="order 7", queue="r").idempotency
    assert one is not None
    assert len(one) == 32


@pytest.mark.parametrize("key", ["k", "k" * 255, "日本", "\x7f", "a b"])
def test_keys_that_can_be_used(key: str) -> None:
    assert created(key=key).idempotency


@pytest.mark.parametrize("key", ["", "k" * 256, "\ud800"])
def test_keys_that_cannot_be_used(key: str) -> None:
    with pytest.raises(InvalidRequestError, match="Idempotency-Key"):
        created(key=key)


# Changing


def test_a_success() -> None:
    assert changed(result=Raw(b"[1.0]")) == Completion(state=TaskState.SUCCEEDED, result=b"[1.0]", error=b"")
    assert changed() == Completion(state=TaskState.SUCCEEDED, result=b"", error=b"")


def test_a_failure() -> None:
    done = changed(state="failed", error={"code": "x", "message": "y", "details": Raw(b"[1.0]")})
    assert (done.state, done.error) == (TaskState.FAILED, b'{"code":"x","message":"y","details":[1.0]}')


def test_a_failure_without_a_reason_has_the_common_code() -> None:
    assert changed(state="failed").error == b'{"code":"failed"}'
    assert json.loads(changed(state="failed", error={"message": "m"}).error) == {"code": "failed", "message": "m"}


def test_a_failure_may_have_a_result() -> None:
    assert changed(state="failed", result=Raw(b"1")).result == b"1"


def test_a_cancellation_needs_no_error() -> None:
    assert changed(state="cancelled").error == b""


@pytest.mark.parametrize(
    "fields",
    [
        {"error": {}},
        {"state": "succeeded", "error": {"code": "x"}},
        {"state": "expired"},
        {"state": "pending"},
        {"state": "failed", "error": {"code": ""}},
        {"state": "failed", "error": {"code": "x" * 129}},
        {"state": "failed", "error": {"message": "x" * 8_193}},
        {"state": "failed", "error": {"nonsense": 1}},
        {"state": "failed", "error": {"details": Raw(b"NaN")}},
        {"result": Raw(b"{")},
        {"lease": ""},
        {"lease": "x" * 129},
        {"uuid": ""},
    ],
)
def test_changes_that_cannot_be_used(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        changed(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"result": Raw(b'"' + b"x" * MOST + b'"')},
        {"state": "failed", "error": {"details": Raw(b'"' + b"x" * MOST + b'"')}},
        {"state": "failed", "error": {"message": "x" * MOST}},
    ],
)
def test_changes_that_are_too_long(fields: dict[str, Any]) -> None:
    with pytest.raises(PayloadTooLargeError):
        changed(**fields)


def document(state: TaskState, **members: Any) -> bytes:
    return msgspec.json.encode({"uuid": "t", "queue": "q", "state": state, "attempt": 0, **members})


@pytest.mark.parametrize(
    ("stored", "asked", "same"),
    [
        (document(TaskState.SUCCEEDED), {}, True),
        (document(TaskState.SUCCEEDED), {"result": Raw(b"null")}, True),
        (document(TaskState.SUCCEEDED, result=None), {}, True),
        (document(TaskState.SUCCEEDED, result={"a": 1, "b": []}), {"result": Raw(b'{ "b":[], "a":1 }')}, True),
        (document(TaskState.SUCCEEDED, result=1), {"result": Raw(b"1.0")}, False),
        (document(TaskState.SUCCEEDED, result=1), {}, False),
        (document(TaskState.SUCCEEDED, progress=1), {}, True),
        (document(TaskState.FAILED, error={"code": "failed"}), {"state": "failed"}, True),
        (document(TaskState.FAILED, error={"code": "x"}), {"state": "failed"}, False),
        (document(TaskState.FAILED, error={"code": "failed"}), {"state": "cancelled"}, False),
        (document(TaskState.CANCELLED), {"state": "cancelled"}, True),
        (document(TaskState.EXPIRED), {}, False),
    ],
)
def test_whether_a_task_has_ended_as_asked(stored: bytes, asked: dict[str, Any], same: bool) -> None:
    assert is_outcome_of(stored, changed(**asked)) is same


def test_an_error_request_keeps_details_as_they_came() -> None:
    request = msgspec.json.decode(b'{"code":"x","details":{ "a" : 1.0 }}', type=ErrorRequest)
    assert isinstance(request.details, Raw)
    assert bytes(request.details) == b'{ "a" : 1.0 }'
