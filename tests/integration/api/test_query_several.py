"""queryTaskState with several uuids: all of them, or the first that ends, on whichever instance that happens."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import httpx
import pytest

from tests.support.api import ApiProcess
from tests.support.caller import Caller, code_of
from tests.support.channels import Channels
from tests.support.processes import wait_until


@pytest.fixture
def uuids(a: Caller, queue: str, uuid: str) -> list[str]:
    """Three pending tasks."""
    names = [f"{uuid}-{place}" for place in range(3)]
    for name in names:
        a.create(uuid=name, queue=queue)
    return names


def target(uuids: list[str], **fields: Any) -> str:
    return "/queryTaskState?" + str(httpx.QueryParams([*[("uuid", uuid) for uuid in uuids], *fields.items()]))


def query(caller: Caller, uuids: list[str], **fields: Any) -> list[dict[str, Any]]:
    answer = caller.call("GET", target(uuids, **fields))
    assert answer.status_code == 200
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def states(answer: httpx.Response) -> list[str]:
    return [item["task"]["state"] for item in answer.json()["items"]]


def test_each_is_answered_in_order_as_by_itself(a: Caller, b: Caller, uuids: list[str]) -> None:
    a.change(uuids[1], result="[1.0]")

    items = query(b, [uuids[2], "unknown", uuids[1], uuids[2]])

    assert [item["status"] for item in items] == [200, 404, 200, 200]
    assert [item["task"] for item in items if "task" in item] == [
        a.query(name).json() for name in (uuids[2], uuids[1], uuids[2])
    ]
    assert items[1]["problem"]["code"] == "task-not-found"


def test_one_uuid_with_until_is_answered_as_several(a: Caller, uuids: list[str]) -> None:
    (item,) = query(a, uuids[:1], until="any")

    assert item == {"status": 200, "task": a.query(uuids[0]).json()}


@pytest.mark.parametrize(
    "text",
    [
        "uuid=a&uuid=a%20b",
        "uuid=a&uuid=b&until=none",
        "uuid=a&uuid=b&wait=-1",
        "uuid=a&uuid=b&wait=1&wait=2",
        "until=all",
        "&".join(f"uuid=t{place}" for place in range(101)),
    ],
)
def test_what_cannot_be_used_is_refused(a: Caller, text: str) -> None:
    assert code_of(a.call("GET", "/queryTaskState?" + text)) == (422, "invalid-request")


# Holding


@pytest.fixture
def hold(b: Caller, channels: Channels, queue: str) -> Any:
    def held(uuids: list[str], **fields: Any) -> Future[httpx.Response]:
        waiting = b.later("GET", target(uuids, **{"wait": 10, **fields}))
        for uuid in uuids:
            channels.wait_for_listeners(f"{queue}-response-{uuid}")
        return waiting

    return held


def test_all_are_waited_for(a: Caller, b: Caller, hold: Any, uuids: list[str]) -> None:
    held = hold(uuids)
    a.change(uuids[0], result="1")
    b.change(uuids[2], result='"%s"' % ("x" * 2000))
    assert not held.done()
    a.cancel(uuids[1])

    assert states(held.result()) == ["succeeded", "cancelled", "succeeded"]
    assert held.result().json()["items"][2]["task"] == a.query(uuids[2]).json()


def test_the_first_is_waited_for(a: Caller, hold: Any, uuids: list[str]) -> None:
    held = hold(uuids, until="any")
    a.change(uuids[1])

    assert states(held.result()) == ["pending", "succeeded", "pending"]


def test_a_wait_that_is_over_tells_the_states(a: Caller, uuids: list[str]) -> None:
    answer = a.call("GET", target(uuids, wait=0.2))

    assert states(answer) == ["pending"] * 3
    assert answer.elapsed.total_seconds() >= 0.2


@pytest.mark.parametrize("until", ["all", "any"])
def test_an_unknown_task_counts_as_ended(a: Caller, uuids: list[str], uuid: str, until: str) -> None:
    a.change(uuids[0])
    names = [uuids[0], "unknown"] if until == "all" else [uuids[1], "unknown"]

    answer = a.call("GET", target(names, wait=10, until=until))

    assert [item["status"] for item in answer.json()["items"]] == [200, 404]
    assert answer.elapsed.total_seconds() < 5


def test_a_repeated_uuid_is_waited_for_once(a: Caller, hold: Any, uuids: list[str]) -> None:
    held = hold([uuids[0], uuids[0]])
    a.change(uuids[0])

    assert states(held.result()) == ["succeeded"] * 2


def test_prefer_wait_and_etags_work_as_for_one(a: Caller, tight: Caller, uuids: list[str]) -> None:
    first = tight.call("GET", target(uuids), headers={"prefer": "wait=60"})
    assert first.headers["preference-applied"] == "wait=0.4"
    condition = {"if-none-match": first.headers["etag"]}

    assert a.call("GET", target(uuids), headers=condition).status_code == 304
    a.change(uuids[0])
    assert a.call("GET", target(uuids), headers=condition).status_code == 200


def test_a_caller_that_leaves_leaves_no_wait(
    b: Caller, instances: tuple[ApiProcess, ApiProcess], channels: Channels, queue: str, uuids: list[str]
) -> None:
    names = [f"{queue}-response-{uuid}" for uuid in uuids]
    head = f"GET {target(uuids, wait=30)} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    with b.connection(head):
        for name in names:
            channels.wait_for_listeners(name)

    for name in names:
        channels.wait_until_left(name)


def test_each_task_counts_as_a_wait(a: Caller, deployment: Any, uuids: list[str]) -> None:
    (instance,) = deployment.start_instances(1, max_waiters="2")
    caller = Caller(instance.url, a._http, a._threads)

    assert code_of(caller.call("GET", target(uuids, wait=10))) == (503, "too-many-waiters")
    assert states(caller.call("GET", target(uuids[:2], wait=0.1))) == ["pending"] * 2
    assert states(caller.call("GET", target(uuids))) == ["pending"] * 3


def test_a_draining_instance_answers_at_once(
    a: Caller, deployment: Any, channels: Channels, queue: str, uuids: list[str]
) -> None:
    (instance,) = deployment.start_instances(1)
    held = Caller(instance.url, a._http, a._threads).later("GET", target(uuids, wait=30))
    wait_until(lambda: channels.listeners(f"{queue}-response-{uuids[2]}") == 1, "the call is held")
    instance.terminate()

    assert states(held.result()) == ["pending"] * 3
