"""A call without a task: answered once, by whatever comes, or left by its caller."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from broker.errors import StoreUnavailableError, TaskNotFoundError
from broker_services.api.answers import Answer
from broker_services.api.direct import AnsweredByReply, DirectCall
from broker_services.api.measures import ApiMeasures
from broker_services.api.whole_request import WholeRequest


class Line:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[Answer] = []

    def write_answer(self, answer: Answer, *, closes: bool) -> None:
        self.written.append(answer)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def call(line: Line) -> DirectCall:
    return DirectCall(line, WholeRequest("GET", "/x", b"", {}, body=b""), "x", ApiMeasures(), 0.0)


def fails(_reply: Any) -> Answer:
    raise TaskNotFoundError("t")


def breaks(_reply: Any) -> Answer:
    raise ZeroDivisionError


def test_a_reply_is_answered(line: Line, call: DirectCall) -> None:
    AnsweredByReply(call, lambda reply: Answer(200, reply)).succeed(b"{}")
    assert [answer.body for answer in line.written] == [b"{}"]
    assert call.response_complete
    assert call.measures.calls == {("x", 200): 1}


@pytest.mark.parametrize(("make", "status", "code"), [(fails, 404, "task-not-found"), (breaks, 500, "internal-error")])
def test_what_a_reply_means_may_be_a_problem(line: Line, call: DirectCall, make: Any, status: int, code: str) -> None:
    AnsweredByReply(call, make).succeed(b"{}")
    assert [answer.status for answer in line.written] == [status]
    assert orjson.loads(line.written[0].body)["code"] == code
    assert call.measures.problems == {code: 1}


def test_no_reply_is_a_problem(line: Line, call: DirectCall) -> None:
    AnsweredByReply(call, fails).fail(StoreUnavailableError("away"))
    assert [answer.status for answer in line.written] == [503]


def test_a_change_is_sent_although_its_caller_has_left(call: DirectCall) -> None:
    receiver = AnsweredByReply(call, fails)
    call.lose()
    assert not receiver.is_abandoned


@pytest.mark.parametrize("fails_then", [False, True])
def test_nothing_is_written_to_who_has_left(line: Line, call: DirectCall, fails_then: bool) -> None:
    receiver = AnsweredByReply(call, lambda _: Answer(200))
    call.lose()
    call.lose()
    if fails_then:
        receiver.fail(StoreUnavailableError("away"))
    else:
        receiver.succeed(b"{}")
    assert line.written == []
    assert call.measures.callers_gone == {"x": 1}


async def test_a_call_that_goes_on_is_answered_by_its_task(line: Line, call: DirectCall) -> None:
    async def answering() -> Answer:
        return Answer(202)

    call.go_on(answering)
    await asyncio.sleep(0)
    assert [answer.status for answer in line.written] == [202]


async def test_a_task_that_fails_answers_with_the_problem(line: Line, call: DirectCall) -> None:
    async def answering() -> Answer:
        raise StoreUnavailableError("away")

    call.go_on(answering)
    await asyncio.sleep(0)
    assert [answer.status for answer in line.written] == [503]


async def test_a_caller_that_leaves_ends_the_task(line: Line, call: DirectCall) -> None:
    ended = asyncio.Event()

    async def answering() -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return Answer(200)

    call.go_on(answering)
    await asyncio.sleep(0)
    call.lose()
    async with asyncio.timeout(1):
        await ended.wait()
    assert line.written == []


async def test_a_caller_that_leaves_before_its_task_begins_is_left_all_the_same(line: Line, call: DirectCall) -> None:
    """Else what it holds would be held for ever."""
    left: list[str] = []

    async def answering() -> Answer:
        return Answer(200)

    call.on_lost = lambda: left.append("left")
    call.go_on(answering)
    call.lose()
    await asyncio.sleep(0.01)
    assert (left, line.written) == (["left"], [])
