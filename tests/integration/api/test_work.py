"""claimTask, heartbeatTask and releaseTask: workers that need nothing but HTTP."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import redis

from broker import naming
from tests.integration.api.conftest import Deployment
from tests.support.api import ADDRESS, ApiProcess
from tests.support.caller import Caller, code_of, json_object, request_head, value_bytes
from tests.support.channels import Channels
from tests.support.metrics import Numbers
from tests.support.processes import freeze, wait_until

SOON_S: Final = 2.5
"""Well within the lease: what is there by then was not waiting for its end."""
PAYLOAD: Final = '{ "n": 1.0, "big": 9007199254740993, "list": [] }'


def number(caller: Caller, name: str) -> float:
    answer = caller.call("GET", "/metrics")
    return Numbers(answer.text, answer.headers["content-type"])(name)


def wait_for_claims(caller: Caller, count: int) -> None:
    wait_until(lambda: number(caller, "broker_held_claims") == count, f"{count} claims are held")


def tasks_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    tasks: list[dict[str, Any]] = answer.json()["tasks"]
    return tasks


def claimed(caller: Caller, queue: str, **fields: Any) -> dict[str, Any]:
    """The one task that a claim gets."""
    (task,) = tasks_of(caller.claim(queue, **fields))
    return task


def numbers_of(caller: Caller, queue: str) -> dict[str, Any]:
    items = caller.call("GET", "/queues").json()["items"]
    return next((item for item in items if item["queue"] == queue), {})


# claimTask ------------------------------------------------------------------------------------------------------------


def test_a_task_made_on_one_instance_is_claimed_and_finished_on_the_other(
    a: Caller, b: Caller, uuid: str, queue: str
) -> None:
    claim = a.claim_later(queue)
    wait_for_claims(a, 1)
    created = b.create_later(uuid=uuid, queue=queue, payload=PAYLOAD)

    answer = claim.result()
    (task,) = tasks_of(answer)
    assert (task["uuid"], task["queue"], task["state"], task["attempt"]) == (uuid, queue, "running", 1)
    assert f'"payload":{PAYLOAD}' in answer.text
    assert task["links"]["query"] == f"/queryTaskState?uuid={uuid}"
    left = datetime.fromisoformat(task["lease_expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=20) < left < timedelta(seconds=31)

    assert a.change(uuid, result="1.50", lease=task["lease"]).json()["changed"]
    assert value_bytes(created.result(), "result") == b"1.50"


def test_a_claim_tells_what_the_task_json_tells(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)
    first = claimed(a, queue)
    assert a.heartbeat(uuid, first["lease"], progress="[1.0]").status_code == 200
    a.release(uuid, first["lease"])

    task = claimed(b, queue)

    assert "payload" not in task
    told = {name: member for name, member in task.items() if name not in ("lease", "lease_expires_at")}
    assert told == b.query(uuid).json()
    assert (told["attempt"], told["progress"]) == (1, [1.0])


def test_without_work_the_wait_ends_with_none(a: Caller, queue: str) -> None:
    assert tasks_of(a.claim(queue)) == []
    assert tasks_of(a.claim(queue, wait=0.3)) == []
    wait_for_claims(a, 0)


def test_prefer_says_how_long_to_wait(a: Caller, queue: str) -> None:
    body = json_object({"queues": [queue]})
    headers = {"content-type": "application/json", "prefer": "wait=0.2"}
    answer = a.call("POST", "/claimTask", content=body, headers=headers)
    assert (answer.json(), answer.headers["preference-applied"]) == ({"tasks": []}, "wait=0.2")


def test_the_first_queue_goes_first_and_max_counts_for_all(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    for name in ("1", "2", "3"):
        a.create(uuid=f"{uuid}-low{name}", queue=f"{queue}-low")
        a.create(uuid=f"{uuid}-high{name}", queue=f"{queue}-high", priority=int(name))

    order = [f"{queue}-high", f"{queue}-low", f"{queue}-high"]
    first, second = tasks_of(b.claim(*order, max=4)), tasks_of(a.claim(*order, max=100))

    assert [task["uuid"] for task in first] == [f"{uuid}-high3", f"{uuid}-high2", f"{uuid}-high1", f"{uuid}-low1"]
    assert [task["uuid"] for task in second] == [f"{uuid}-low2", f"{uuid}-low3"]


def test_each_task_goes_to_one_of_many_claims(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    claims = [caller.claim_later(queue, f"{queue}-other") for caller in (a, b) for _ in range(10)]
    wait_for_claims(a, 10)
    wait_for_claims(b, 10)

    for name in range(20):
        a.create(uuid=f"{uuid}{name}", queue=queue)

    uuids = [task["uuid"] for claim in claims for task in tasks_of(claim.result())]
    assert sorted(uuids) == sorted(f"{uuid}{name}" for name in range(20))
    assert all(numbers_of(a, queue)[name] == count for name, count in (("running", 20), ("pending", 0)))


def test_one_pattern_is_heard_and_left_a_moment_after_the_last_claim(
    a: Caller, b: Caller, store: redis.Redis, queue: str
) -> None:
    def listeners() -> int:
        return int(store.publish(f"{queue}-request-x", ""))

    claims = [caller.claim_later(queue, wait=1) for caller in (a, a, b)]
    wait_until(lambda: listeners() == 2, "each instance listens once")
    assert number(a, "broker_channels_leaked") == 0
    for claim in claims:
        assert tasks_of(claim.result()) == []
    wait_until(lambda: listeners() == 0, "nobody listens", deadline_s=4)


def test_a_delayed_task_is_claimed_when_it_is_due(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    claim = a.claim_later(queue)
    b.create(uuid=uuid, queue=queue, delay=0.3)
    assert tasks_of(claim.result())[0]["uuid"] == uuid


def test_held_claims_are_counted_as_workers(a: Caller, b: Caller, queue: str) -> None:
    claims = [caller.claim_later(queue) for caller in (a, a, b)]
    wait_until(lambda: numbers_of(b, queue).get("workers") == 3, "all are counted")
    for _ in claims:
        a.create(queue=queue)
    assert all(tasks_of(claim.result()) for claim in claims)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "queues"),
        ({"queues": []}, "queues"),
        ({"queues": [f"q{number}" for number in range(33)]}, "queues"),
        ({"queues": "q"}, "queues"),
        ({"queues": ["Q"]}, "queues[0]"),
        ({"queues": ["q-request-x"]}, "queues[0]"),
        ({"queues": ["q"], "max": 0}, "max"),
        ({"queues": ["q"], "max": 101}, "max"),
        ({"queues": ["q"], "wait": -1}, "wait"),
    ],
)
def test_claims_that_cannot_be_used(a: Caller, fields: dict[str, Any], field: str) -> None:
    answer = a.call("POST", "/claimTask", json=fields)
    assert code_of(answer) == (422, "invalid-request")
    assert field in answer.json()["detail"]


# Claimers that leave --------------------------------------------------------------------------------------------------


def claim_request(*queues: str, **fields: Any) -> bytes:
    body = json_object({"queues": queues, **fields})
    return request_head("POST", "/claimTask", b"Content-Length: %d" % len(body)) + body


@contextmanager
def frozen(instance: ApiProcess) -> Iterator[None]:
    """The instance stands still meanwhile, and finds all that has happened at once."""
    freeze(instance.process, instance.process.pid)
    try:
        yield
    finally:
        instance.process.send_signal(signal.SIGCONT)


def assert_free_soon(caller: Caller, queue: str, uuid: str) -> None:
    """Somebody else gets the task at once, as if nobody had had it."""
    task = claimed(caller, queue, wait=SOON_S)
    assert (task["uuid"], task["attempt"]) == (uuid, 1)


def test_a_claimer_that_left_while_it_waited_gets_nothing(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    with a.connection(claim_request(queue, wait=60)):
        wait_for_claims(a, 1)
    wait_for_claims(a, 0)
    b.create(uuid=uuid, queue=queue)
    assert_free_soon(b, queue, uuid)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_claimer_that_leaves_as_its_task_comes(
    a: Caller, b: Caller, instances: tuple[ApiProcess, ApiProcess], uuid: str, queue: str, reset: bool
) -> None:
    """The bell and the end of the connection meet in one turn of the instance's loop, in whichever order."""
    for turn in range(3):
        with a.connection(claim_request(queue, wait=60)) as connection:
            wait_for_claims(a, 1)
            with frozen(instances[0]):
                b.create(uuid=f"{uuid}{turn}", queue=queue)
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.close()
        assert_free_soon(b, queue, f"{uuid}{turn}")
        wait_for_claims(a, 0)


def test_a_claimer_that_left_before_it_was_answered(
    a: Caller, b: Caller, instances: tuple[ApiProcess, ApiProcess], uuid: str, queue: str
) -> None:
    """There is a task at once, so nobody looks at the socket until the answer is to be written."""
    b.create(uuid=uuid, queue=queue)
    with a.connection(b"") as connection, frozen(instances[0]):
        connection.sendall(claim_request(queue))
        connection.close()
    assert_free_soon(b, queue, uuid)


def test_a_claimer_that_closes_behind_its_answer_has_heard(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    b.create(uuid=uuid, queue=queue)
    with a.connection(claim_request(queue)) as connection:
        answer = a.read_answer(connection, "POST", "/claimTask")
    (task,) = tasks_of(answer)
    # The instance has seen the end of that connection when it has answered on a later one.
    assert a.heartbeat(uuid, task["lease"]).status_code == 200
    assert a.call("GET", "/healthz").status_code == 200
    assert a.heartbeat(uuid, task["lease"]).json()["cancelled"] is False


def test_a_large_answer_that_nobody_reads(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    """More than the socket's buffers take: the claimer leaves in the middle."""
    payload = json.dumps("x" * 250_000)
    uuids = {f"{uuid}{name}" for name in range(40)}
    for name in uuids:
        b.create(uuid=name, queue=queue, payload=payload)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect((ADDRESS, int(a.url.rpartition(":")[2])))
        connection.sendall(claim_request(queue, max=100))
        wait_until(lambda: numbers_of(b, queue)["running"] == 40, "all are claimed")
    wait_until(lambda: numbers_of(b, queue)["pending"] == 40, "all are back", deadline_s=SOON_S)


def test_sigterm_answers_held_claims_at_once(
    deployment: Deployment, b: Caller, own_log: Path, http: httpx.Client, threads: ThreadPoolExecutor, queue: str
) -> None:
    with ApiProcess(deployment.server.url, log=own_log) as instance:
        caller = Caller(instance.url, http, threads)
        claims = [caller.claim_later(queue, wait=90) for _ in range(5)]
        wait_for_claims(caller, 5)

        instance.terminate()

        assert [tasks_of(claim.result()) for claim in claims] == [[]] * 5
        assert instance.process.wait(5) == 0
        instance.assert_log_has_no_defect()


def test_claims_are_answered_where_the_bell_may_not_be_heard(
    deployment: Deployment,
    b: Caller,
    channels: Channels,
    store: redis.Redis,
    own_log: Path,
    http: httpx.Client,
    threads: ThreadPoolExecutor,
    uuid: str,
    queue: str,
) -> None:
    """A user without the right to a queue's pattern: held calls don't suffer, and claims ask each second."""
    rules = ("on", "nopass", "~*", "+@all", "resetchannels", "&broker:*", "&*-response-*")
    store.execute_command("ACL", "SETUSER", "deaf", *rules)  # type: ignore[no-untyped-call]
    url = deployment.server.url.replace("://", "://deaf:x@")
    with ApiProcess(url, log=own_log) as instance:
        deaf = Caller(instance.url, http, threads)
        held = deaf.query_later(uuid) if b.create(uuid=uuid, queue=f"{queue}-held").status_code == 202 else None
        channels.wait_for_listeners(f"{queue}-held-response-{uuid}")
        claim = deaf.claim_later(queue)
        wait_for_claims(deaf, 1)
        b.create(uuid=f"{uuid}2", queue=queue)
        assert tasks_of(claim.result())[0]["uuid"] == f"{uuid}2"
        b.change(uuid)
        assert held is not None
        assert held.result().json()["state"] == "succeeded"
        assert number(deaf, "broker_hub_reconnects_total") == 0
        assert f"&{queue}-request-*" in own_log.read_text()


# heartbeatTask --------------------------------------------------------------------------------------------------------


def test_a_heartbeat_renews_the_lease_on_any_instance(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)
    task = claimed(a, queue)
    answer = b.heartbeat(uuid, task["lease"], progress='{"percent": 5.0}')
    assert answer.json()["cancelled"] is False
    assert answer.json()["lease_expires_at"] >= task["lease_expires_at"]
    assert value_bytes(a.query(uuid), "progress") == b'{"percent": 5.0}'


def test_a_heartbeat_tells_of_a_cancellation_on_another_instance(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    task = claimed(a, queue, wait=5)
    b.cancel(uuid)
    assert held.result().json()["state"] == "cancelled"
    for caller in (a, b):
        assert caller.heartbeat(uuid, task["lease"]).json() == {"cancelled": True, "state": "cancelled"}


@pytest.mark.parametrize("call", [Caller.heartbeat, Caller.release])
def test_a_lease_that_does_not_hold(a: Caller, b: Caller, uuid: str, queue: str, call: Any) -> None:
    a.create(uuid=uuid, queue=queue)
    task = claimed(a, queue)
    assert code_of(call(b, uuid, "1.guessed")) == (409, "lease-lost")
    b.release(uuid, task["lease"])
    claimed(b, queue)
    assert code_of(call(a, uuid, task["lease"])) == (409, "lease-lost")
    assert code_of(call(a, f"{uuid}-unknown", task["lease"])) == (404, "task-not-found")


def test_a_progress_that_cannot_be_used(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)
    lease = claimed(a, queue)["lease"]
    assert code_of(a.heartbeat(uuid, lease, progress="1e999")) == (422, "invalid-request")
    assert code_of(a.heartbeat(uuid, lease, progress="[" * 129 + "]" * 129)) == (422, "invalid-request")
    assert "progress" not in a.query(uuid).json()


# releaseTask ----------------------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_retried_until_none_is_left(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    held = a.create_later(uuid=uuid, queue=queue, max_attempts=2)
    first = claimed(a, queue, wait=5)
    error = '{"code":"no-space","details":[1.0]}'

    answer = b.release(uuid, first["lease"], error=error, delay=0)

    assert (answer.json()["state"], answer.json()["attempt"]) == ("pending", 1)
    second = claimed(b, queue)
    last = a.release(uuid, second["lease"], error=error)
    assert (last.json()["state"], last.json()["attempt"]) == ("failed", 2)
    assert value_bytes(held.result(), "error") == error.encode()
    # Its answer was lost, and it is sent again; another one would be news.
    assert b.release(uuid, second["lease"], error=error).json() == last.json()
    assert code_of(b.release(uuid, second["lease"], error='{"code":"other"}')) == (409, "task-already-final")
    assert code_of(b.release(uuid, second["lease"])) == (409, "task-already-final")


def test_the_pause_after_a_failed_attempt_doubles(a: Caller, store: redis.Redis, uuid: str, queue: str) -> None:
    """1 s, 2 s, 4 s …, shortened by up to half at random."""
    a.create(uuid=uuid, queue=queue, max_attempts=9)
    for expected_s in (1, 2):
        task = claimed(a, queue, wait=5)
        before = datetime.now(UTC).timestamp()
        a.release(uuid, task["lease"], error="{}")
        due = (store.zscore(naming.delayed_key(), uuid) or 0) / 1_000
        assert expected_s / 2 <= due - before + 0.01 < expected_s + 0.5
        assert numbers_of(a, queue)["delayed"] == 1


def test_a_task_given_back_was_never_tried(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue, max_attempts=1)
    for caller in (a, b):
        task = claimed(caller, queue)
        assert task["attempt"] == 1
        released = caller.release(uuid, task["lease"]).json()
        assert (released["state"], released["attempt"]) == ("pending", 0)
        # Sent again, it is told the truth: the lease is no longer its own.
        assert code_of(caller.release(uuid, task["lease"])) == (409, "lease-lost")
    task = claimed(a, queue)
    a.release(uuid, task["lease"], delay=60)
    assert tasks_of(b.claim(queue)) == []


def test_a_deferred_task_waits_for_a_third_party(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    task = claimed(b, queue, wait=5)
    assert b.release(uuid, task["lease"], defer=True).json()["state"] == "running"
    assert numbers_of(a, queue)["deferred"] == 1
    assert code_of(b.heartbeat(uuid, task["lease"])) == (409, "lease-lost")
    b.change(uuid, result="7")
    assert held.result().json()["result"] == 7
    assert code_of(b.release(uuid, task["lease"], defer=True)) == (409, "task-already-final")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"defer": True, "error": "{}"}, "error"),
        ({"defer": True, "delay": 1}, "delay"),
        ({"delay": -1}, "delay"),
        ({"error": '{"code": ""}'}, "code"),
        ({"result": "1"}, "result"),
    ],
)
def test_releases_that_cannot_be_used(a: Caller, uuid: str, queue: str, fields: dict[str, Any], field: str) -> None:
    a.create(uuid=uuid, queue=queue)
    answer = a.release(uuid, claimed(a, queue)["lease"], **fields)
    assert code_of(answer) == (422, "invalid-request")
    assert field in answer.json()["detail"]
    assert a.query(uuid).json()["state"] == "running"


def test_cancelling_an_unknown_task_leaves_nothing_behind(
    a: Caller, b: Caller, store: redis.Redis, uuid: str, queue: str
) -> None:
    assert code_of(a.cancel(uuid)) == (404, "task-not-found")
    assert list(store.scan_iter(f"*{uuid}*")) == []
    assert b.create(uuid=uuid, queue=queue).json()["state"] == "pending"
    assert claimed(a, queue)["uuid"] == uuid
