"""SIGTERM: every held call is answered at once, and the process ends in order."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.integration.api.conftest import Deployment
from tests.support.api import ApiProcess
from tests.support.caller import Caller, json_object, request_head
from tests.support.channels import Channels
from tests.support.processes import wait_until

DRAIN_S = 8


def test_held_calls_are_answered_and_the_process_exits_with_0(
    deployment: Deployment,
    a: Caller,
    channels: Channels,
    own_log: Path,
    http: httpx.Client,
    threads: ThreadPoolExecutor,
    uuid: str,
    queue: str,
) -> None:
    with ApiProcess(deployment.server.url, log=own_log, drain_s=str(DRAIN_S)) as instance:
        caller = Caller(instance.url, http, threads)
        creating = [caller.create_later(uuid=f"{uuid}{number}", queue=queue, wait=90) for number in range(5)]
        for number in range(5):
            channels.wait_for_listeners(f"{queue}-response-{uuid}{number}")
        a.create(uuid=uuid, queue=queue)
        querying = caller.query_later(uuid, wait=90)
        channels.wait_for_listeners(f"{queue}-response-{uuid}")

        instance.terminate()

        for number, call in enumerate(creating):
            answer = call.result()
            assert answer.status_code == 202
            assert answer.headers["retry-after"] == "0"
            assert answer.headers["location"] == f"/queryTaskState?uuid={uuid}{number}"
            assert answer.json()["state"] == "pending"
        assert querying.result().status_code == 200
        assert querying.result().json()["state"] == "pending"
        assert instance.process.wait(DRAIN_S) == 0
        instance.assert_log_has_no_defect()

    assert a.change(f"{uuid}0").json()["changed"] is True


def test_a_call_whose_body_comes_during_the_shutdown_is_not_held(
    deployment: Deployment, own_log: Path, http: httpx.Client, threads: ThreadPoolExecutor, uuid: str, queue: str
) -> None:
    body = json_object({"uuid": uuid, "queue": queue, "wait": 90})
    head = request_head("POST", "/createTask", b"Content-Length: %d" % len(body))
    with ApiProcess(deployment.server.url, log=own_log, drain_s=str(DRAIN_S)) as instance:
        caller = Caller(instance.url, http, threads)
        with caller.connection(head + body[:-1]) as connection:
            # The server has seen the request when it has answered a later one.
            caller.call("GET", "/healthz")
            instance.terminate()
            wait_until(lambda: not _accepts(instance.port), "the instance takes no more connections")

            connection.sendall(body[-1:])

            answer = caller.read_answer(connection, "POST", "/createTask")
        assert answer.status_code in (202, 503)
        assert instance.process.wait(DRAIN_S / 2) == 0
        instance.assert_log_has_no_defect()


def test_a_body_that_never_comes_does_not_delay_the_end(
    deployment: Deployment, own_log: Path, http: httpx.Client, threads: ThreadPoolExecutor
) -> None:
    with ApiProcess(deployment.server.url, log=own_log, drain_s="1") as instance:
        caller = Caller(instance.url, http, threads)
        with caller.connection(request_head("POST", "/createTask", b"Content-Length: 9")) as connection:
            caller.call("GET", "/healthz")
            instance.terminate()

            assert instance.process.wait(5) == 0
            answer = connection.recv(1_000)
        # Nothing, or an answer that tells the sender to come back, but no defect.
        assert b" 500 " not in answer
        instance.assert_log_has_no_defect()


def test_sigterm_ends_an_idle_instance_with_0(deployment: Deployment, own_log: Path) -> None:
    with ApiProcess(deployment.server.url, log=own_log) as instance:
        instance.terminate()

        assert instance.process.wait(5) == 0


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_task_outlives_the_instance_that_held_its_call(
    deployment: Deployment,
    a: Caller,
    channels: Channels,
    own_log: Path,
    http: httpx.Client,
    threads: ThreadPoolExecutor,
    uuid: str,
    queue: str,
) -> None:
    with ApiProcess(deployment.server.url, log=own_log) as instance:
        held = Caller(instance.url, http, threads).create_later(uuid=uuid, queue=queue, wait=90)
        channels.wait_for_listeners(f"{queue}-response-{uuid}")
        instance.process.kill()
        with pytest.raises(httpx.TransportError):
            held.result()

    a.change(uuid, result='"late"')

    assert a.create(uuid=uuid, queue=queue, wait=10).json()["result"] == "late"
