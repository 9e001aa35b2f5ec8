"""`exclusive`: one waiter, whichever instances are asked."""

from __future__ import annotations

import time

import redis

from tests.support.caller import Caller, code_of
from tests.support.channels import Channels
from tests.support.processes import wait_until

REFUSED = (409, "waiter-exists")


def test_whoever_waits_keeps_an_exclusive_call_out(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")
    before = a.query(uuid).json()

    refused = [
        caller.later("GET", f"/createTask?uuid={uuid}&queue={queue}&exclusive=true&wait={wait}")
        for caller in (a, b)
        for wait in (0, 10)
    ]

    assert [code_of(one.result()) for one in refused] == [REFUSED] * 4
    assert uuid in refused[0].result().json()["detail"]
    assert b.query(uuid).json() == before
    b.change(uuid, result="1")
    assert held.result().json()["result"] == 1


def test_a_query_counts_as_a_waiter(a: Caller, b: Caller, channels: Channels, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)
    held = a.query_later(uuid)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    assert code_of(b.create(uuid=uuid, queue=queue, wait=5, exclusive=True)) == REFUSED

    a.change(uuid)
    held.result()


def test_one_of_several_wins_and_others_may_join_it(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    racing = [caller.create_later(uuid=uuid, queue=queue, exclusive=True) for caller in (a, b) * 4]

    wait_until(lambda: sum(one.done() for one in racing) == 7, "all but one are refused")
    (winner,) = (one for one in racing if not one.done())
    assert {code_of(one.result()) for one in racing if one is not winner} == {REFUSED}
    joined = b.create_later(uuid=uuid, queue=queue)
    a.change(uuid, result='"won"')
    assert winner.result().json()["result"] == joined.result().json()["result"] == "won"


def test_one_of_several_with_a_key_wins(a: Caller, b: Caller, queue: str, uuid: str) -> None:
    racing = [
        caller.create_later(queue=queue, exclusive=True, headers={"idempotency-key": uuid}) for caller in (a, b) * 3
    ]

    wait_until(lambda: sum(one.done() for one in racing) == 5, "all but one are refused")
    (winner,) = (one for one in racing if not one.done())
    created = a.create(queue=queue, headers={"idempotency-key": uuid}).json()["uuid"]
    b.change(created)
    assert winner.result().json()["uuid"] == created
    assert {code_of(one.result()) for one in racing if one is not winner} == {REFUSED}


def test_who_has_just_left_does_not_count(a: Caller, b: Caller, channels: Channels, uuid: str, queue: str) -> None:
    for caller in (a, a, b):
        # The channel of the one before lingers on its instance for a second.
        assert caller.create(uuid=uuid, queue=queue, wait=0.02, exclusive=True).status_code == 202


def test_a_refused_call_leaves_nothing(
    a: Caller, b: Caller, channels: Channels, store: redis.Redis, uuid: str, queue: str
) -> None:
    held = a.query_later(uuid)
    assert held.result().status_code == 404
    with store.pubsub() as foreign:  # type: ignore[no-untyped-call]
        foreign.subscribe(f"{queue}-response-{uuid}")
        channels.wait_for_listeners(f"{queue}-response-{uuid}")
        assert code_of(b.create(uuid=uuid, queue=queue, exclusive=True)) == REFUSED
    assert b.query(uuid).status_code == 404


def test_an_ended_task_is_answered_at_once(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)
    a.change(uuid, result="7")
    started = time.monotonic()

    answers = [caller.create(uuid=uuid, queue=queue, wait=wait, exclusive=True) for caller in (a, b) for wait in (0, 9)]

    assert [answer.json()["result"] for answer in answers] == [7] * 4
    assert time.monotonic() - started < 1.4


def test_another_payload_stays_a_conflict(a: Caller, b: Caller, channels: Channels, uuid: str, queue: str) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    answer = b.create(uuid=uuid, queue=queue, payload="1", exclusive=True, wait=5)

    assert code_of(answer) == (409, "task-conflict")
    a.change(uuid)
    held.result()
