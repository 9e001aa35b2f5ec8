"""Callers that leave: their waits are freed within a second, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

from broker import Broker, Settings
from broker_services.api.answers import Answer
from broker_services.api.app import build_app
from broker_services.api.whole_request import WholeRequest
from tests.integration.conftest import OwnDeployment
from tests.support.api import ADDRESS, ApiProcess
from tests.support.caller import request_head
from tests.support.processes import wait_until
from tests.support.swift_http import SwiftHttp

MANY: Final = 1_000
DESCRIPTORS: Final = 4_096
WAIT_S: Final = 60
FREED_WITHIN_S: Final = 1.0
CHANNEL_KEPT_S: Final = 1.5
"""An unwaited channel stays for a second, checked each quarter."""
SLACK_S: Final = 2.0
GONE_WITHIN_S: Final = FREED_WITHIN_S + CHANNEL_KEPT_S + SLACK_S


@pytest.fixture(autouse=True)
def _enough_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
            pytest.skip(f"{DESCRIPTORS} descriptors are needed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


def held_request(uuid: str, wait: float = WAIT_S) -> bytes:
    body = json.dumps({"queue": "held", "uuid": uuid, "wait": wait}).encode()
    return request_head("POST", "/createTask", b"Content-Length: %d" % len(body)) + body


@contextmanager
def callers(api: ApiProcess, *requests: bytes) -> Iterator[list[socket.socket]]:
    """A connection for each request, which has been sent on it."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection((ADDRESS, api.port), timeout=20)) for _ in requests]
        for connection, request in zip(sockets, requests, strict=True):
            connection.sendall(request)
        yield sockets


def read_until(connection: socket.socket, end: bytes) -> bytes:
    answer = b""
    while end not in answer:
        part = connection.recv(4_096)
        assert part, answer
        answer += part
    return answer


def wait_until_held(own: OwnDeployment, count: int) -> None:
    wait_until(lambda: len(own.response_channels()) == count, f"{count} tasks are waited for")


def wait_until_freed(own: OwnDeployment, count: int = 0) -> None:
    wait_until(lambda: len(own.response_channels()) == count, f"{count} tasks are waited for", GONE_WITHIN_S)


def test_a_thousand_callers_leave_together(own: OwnDeployment) -> None:
    api = own.api()
    with callers(api, *[held_request(f"t{number}") for number in range(MANY)]):
        wait_until_held(own, MANY)
    wait_until_freed(own)
    api.assert_log_has_no_defect()


def test_of_many_callers_of_one_task_some_leave(own: OwnDeployment) -> None:
    api = own.api()
    with callers(api, *[held_request("t")] * 50) as staying, callers(api, *[held_request("t")] * 50) as leaving:
        # The instance has read all requests when it has answered one that came later.
        with callers(api, held_request("last", 0.1)) as (last,):
            assert last.recv(100).startswith(b"HTTP/1.1 202 ")
        for connection in leaving:
            connection.close()
        asyncio.run(finish(api, "t", 7))
        for connection in staying:
            answer = read_until(connection, b"}}")
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b'"result":7,' in answer
    api.assert_log_has_no_defect()


async def finish(api: ApiProcess, uuid: str, result: Any) -> None:
    async with SwiftHttp(api.url) as http:
        assert (await http.post("/changeTaskState", {"uuid": uuid, "result": result})).status == 200


def test_a_reset_connection_is_a_caller_that_left(own: OwnDeployment) -> None:
    api = own.api()
    with callers(api, held_request("t")) as (connection,):
        wait_until_held(own, 1)
        # Closing sends RST then instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
        wait_until_freed(own)
    api.assert_log_has_no_defect()


def test_a_caller_that_only_stops_sending_counts_as_gone(own: OwnDeployment) -> None:
    """HTTP cannot tell it from one that closed; its connection is closed, too, rather than kept half open."""
    api = own.api()
    with callers(api, held_request("t")) as (connection,):
        wait_until_held(own, 1)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
        wait_until_freed(own)
    api.assert_log_has_no_defect()


def test_a_pipelining_caller_is_answered_in_order(own: OwnDeployment) -> None:
    api = own.api()
    with callers(api, held_request("first") + held_request("second", 0)) as (connection,):
        wait_until_held(own, 1)
        asyncio.run(finish(api, "first", 1))
        answers = read_until(connection, b'"uuid":"second"')
    assert answers.index(b'"uuid":"first"') < answers.index(b'"uuid":"second"')
    api.assert_log_has_no_defect()


@pytest.mark.parametrize("behind", [held_request("second"), b"POST /createTask HTTP/1.1\r\n", b"x" * 200_000])
def test_a_pipelining_caller_leaves(own: OwnDeployment, behind: bytes) -> None:
    """Its next request is not read before the first is answered; that it closes must be noticed nevertheless."""
    api = own.api()
    with callers(api, held_request("first")) as (connection,):
        wait_until_held(own, 1)
        connection.sendall(behind)
        connection.close()
        wait_until_freed(own)
    api.assert_log_has_no_defect()


async def test_a_caller_that_leaves_in_the_turn_in_which_its_wait_ends_is_held_no_longer(redis_url: str) -> None:
    """What looks at the task once more has not begun then, and never does."""

    class Line:
        def write_answer(self, answer: Answer, *, closes: bool) -> None:
            raise AssertionError("Nobody is there to be answered.")

    async with Broker(Settings(redis_url=redis_url)) as broker:
        app, _ = build_app(broker)
        call = app.begin(Line(), WholeRequest("POST", "/createTask", b"", {}, body=b'{"queue": "nobodys", "wait": 30}'))
        assert call is not None
        assert broker.capacity.held == 1
        broker.end_waits()
        call.lose()
        await asyncio.sleep(0)
        assert (broker.capacity.held, broker.hub.held) == (0, 0)
