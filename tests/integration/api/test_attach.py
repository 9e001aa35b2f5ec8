"""One task, many calls: attaching by uuid and by Idempotency-Key."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from tests.support.caller import Caller, code_of, value_bytes
from tests.support.channels import Channels
from tests.support.processes import wait_until

FORMS = pytest.mark.parametrize("by", ["POST", "GET"])


@pytest.fixture
def key() -> str:
    return "key " + secrets.token_hex(8)


# By uuid


@FORMS
def test_the_same_request_attaches(a: Caller, b: Caller, uuid: str, queue: str, by: str) -> None:
    first = a.create(uuid=uuid, queue=queue, payload='{"branch":"x"}').json()

    assert b.create(by=by, uuid=uuid, queue=queue, payload='{"branch":"x"}').json() == first


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('{"a":1,"b":2}', '{"b":2,"a":1}'),
        ('{"a":{"x":[],"y":{}}}', ' { "a" : { "y":{}, "x" : [] } } '),
        ('"é"', '"\\u00e9"'),
        ("null", None),
        (None, "null"),
    ],
    ids=["key-order", "whitespace-and-nested-order", "escapes", "null-then-absent", "absent-then-null"],
)
def test_payloads_that_mean_the_same_attach(
    a: Caller, b: Caller, uuid: str, queue: str, first: str | None, second: str | None
) -> None:
    a.create(uuid=uuid, queue=queue, **_payload(first))

    assert b.create(uuid=uuid, queue=queue, **_payload(second)).status_code == 202


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("[1,2]", "[2,1]"),
        ('{"a":1}', '{"a":1,"b":null}'),
        ("0", "false"),
        ('""', "null"),
        ("[]", "{}"),
        ("9007199254740993", "9007199254740992"),
        (None, "0"),
    ],
)
def test_another_payload_is_a_conflict(a: Caller, b: Caller, uuid: str, queue: str, first: str, second: str) -> None:
    a.create(uuid=uuid, queue=queue, **_payload(first))

    assert code_of(b.create(uuid=uuid, queue=queue, **_payload(second))) == (409, "task-conflict")


@FORMS
def test_another_queue_is_a_conflict(a: Caller, b: Caller, uuid: str, queue: str, by: str) -> None:
    a.create(uuid=uuid, queue=queue)

    assert code_of(b.create(by=by, uuid=uuid, queue=queue + "x")) == (409, "task-conflict")


def test_a_held_call_that_conflicts_is_answered_at_once(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)

    assert code_of(b.create(uuid=uuid, queue=queue, payload="1", wait=10)) == (409, "task-conflict")


def test_a_conflict_leaves_the_task_alone(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    before = a.create(uuid=uuid, queue=queue).json()
    b.create(uuid=uuid, queue=queue, payload="1")

    assert a.query(uuid).json() == before


def test_other_parameters_do_not_count(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    first = a.create(uuid=uuid, queue=queue, expires_in=50).json()

    second = b.create(
        uuid=uuid, queue=queue, expires_in=70, priority=5, delay=3, retention=1, max_attempts=7, wait=0.01
    )

    assert second.json() == first


@pytest.mark.parametrize("wait", [0, 10])
def test_a_task_that_has_ended_is_answered_at_once(a: Caller, b: Caller, uuid: str, queue: str, wait: int) -> None:
    a.create(uuid=uuid, queue=queue)
    a.change(uuid, result="[1.0]")

    answer = b.create(uuid=uuid, queue=queue, wait=wait)

    assert answer.status_code == 200
    assert value_bytes(answer, "result") == b"[1.0]"


def test_a_late_result_is_found_by_the_next_call(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    assert a.create(uuid=uuid, queue=queue, wait=0.01).status_code == 202
    b.change(uuid, result='"late"')

    assert a.create(uuid=uuid, queue=queue, wait=10).json()["result"] == "late"


def test_attaching_rings_no_bell(a: Caller, b: Caller, channels: Channels, uuid: str, queue: str) -> None:
    heard = channels.listen(f"{queue}-request-*")
    for caller in (a, b, a):
        caller.create(uuid=uuid, queue=queue)

    heard.next()
    heard.assert_no_more()


# By Idempotency-Key


@FORMS
def test_the_same_key_attaches_to_the_first_task(a: Caller, b: Caller, queue: str, key: str, by: str) -> None:
    first = a.create(by=by, queue=queue, payload="[1]", headers={"idempotency-key": key})
    second = b.create(by=by, queue=queue, payload="[1]", headers={"idempotency-key": key})

    assert second.json() == first.json()


@pytest.mark.parametrize(
    ("first", "second"),
    [('"{key}"', "{key}"), ("{key}", '"{key}"'), (r'"{key}\"\\"', '{key}"\\')],
    ids=["quoted-then-bare", "bare-then-quoted", "escaped"],
)
def test_a_quoted_key_is_the_bare_one(a: Caller, b: Caller, queue: str, key: str, first: str, second: str) -> None:
    task = a.create(queue=queue, headers={"idempotency-key": first.replace("{key}", key)}).json()

    assert b.create(queue=queue, headers={"idempotency-key": second.replace("{key}", key)}).json() == task


def test_a_held_call_with_a_key_gets_the_outcome(
    a: Caller, b: Caller, channels: Channels, queue: str, key: str
) -> None:
    uuid = a.create(queue=queue, headers={"idempotency-key": key}).json()["uuid"]
    held = b.create_later(queue=queue, headers={"idempotency-key": key})
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    a.change(uuid, result='"done"')

    assert held.result().status_code == 200
    assert held.result().json()["uuid"] == uuid
    assert held.result().json()["result"] == "done"


def test_no_channel_is_left_of_the_uuid_that_was_not_used(
    a: Caller, b: Caller, channels: Channels, queue: str, key: str
) -> None:
    uuid = a.create(queue=queue, headers={"idempotency-key": key}).json()["uuid"]
    held = b.create_later(queue=queue, headers={"idempotency-key": key})

    wait_until(
        lambda: channels.names(f"{queue}-response-*") == [f"{queue}-response-{uuid}"], "only one channel is left"
    )

    a.change(uuid)
    held.result()


@pytest.mark.parametrize("wait", [0, 10])
def test_another_payload_under_the_key_is_a_mismatch(a: Caller, b: Caller, queue: str, key: str, wait: int) -> None:
    a.create(queue=queue, payload="1", headers={"idempotency-key": key})

    answer = b.create(queue=queue, payload="2", wait=wait, headers={"idempotency-key": key})

    assert code_of(answer) == (422, "idempotency-mismatch")


def test_a_key_belongs_to_its_queue(a: Caller, queue: str, key: str) -> None:
    first = a.create(queue=queue, payload="1", headers={"idempotency-key": key})
    second = a.create(queue=queue + "x", payload="2", headers={"idempotency-key": key})

    assert second.status_code == 202
    assert second.json()["uuid"] != first.json()["uuid"]


def test_a_key_and_the_uuid_it_stands_for_agree(a: Caller, b: Caller, uuid: str, queue: str, key: str) -> None:
    first = a.create(uuid=uuid, queue=queue, headers={"idempotency-key": key}).json()

    assert b.create(uuid=uuid, queue=queue, headers={"idempotency-key": key}).json() == first
    assert b.create(queue=queue, headers={"idempotency-key": key}).json() == first


def test_a_key_and_another_uuid_are_a_mismatch(a: Caller, b: Caller, uuid: str, queue: str, key: str) -> None:
    a.create(uuid=uuid, queue=queue, headers={"idempotency-key": key})

    answer = b.create(uuid=uuid + "x", queue=queue, headers={"idempotency-key": key})

    assert code_of(answer) == (422, "idempotency-mismatch")
    assert b.query(uuid + "x").status_code == 404


def test_a_uuid_and_another_key_are_a_mismatch(a: Caller, b: Caller, uuid: str, queue: str, key: str) -> None:
    a.create(uuid=uuid, queue=queue, headers={"idempotency-key": key})

    answer = b.create(uuid=uuid, queue=queue, headers={"idempotency-key": key + "x"})

    assert code_of(answer) == (422, "idempotency-mismatch")


def test_a_key_may_have_255_characters(a: Caller, queue: str, key: str) -> None:
    longest = key.ljust(255, "x")

    assert a.create(queue=queue, headers={"idempotency-key": longest}).status_code == 202
    assert a.create(queue=queue, headers={"idempotency-key": f'"{longest}"'}).status_code == 202


@pytest.mark.parametrize("text", ["x" * 256, f'"{"x" * 256}"', "", '""'], ids=["long", "long-quoted", "none", "empty"])
def test_a_key_of_another_length_is_refused(a: Caller, queue: str, text: str) -> None:
    assert code_of(a.create(queue=queue, headers={"idempotency-key": text})) == (422, "invalid-request")


def test_a_key_is_kept_after_the_end(a: Caller, b: Caller, queue: str, key: str) -> None:
    uuid = a.create(queue=queue, headers={"idempotency-key": key}).json()["uuid"]
    a.change(uuid, result="1")

    answer = b.create(queue=queue, wait=10, headers={"idempotency-key": key})

    assert answer.status_code == 200
    assert answer.json()["uuid"] == uuid


def test_a_key_goes_with_its_tasks_record(a: Caller, b: Caller, queue: str, key: str) -> None:
    uuid = a.create(queue=queue, retention=0, headers={"idempotency-key": key}).json()["uuid"]
    a.change(uuid)
    wait_until(lambda: a.query(uuid).status_code == 404, "the record is gone")

    answer = b.create(queue=queue, payload='"another"', headers={"idempotency-key": key})

    assert answer.status_code == 202
    assert answer.json()["uuid"] != uuid


def _payload(text: str | None) -> dict[str, Any]:
    return {} if text is None else {"payload": text}
