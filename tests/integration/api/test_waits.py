"""A wait is never lost, and never ends with something that the store would not say."""

from __future__ import annotations

import json
from functools import partial
from typing import Final

import pytest
import redis

from tests.support.api import ApiProcess
from tests.support.caller import Caller
from tests.support.channels import Channels
from tests.support.processes import wait_until

FORGED: Final = {
    "empty": b"",
    "text": b"hello",
    "not-utf8": b"\xff\xfe\x00",
    "null": b"null",
    "array": b"[]",
    "object": b"{}",
    "open": b'{"seal":"x","uuid":',
    "nested": b"[" * 100_000,
    "long": b'"' + b"x" * 1_000_000 + b'"',
    "other-types": b'{"seal":1,"uuid":[],"queue":{},"state":null}',
    "unknown-state": b'{"seal":"x","uuid":"UUID","queue":"QUEUE","state":"done"}',
    "no-seal": b'{"uuid":"UUID","queue":"QUEUE","state":"succeeded","result":"forged"}',
    "wrong-seal": b'{"seal":"AAAAAAAAAAAAAAAAAAAAAA","uuid":"UUID","queue":"QUEUE","state":"succeeded","result":1}',
    "empty-seal": b'{"seal":"","uuid":"UUID","queue":"QUEUE","state":"failed","result":"forged"}',
    "omitted": b'{"seal":"x","uuid":"UUID","queue":"QUEUE","state":"succeeded","omitted":true}',
    "surrogate": rb'{"seal":"\ud800","uuid":"UUID","queue":"QUEUE","state":"succeeded"}',
}


@pytest.mark.parametrize("message", FORGED.values(), ids=FORGED.keys())
def test_a_forged_message_ends_no_wait(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str, message: bytes
) -> None:
    channel = f"{queue}-response-{uuid}"
    b.create(uuid=uuid, queue=queue)
    held = [a.create_later(uuid=uuid, queue=queue), a.query_later(uuid)]
    channels.wait_for_listeners(channel)

    for _ in range(3):
        channels.publish(channel, message.replace(b"UUID", uuid.encode()).replace(b"QUEUE", queue.encode()))
    # What was published before has been read when this call is answered by the same instance.
    assert a.create(uuid=uuid, queue=queue, wait=0.05).json()["state"] == "pending"

    b.change(uuid, result='"true"')
    assert {call.result().json()["result"] for call in held} == {"true"}


def test_messages_of_other_tasks_end_no_wait(a: Caller, b: Caller, channels: Channels, uuid: str, queue: str) -> None:
    heard = channels.listen(f"{queue}-response-*")
    other = a.create(queue=queue).json()["uuid"]
    a.change(other, result='"of another"')
    message = heard.next()[1]
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    channels.publish(f"{queue}-response-{uuid}", message)
    channels.publish(f"{queue}-response-{uuid}", message.replace(other.encode(), uuid.encode()))
    assert a.create(uuid=uuid, queue=queue, wait=0.05).json()["state"] == "pending"

    b.change(uuid, result='"its own"')
    assert held.result().json()["result"] == "its own"


def test_a_message_of_an_earlier_life_of_the_uuid_ends_no_wait(
    a: Caller, b: Caller, channels: Channels, store: redis.Redis, uuid: str, queue: str
) -> None:
    heard = channels.listen(f"{queue}-response-*")
    a.create(uuid=uuid, queue=queue, retention=0)
    a.change(uuid, result='"of the past"')
    message = heard.next()[1]
    wait_until(lambda: b.query(uuid).status_code == 404, "the record is gone")
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    channels.publish(f"{queue}-response-{uuid}", message)
    assert a.create(uuid=uuid, queue=queue, wait=0.05).json()["state"] == "pending"

    b.change(uuid, result='"of now"')
    assert held.result().json()["result"] == "of now"


def test_a_doubled_message_changes_nothing(a: Caller, b: Caller, channels: Channels, uuid: str, queue: str) -> None:
    heard = channels.listen(f"{queue}-response-*")
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")
    b.change(uuid, result="1")
    channels.publish(*heard.next())

    assert held.result().json()["result"] == 1
    assert a.query(uuid).json()["result"] == 1


@pytest.mark.parametrize("message", [b"", b"{}", b"\xff", b"[" * 1_000, b'{"uuid":"x","queue":"y","attempt":"z"}'])
def test_a_forged_request_breaks_nothing(
    a: Caller, channels: Channels, worker: object, uuid: str, message: bytes
) -> None:
    channels.publish("test-echo-request-nobody", message)
    channels.publish(f"test-echo-request-{uuid}", message)

    assert a.create(uuid=uuid, queue="test-echo", payload="1", wait=10).json()["result"] == 1


# Many


def test_all_waiters_on_both_instances_are_answered_alike(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    a.create(uuid=uuid, queue=queue)
    held = [caller.create_later(uuid=uuid, queue=queue) for caller in (a, b) for _ in range(10)]
    held += [caller.query_later(uuid) for caller in (a, b) for _ in range(10)]
    channels.wait_for_listeners(f"{queue}-response-{uuid}", 2)

    b.change(uuid, result='{"n":1.0}')

    answers = [call.result() for call in held]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


def test_many_tasks_at_once_each_get_their_own_outcome(a: Caller, b: Caller, queue: str) -> None:
    uuids = [f"{queue}-{number}" for number in range(30)]
    held = {uuid: (a, b)[number % 2].create_later(uuid=uuid, queue=queue) for number, uuid in enumerate(uuids)}

    for number, uuid in enumerate(uuids):
        wait_until(partial(_is_known, b, uuid), "the task exists")
        (a, b)[number % 3 % 2].change(uuid, result=json.dumps(uuid))

    assert {uuid: call.result().json()["result"] for uuid, call in held.items()} == {uuid: uuid for uuid in uuids}


def test_a_task_finished_at_the_same_moment_is_never_missed(a: Caller, b: Caller, queue: str) -> None:
    """The outcome races with the subscription; whoever comes first, the caller gets it."""
    for number in range(15):
        uuid = f"{queue}-{number}"
        held = a.create_later(uuid=uuid, queue=queue)
        wait_until(partial(_is_finished_by, b, uuid), "the task exists and is finished")

        assert held.result().json()["result"] == 1
        assert held.result().elapsed.total_seconds() < 5


# A connection that breaks


def test_no_wait_is_lost_when_the_subscription_connection_is_cut(
    a: Caller, b: Caller, instances: tuple[ApiProcess, ApiProcess], channels: Channels, store: redis.Redis, queue: str
) -> None:
    uuids = [f"{queue}-{number}" for number in range(6)]
    held = {uuid: (a, b)[number % 2].create_later(uuid=uuid, queue=queue) for number, uuid in enumerate(uuids)}
    for uuid in uuids:
        channels.wait_for_listeners(f"{queue}-response-{uuid}")

    store.client_kill_filter(_type="pubsub")
    for uuid in uuids:
        a.change(uuid, result=json.dumps(uuid))

    assert {uuid: call.result().json()["result"] for uuid, call in held.items()} == {uuid: uuid for uuid in uuids}
    assert all(call.result().elapsed.total_seconds() < 8 for call in held.values())
    for instance in instances:
        instance.wait_until_ready()


def test_a_wait_goes_on_after_its_connection_was_cut(
    a: Caller,
    b: Caller,
    instances: tuple[ApiProcess, ApiProcess],
    channels: Channels,
    store: redis.Redis,
    uuid: str,
    queue: str,
) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    store.client_kill_filter(_type="pubsub")
    channels.wait_for_listeners(f"{queue}-response-{uuid}")
    b.change(uuid, result="1")

    assert held.result().json()["result"] == 1
    for instance in instances:
        instance.wait_until_ready()


def test_an_instance_is_ready_again_soon_after_a_cut(
    a: Caller, channels: Channels, store: redis.Redis, uuid: str, queue: str
) -> None:
    """All instances lose their connections at the same moment: none may leave the balancer for longer than it takes."""
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    store.client_kill_filter(_type="pubsub")

    channels.wait_for_listeners(f"{queue}-response-{uuid}")
    wait_until(lambda: a.call("GET", "/readyz").status_code == 200, "the instance is ready", deadline_s=2)
    a.change(uuid)
    held.result()


def test_no_call_is_lost_when_every_connection_is_cut(
    a: Caller,
    b: Caller,
    instances: tuple[ApiProcess, ApiProcess],
    channels: Channels,
    store: redis.Redis,
    uuid: str,
    queue: str,
) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    store.client_kill_filter(_type="normal", skipme=True)
    store.client_kill_filter(_type="pubsub")
    b.change(uuid, result="1")

    assert held.result().json()["result"] == 1
    for instance in instances:
        instance.wait_until_ready()


def _is_known(caller: Caller, uuid: str) -> bool:
    return caller.query(uuid).status_code == 200


def _is_finished_by(caller: Caller, uuid: str) -> bool:
    return caller.change(uuid, result="1").status_code == 200
