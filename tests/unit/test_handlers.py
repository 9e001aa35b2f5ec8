"""What makes a function a handler, and how long a failed attempt waits for the next."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import ConfigurationError, TaskError
from broker.handlers import Handler, ThreadLane
from broker.task import Task, TaskState
from tests.support.store import until


async def coroutine(_: Task) -> None: ...


def plain(_: Task) -> None: ...


class AsyncObject:
    async def __call__(self, _: Task) -> None: ...


class PlainObject:
    def __call__(self, _: Task) -> None: ...

    async def method(self, _: Task) -> None: ...


@pytest.mark.parametrize(
    ("function", "is_async"),
    [
        (coroutine, True),
        (plain, False),
        (AsyncObject(), True),
        (PlainObject(), False),
        (PlainObject().method, True),
        (partial(coroutine), True),
        (partial(plain), False),
    ],
)
def test_whether_a_function_is_awaited(function: Any, is_async: bool) -> None:
    assert Handler("q", function).is_async is is_async


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"queue": "No"}, "queue"),
        ({"queue": "a-request"}, "queue"),
        ({"concurrency": 0}, "concurrency"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"timeout_s": 0}, "timeout"),
        ({"timeout_s": -1.0}, "timeout"),
        ({"timeout_s": float("nan")}, "timeout"),
        ({"timeout_s": float("inf")}, "timeout"),
        ({"function": "no function"}, "called"),
        ({"min_backoff_s": -1.0}, "min_backoff"),
        ({"min_backoff_s": 2.0, "max_backoff_s": 1.0}, "max_backoff"),
        ({"max_backoff_s": float("nan")}, "max_backoff"),
        ({"max_backoff_s": float("inf")}, "max_backoff"),
        ({"retry_on": ("ValueError",)}, "retry_on"),
        ({"no_retry_on": (1,)}, "no_retry_on"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        Handler(**{"queue": "q", "function": plain, **arguments})


@given(st.integers(1, 10_000))
def test_the_delay_doubles_from_one_second_to_sixty_and_is_jittered(attempt: int) -> None:
    most = min(2.0 ** min(attempt - 1, 10), 60.0)
    assert most / 2 <= Handler("q", plain).retry_delay_s(attempt) <= most


def test_the_delay_differs_from_task_to_task() -> None:
    assert len({Handler("q", plain).retry_delay_s(5) for _ in range(20)}) > 1


@given(st.integers(1, 10_000), st.floats(0, 100), st.floats(100, 10_000))
def test_the_delay_keeps_to_the_handlers_own_bounds(attempt: int, first: float, most: float) -> None:
    handler = Handler("q", plain, min_backoff_s=first, max_backoff_s=most)
    expected = min(first * 2.0 ** min(attempt - 1, 60), most)
    assert expected / 2 <= handler.retry_delay_s(attempt) <= expected


@pytest.mark.parametrize(
    ("retry_on", "no_retry_on", "error", "expected"),
    [
        ((Exception,), (), ValueError(), True),
        ((Exception,), (ValueError,), ValueError(), False),
        ((Exception,), (ValueError,), UnicodeError(), False),
        ((Exception,), (ValueError,), KeyError(), True),
        ((OSError,), (), ConnectionResetError(), True),
        ((OSError,), (), ValueError(), False),
        ((OSError,), (ConnectionError,), ConnectionResetError(), False),
        ((Exception,), (), TaskError("m"), False),
        ((OSError,), (), TaskError("m", retry=True), True),
        ((Exception,), (TaskError,), TaskError("m", retry=True), False),
        ((), (), ValueError(), False),
    ],
)
def test_which_errors_are_retried(
    retry_on: tuple[type[Exception], ...], no_retry_on: tuple[type[Exception], ...], error: Exception, expected: bool
) -> None:
    handler = Handler("q", plain, retry_on=retry_on, no_retry_on=no_retry_on)
    assert handler.may_retry(error) is expected


async def test_a_lane_runs_as_many_as_it_has_threads() -> None:
    gate, running = threading.Event(), list[str]()

    def function(task: Task) -> str:
        running.append(task.uuid)
        gate.wait(20)
        return task.uuid

    lane = ThreadLane(Handler("q", function), 2)
    ends: list[int] = []
    tasks = [Task(uuid=f"t{number}", queue="q", state=TaskState.RUNNING) for number in range(3)]
    runs = [asyncio.create_task(lane.run(task, lambda: ends.append(1))) for task in tasks]
    await until(lambda: len(running) == 2, "two run")
    gate.set()
    assert await asyncio.gather(*runs) == ["t0", "t1", "t2"]
    await until(lambda: len(ends) == 3, "each thread was free again")
    lane.close()
