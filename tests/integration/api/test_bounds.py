"""Queues and instances that are full, over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.integration.api.conftest import Deployment
from tests.support.api import ApiProcess
from tests.support.caller import Caller, code_of
from tests.support.channels import Channels

MOST = 2


@pytest.fixture(scope="module")
def full_instances(deployment: Deployment) -> list[ApiProcess]:
    """One that refuses beyond its bounds, and one that drops."""
    bounds = {"queue_max_pending": str(MOST), "max_waiters": str(MOST)}
    (refusing,) = deployment.start_instances(1, **bounds)
    (dropping,) = deployment.start_instances(1, **bounds, queue_full="drop-oldest")
    return [refusing, dropping]


@pytest.fixture
def refusing(full_instances: list[ApiProcess], http: httpx.Client, threads: ThreadPoolExecutor) -> Caller:
    return Caller(full_instances[0].url, http, threads)


@pytest.fixture
def dropping(full_instances: list[ApiProcess], http: httpx.Client, threads: ThreadPoolExecutor) -> Caller:
    return Caller(full_instances[1].url, http, threads)


def fill(caller: Caller, queue: str) -> None:
    for number in range(MOST):
        assert caller.create(uuid=f"{queue}-{number}", queue=queue).status_code == 202


@pytest.mark.parametrize("wait", [0, 10])
def test_a_full_queue_refuses(refusing: Caller, queue: str, uuid: str, wait: float) -> None:
    fill(refusing, queue)

    answer = refusing.create(uuid=uuid, queue=queue, wait=wait)

    assert code_of(answer) == (429, "queue-full")
    assert 1 <= int(answer.headers["retry-after"]) <= 3
    assert refusing.query(uuid).status_code == 404
    assert refusing.create(queue=queue + "x").status_code == 202


def test_who_attaches_is_not_refused(refusing: Caller, queue: str) -> None:
    fill(refusing, queue)

    assert refusing.create(uuid=f"{queue}-0", queue=queue).status_code == 202


def test_a_full_queue_takes_no_retry(refusing: Caller, queue: str, uuid: str) -> None:
    refusing.create(uuid=uuid, queue=queue)
    refusing.change(uuid, state="failed")
    fill(refusing, queue)

    assert code_of(refusing.call("POST", "/retryTask", json={"uuid": uuid})) == (429, "queue-full")


def test_an_ended_task_makes_room(refusing: Caller, queue: str) -> None:
    fill(refusing, queue)
    refusing.cancel(f"{queue}-0")

    assert refusing.create(queue=queue).status_code == 202


def test_the_oldest_is_dropped_and_its_waiter_is_told(
    a: Caller, dropping: Caller, queue: str, channels: Channels
) -> None:
    held = a.create_later(uuid=f"{queue}-0", queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{queue}-0")
    fill(dropping, queue)

    assert dropping.create(uuid=f"{queue}-new", queue=queue).status_code == 202

    dropped = held.result().json()
    assert (dropped["state"], dropped["error"]["code"]) == ("failed", "queue-full")
    states = [dropping.query(f"{queue}-{name}").json()["state"] for name in ("0", "1", "new")]
    assert states == ["failed", "pending", "pending"]


def test_an_instance_holds_so_many_calls_and_no_more(refusing: Caller, queue: str, channels: Channels) -> None:
    fill(refusing, queue)
    held = [refusing.query_later(f"{queue}-{number}") for number in range(MOST)]
    for number in range(MOST):
        channels.wait_for_listeners(f"{queue}-response-{queue}-{number}")

    for answer in (refusing.create(queue=queue + "x", wait=1), refusing.query(f"{queue}-0", wait=1)):
        assert code_of(answer) == (503, "too-many-waiters")
        assert 1 <= int(answer.headers["retry-after"]) <= 3
    assert refusing.create(queue=queue + "x").status_code == 202
    assert refusing.query(f"{queue}-0").status_code == 200

    for number in range(MOST):
        refusing.cancel(f"{queue}-{number}")
    assert [call.result().status_code for call in held] == [200] * MOST
    assert refusing.create(queue=queue + "x", wait=0.1).status_code == 202
