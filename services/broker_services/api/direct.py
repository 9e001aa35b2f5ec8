"""Calls without a task of their own: all that they ask for has come, and whoever brings the answer writes it.

A held call that awaits its outcome costs a task, a future, a coroutine for each layer and two turns of the loop. Most
calls need none of that: they send one command, and are answered when its reply or the task's outcome comes. What is not
so simple (a wait that is over, an attach, an outage) goes on in a task from where it stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, ClassVar, Final, ParamSpec, Protocol

import msgspec

from broker.errors import BrokerError
from broker.store.commands import Reply
from broker_services.api.answers import Answer
from broker_services.api.measures import ApiMeasures
from broker_services.api.problems import HttpError, problem_answer
from broker_services.api.request_head import RequestHead
from broker_services.api.whole_request import WholeRequest

log = logging.getLogger("broker.api")

P = ParamSpec("P")

_UNEXPECTED: Final = "The service has a defect here; its log has the reason."


class Line(Protocol):
    """The connection that a call came by."""

    def write_answer(self, answer: Answer, *, closes: bool) -> None:
        """Writes the answer of the present call, unless its caller has left, and goes on to the next request."""


class _Nobody:
    """uvicorn wakes whoever reads a request: here, nobody does."""

    def set(self) -> None:
        """Nobody is woken."""


class DirectCall(msgspec.Struct, eq=False):
    """One call of the operation `name`, `started` by the performance counter, and counted in `measures`.

    `on_lost` is called when the caller has left before the answer. For uvicorn's protocol the call is the cycle of the
    present request: it looks at the last four.
    """

    line: Line
    request: WholeRequest
    name: str
    measures: ApiMeasures
    started: float
    on_lost: Callable[[], object] | None = None
    keep_alive: bool = True
    disconnected: bool = False
    response_complete: bool = False
    message_event: ClassVar = _Nobody()

    def answer(self, answer: Answer) -> None:
        """Writes the answer."""
        self.on_lost = None
        self.response_complete = True
        seconds = perf_counter() - self.started
        self.measures.answered(self.name, answer.status, seconds, was_held=self.request.is_held)
        if answer.problem is not None:
            self.measures.problems[answer.problem] += 1
        self.line.write_answer(answer, closes=not self.keep_alive)

    def refuse(self, error: Exception) -> None:
        """Answers with what went wrong."""
        self.answer(failure_answer(self.request, error))

    def answer_with(self, make: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> None:
        """Answers with what `make` gives, or with what it raises."""
        try:
            answer = make(*args, **kwargs)
        except Exception as error:
            answer = failure_answer(self.request, error)
        self.answer(answer)

    def go_on(self, answering: Callable[[], Coroutine[Any, Any, Answer]]) -> None:
        """Has a task find the answer; when the caller leaves, it is cancelled, if need be before it has begun, and what
        `on_lost` was so far is called, too."""
        task, was_to_do = asyncio.create_task(self._answer_later(answering)), self.on_lost

        def leave() -> None:
            task.cancel()
            if was_to_do is not None:
                was_to_do()

        self.on_lost = leave

    async def _answer_later(self, answering: Callable[[], Coroutine[Any, Any, Answer]]) -> None:
        try:
            answer = await answering()
        except Exception as error:
            answer = failure_answer(self.request, error)
        self.answer(answer)

    def lose(self) -> None:
        """The caller has left."""
        if not self.response_complete:
            self.disconnected = self.response_complete = True
            self.measures.callers_gone[self.name] += 1
            if self.on_lost is not None:
                self.on_lost()


class AnsweredByReply:
    """The receiver of a command whose reply is all that a call waits for.

    Args:
        call: Is answered.
        make: Makes the answer of the reply, or raises.
    """

    __slots__ = ("_call", "_make")

    is_abandoned = False
    """A change is sent even when its caller has just left: it may be halfway there."""

    def __init__(self, call: DirectCall, make: Callable[[Reply], Answer]) -> None:
        self._call = call
        self._make = make

    def succeed(self, reply: Reply) -> None:
        """The reply has come."""
        if not self._call.response_complete:
            self._call.answer_with(self._make, reply)

    def fail(self, error: Exception) -> None:
        """It will not come."""
        if not self._call.response_complete:
            self._call.refuse(error)


def failure_answer(request: RequestHead, error: Exception) -> Answer:
    """The problem that a call is answered with; a defect is told to the log only."""
    if not isinstance(error, BrokerError):
        log.error("%s %s failed.", request.method, request.path, exc_info=error)
        error = HttpError("internal-error", _UNEXPECTED)
    return problem_answer(error, path=request.instance, language=request.language)
