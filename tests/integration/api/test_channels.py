"""The public channels: what is published, and who is subscribed for how long."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.caller import Caller, request_head
from tests.support.channels import Channels
from tests.support.processes import wait_until

MESSAGE_MAX_BYTES = 1024


# Requests


def test_a_request_is_announced_without_its_payload(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    heard = channels.listen(f"{queue}-request-*")

    a.create(uuid=uuid, queue=queue, payload='"private"')

    channel, message = heard.next()
    assert channel == f"{queue}-request-{uuid}"
    assert json.loads(message) == {"uuid": uuid, "queue": queue, "attempt": 0}
    heard.assert_no_more()


def test_every_request_of_a_queue_is_heard(a: Caller, b: Caller, channels: Channels, queue: str) -> None:
    heard = channels.listen(f"{queue}-request-*")

    uuids = {caller.create(queue=queue).json()["uuid"] for caller in (a, b, a, b)}

    assert {json.loads(heard.next()[1])["uuid"] for _ in range(4)} == uuids


# Responses


@pytest.mark.parametrize(
    "fields",
    [
        {"result": '{ "commit" : 1.0 }'},
        {"state": "failed", "error": '{"code":"x","details":[]}'},
        {"state": "cancelled"},
    ],
    ids=["succeeded", "failed", "cancelled"],
)
def test_an_outcome_is_announced_as_task_json_with_a_seal(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str, fields: dict[str, Any]
) -> None:
    heard = channels.listen(f"{queue}-response-*")
    a.create(uuid=uuid, queue=queue)

    b.change(uuid, **fields)

    channel, message = heard.next()
    assert channel == f"{queue}-response-{uuid}"
    announced = json.loads(message)
    # 128 bits in letters of at most 6 bits each.
    assert len(announced.pop("seal")) >= 22
    task = a.query(uuid).json()
    del task["message"], task["links"]
    assert announced == task
    heard.assert_no_more()


def test_a_value_is_announced_byte_for_byte(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    heard = channels.listen(f"{queue}-response-*")
    a.create(uuid=uuid, queue=queue)

    a.change(uuid, result="[ 1.0, {}, 9007199254740993 ]")

    assert b'"result":[ 1.0, {}, 9007199254740993 ]' in heard.next()[1]


def test_seals_differ(a: Caller, channels: Channels, queue: str) -> None:
    heard = channels.listen(f"{queue}-response-*")
    for _ in range(3):
        a.change(a.create(queue=queue).json()["uuid"])

    assert len({json.loads(heard.next()[1])["seal"] for _ in range(3)}) == 3


def test_long_values_are_left_out_and_the_reader_is_told(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    heard = channels.listen(f"{queue}-response-*")
    a.create(uuid=uuid, queue=queue)

    a.change(uuid, state="failed", result='"' + "x" * 2_000 + '"', error='{"message":"%s"}' % ("y" * 2_000))

    message = heard.next()[1]
    assert len(message) <= MESSAGE_MAX_BYTES
    announced = json.loads(message)
    assert announced["omitted"] is True
    assert announced["state"] == "failed"
    assert not {"result", "error"} & set(announced)


def test_a_message_is_omitted_only_when_it_would_be_too_long(a: Caller, channels: Channels, queue: str) -> None:
    heard = channels.listen(f"{queue}-response-*")

    def announced(length: int) -> bytes:
        uuid = a.create(queue=queue).json()["uuid"]
        a.change(uuid, result='"' + "中" * (length // 3) + "x" * (length % 3) + '"')
        return heard.next()[1]

    room = MESSAGE_MAX_BYTES - len(announced(0))

    longest = announced(room)
    assert len(longest) == MESSAGE_MAX_BYTES
    assert "omitted" not in json.loads(longest)
    assert json.loads(announced(room + 1))["omitted"] is True


def test_even_the_longest_names_fit(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    queue, uuid = queue.ljust(64, "q"), uuid.ljust(128, "u")
    heard = channels.listen(f"{queue}-response-*")
    a.create(uuid=uuid, queue=queue)

    a.change(uuid, result='"' + "x" * 2_000 + '"')

    assert len(heard.next()[1]) <= MESSAGE_MAX_BYTES


def test_a_held_call_gets_values_that_were_left_out(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    b.change(uuid, result='"' + "x" * 100_000 + '"')

    assert len(held.result().json()["result"]) == 100_000


def test_expiry_is_announced_like_any_outcome(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    heard = channels.listen(f"{queue}-response-*")
    a.create(uuid=uuid, queue=queue, expires_in=0.01)

    assert json.loads(heard.next()[1])["state"] == "expired"
    heard.assert_no_more()


# Subscriptions


def test_an_instance_listens_to_exactly_the_channel_of_its_task(
    a: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    held = a.create_later(uuid=uuid, queue=queue)

    channels.wait_for_listeners(f"{queue}-response-{uuid}")
    assert channels.names(f"{queue}*") == [f"{queue}-response-{uuid}"]

    a.change(uuid)
    held.result()


def test_many_waiters_of_one_instance_take_one_subscription(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    held = [caller.create_later(uuid=uuid, queue=queue) for caller in (a, a, a, b, b)]

    channels.wait_for_listeners(f"{queue}-response-{uuid}", 2)

    a.change(uuid)
    assert {call.result().json()["state"] for call in held} == {"succeeded"}


def test_a_call_that_is_not_held_listens_to_nothing(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)
    a.query(uuid)

    assert channels.names(f"{queue}*") == []


def test_the_channel_is_left_when_the_task_has_ended(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")
    a.change(uuid)
    held.result()

    channels.wait_until_left(f"{queue}-response-{uuid}")


def test_the_channel_is_left_when_the_wait_is_over(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue, wait=0.05)

    channels.wait_until_left(f"{queue}-response-{uuid}")


def test_the_channel_of_a_conflict_is_left(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)
    a.create(uuid=uuid, queue=queue, payload="1", wait=10)

    channels.wait_until_left(f"{queue}-response-{uuid}")


def test_the_channel_stays_while_another_waits(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")
    other = queue + "x"
    a.create(uuid=uuid, queue=queue, wait=0.05)
    a.create(uuid=uuid + "x", queue=other, wait=0.05)
    channels.wait_until_left(f"{other}-response-{uuid}x")

    assert channels.listeners(f"{queue}-response-{uuid}") == 1

    a.change(uuid)
    assert held.result().json()["state"] == "succeeded"


# Callers that go away


def _close(connection: socket.socket) -> None:
    connection.close()


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


@pytest.mark.parametrize("leave", [_close, _reset], ids=["closed", "reset"])
@pytest.mark.parametrize("path", ["/createTask", "/queryTaskState"])
def test_the_wait_of_a_caller_that_is_gone_is_freed(
    a: Caller, channels: Channels, uuid: str, queue: str, path: str, leave: Callable[[socket.socket], None]
) -> None:
    a.create(uuid=uuid, queue=queue)
    query = f"uuid={uuid}&wait=90" + (f"&queue={queue}" if path == "/createTask" else "")
    with a.connection(request_head("GET", f"{path}?{query}")) as connection:
        channels.wait_for_listeners(f"{queue}-response-{uuid}")
        leave(connection)

        channels.wait_until_left(f"{queue}-response-{uuid}", since_s=1.0)

    assert a.query(uuid).json()["state"] == "pending"


def test_a_caller_that_is_gone_leaves_the_others_waiting(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    with a.connection(request_head("GET", f"/createTask?uuid={uuid}&queue={queue}&wait=90")):
        channels.wait_for_listeners(f"{queue}-response-{uuid}")
    alone = b.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}", 2)

    b.change(uuid, result="1")

    assert [held.result().json()["result"], alone.result().json()["result"]] == [1, 1]


def test_the_result_of_a_task_whose_caller_is_gone_is_stored(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    with a.connection(request_head("GET", f"/createTask?uuid={uuid}&queue={queue}&wait=90")):
        channels.wait_for_listeners(f"{queue}-response-{uuid}")
    b.change(uuid, result='"late"')

    assert b.create(uuid=uuid, queue=queue, wait=5).json()["result"] == "late"


def test_many_callers_that_go_away_leave_nothing_behind(a: Caller, channels: Channels, queue: str) -> None:
    for number in range(20):
        with a.connection(request_head("GET", f"/createTask?uuid={queue}{number}&queue={queue}&wait=90")):
            pass

    wait_until(lambda: channels.names(f"{queue}*") == [], "nobody listens", deadline_s=6)
