"""One attempt at one task: how each end of a handler is told to the store, and what stops a handler."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import msgspec
import pytest

from broker import executor as executor_module
from broker.errors import (
    InvalidRequestError,
    LeaseLostError,
    StoreError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskError,
    TaskNotFoundError,
)
from broker.executor import Executor
from broker.handlers import Handler
from broker.lane import Lane
from broker.measures import WorkerMeasures
from broker.settings import Settings
from broker.store.claims import Claimed
from broker.task import DEFERRED, Task, TaskState
from tests.support.fake_transitions import Call, FakeTransitions, claimed, error_of
from tests.support.store import until

OUTAGE = StoreUnavailableError("away")


class Bench:
    """An executor on a fake store, and the slots that it gave back."""

    def __init__(self, **settings: Any) -> None:
        self.store = FakeTransitions()
        self.measures = WorkerMeasures()
        self.executor = Executor(self.store, Settings(**settings), self.measures)  # type: ignore[arg-type]
        self.freed = 0
        self.lanes: list[Lane] = []

    def start(self, function: Callable[..., Any], task: Claimed | None = None, *, timeout_s: float = 20) -> None:
        handler = Handler("q", function, timeout_s=timeout_s)
        lane = Lane(handler, 4, on_place=self._note_free)
        self.lanes.append(lane)
        lane.take()
        self.executor.start(task or claimed(), lane, asyncio.get_running_loop().time())

    async def run(self, function: Callable[..., Any], task: Claimed | None = None, *, timeout_s: float = 20) -> Call:
        """Runs one attempt to its end and gives the one thing that was reported."""
        self.start(function, task, timeout_s=timeout_s)
        await self.idle()
        (call,) = self.store.settled
        return call

    async def idle(self) -> None:
        async with asyncio.timeout(10):
            await self.executor.until_idle()

    def end_elsewhere(self, uuid: str) -> None:
        """Somebody ends the task, and the worker is told."""
        self.store.ended_by_others = TaskState.CANCELLED
        self.executor.check(uuid)

    def _note_free(self) -> None:
        self.freed += 1


async def _nothing_in_the_way() -> None: ...


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "SETTLE_RETRY_S", 0.01)
    monkeypatch.setattr(executor_module, "CLOSE_DEADLINE_S", 0.1)
    monkeypatch.setattr(executor_module, "LAST_WORD_S", 0.1)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end, so that no thread stays behind."""
    gate = threading.Event()
    yield gate
    gate.set()


# Ends of a handler


async def test_a_result(bench: Bench) -> None:
    async def handler(task: Task) -> Any:
        return {"seen": task.payload, "by": [task.uuid, task.queue, task.attempt, task.state]}

    call = await bench.run(handler, claimed(payload=b"[1.0]", attempt=2))
    assert (call.name, call.uuid, call.lease) == ("finish", "t", "1.x")
    assert call.value.state is TaskState.SUCCEEDED
    assert json.loads(call.value.result) == {"seen": [1.0], "by": ["t", "q", 2, "running"]}
    assert (bench.freed, bench.executor.running) == (1, 0)


async def test_a_task_that_is_logged_tells_no_lease(bench: Bench) -> None:
    async def handler(task: Task) -> str:
        return repr(task)

    call = await bench.run(handler, claimed(lease="7.secret"))
    assert b"<attempt 1 at t>" in call.value.result
    assert b"secret" not in call.value.result


@pytest.mark.parametrize("has_factory", [False, True])
async def test_an_attempt_is_an_asyncio_task_of_its_own(has_factory: bool) -> None:
    loop = asyncio.get_running_loop()
    made: list[asyncio.Task[Any]] = []

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(asyncio.Task(work, loop=loop, **options))
        return made[-1]

    seen = ContextVar("seen", default="nothing")
    ran: list[tuple[asyncio.Task[Any] | None, str]] = []

    async def handler(task: Task) -> None:
        ran.append((asyncio.current_task(), seen.get()))
        seen.set(task.uuid)

    loop.set_task_factory(factory if has_factory else None)
    try:
        bench = Bench()
        bench.start(handler, claimed("a", lease="1.a"))
        bench.start(handler, claimed("b", lease="2.b"))
        await bench.idle()
    finally:
        loop.set_task_factory(None)
    assert [(task and task.get_name(), value) for task, value in ran] == [("a", "nothing"), ("b", "nothing")]
    assert all((task in made) is has_factory for task, _ in ran)


async def test_no_result(bench: Bench) -> None:
    async def handler(_: Task) -> None:
        return None

    call = await bench.run(handler)
    assert (call.value.state, call.value.result, call.value.error) == (TaskState.SUCCEEDED, b"", b"")


async def test_deferred(bench: Bench) -> None:
    async def handler(_: Task) -> Any:
        return DEFERRED

    assert await bench.run(handler) == Call("defer", "t", "1.x")


async def test_deferred_with_a_deadline(bench: Bench) -> None:
    async def handler(_task: Task) -> object:
        return DEFERRED.within(1.5)

    assert await bench.run(handler) == Call("defer", "t", "1.x", 1_500)


@pytest.mark.parametrize("result", [{1, 2}, 2**64, "\ud800", object(), "x" * 300_000])
async def test_a_result_that_cannot_be_stored(bench: Bench, result: Any) -> None:
    async def handler(_: Task) -> Any:
        return result

    call = await bench.run(handler)
    assert call.name == "finish"
    error = error_of(call.value)
    assert error["code"] == "invalid-result"
    assert "cannot be stored" in error["message"]


async def test_a_result_that_is_nested_too_deep(bench: Bench) -> None:
    async def handler(_: Task) -> Any:
        result: list[Any] = []
        for _level in range(200):
            result = [result]
        return result

    assert error_of((await bench.run(handler)).value)["code"] == "invalid-result"


async def test_an_exception_is_retried_under_its_class_name(bench: Bench) -> None:
    async def handler(_: Task) -> None:
        raise KeyError("branch")

    call = await bench.run(handler)
    assert call.name == "retry"
    completion, delay_ms = call.value
    assert error_of(completion) == {"code": "KeyError", "message": "'branch'"}
    assert 500 <= delay_ms <= 1_000


async def test_an_exception_with_a_code_of_its_own(bench: Bench) -> None:
    class DiskFullError(Exception):
        code = "disk-full"

    async def handler(_: Task) -> None:
        raise DiskFullError("no space")

    assert error_of((await bench.run(handler)).value[0]) == {"code": "disk-full", "message": "no space"}


@pytest.mark.parametrize("code", [42, "", None])
async def test_a_code_that_is_no_word_is_none(bench: Bench, code: Any) -> None:
    class OddError(Exception):
        pass

    async def handler(_: Task) -> None:
        error = OddError("odd")
        error.code = code  # type: ignore[attr-defined]
        raise error

    assert error_of((await bench.run(handler)).value[0])["code"] == "OddError"


async def test_a_task_error_ends_the_task_at_once(bench: Bench) -> None:
    async def handler(_: Task) -> None:
        raise TaskError("no such branch", code="not-found", details={"tried": [1]})

    call = await bench.run(handler)
    assert call.name == "finish"
    assert error_of(call.value) == {"code": "not-found", "message": "no such branch", "details": {"tried": [1]}}


async def test_a_task_error_that_may_be_retried(bench: Bench) -> None:
    async def handler(_: Task) -> None:
        raise TaskError("busy", retry=True)

    call = await bench.run(handler)
    assert call.name == "retry"
    assert error_of(call.value[0]) == {"code": "failed", "message": "busy"}


@pytest.mark.parametrize("details", [object(), {1: object()}, 2**64, "\ud800", "x" * 300_000, ["[" * 10, {1, 2}]])
async def test_details_that_cannot_be_stored_are_left_out(bench: Bench, details: Any) -> None:
    async def handler(_: Task) -> None:
        raise TaskError("the message", code="code", details=details)

    assert error_of((await bench.run(handler)).value) == {"code": "code", "message": "the message"}


@pytest.mark.parametrize("message", ["\ud800", "x" * 100_000, "\x00" * 100_000, "é" * 100_000, "😀" * 20_000])
async def test_any_message_can_be_stored(bench: Bench, message: str) -> None:
    async def handler(_: Task) -> None:
        raise ValueError(message)

    error = error_of((await bench.run(handler)).value[0])
    assert error["code"] == "ValueError"
    assert len(error["message"]) <= 8_192


async def test_any_code_can_be_stored(bench: Bench) -> None:
    async def handler(_: Task) -> None:
        raise TaskError("message", code="\ud800" + "x" * 1_000)

    assert len(error_of((await bench.run(handler)).value)["code"]) <= 128


async def test_an_exception_that_cannot_even_be_written(bench: Bench) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def handler(_: Task) -> None:
        raise MuteError

    call = await bench.run(handler)
    assert error_of(call.value[0])["code"] == "MuteError"


class Panic(BaseException):
    """As extensions raise it, pyo3's for instance."""


class OddError(Exception):
    """Cannot be described."""

    @property
    def code(self) -> str:
        raise ValueError("no code")


class WorseError(OddError):
    """Cannot even be logged, and knows not whether another attempt would help."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise ValueError("no notes")

    @property
    def retry(self) -> bool:
        raise ValueError("no answer")


async def test_any_exception_is_its_tasks_error(bench: Bench) -> None:
    async def handler(_: Task) -> None:
        raise Panic("broken")

    call = await bench.run(handler)
    assert call.name == "finish"
    assert error_of(call.value) == {"code": "Panic", "message": "broken"}
    assert (bench.executor.running, bench.lanes[0].free) == (0, 4)


@pytest.mark.parametrize("kind", [OddError, WorseError])
async def test_an_exception_that_cannot_be_described(bench: Bench, kind: type[Exception]) -> None:
    async def handler(_: Task) -> None:
        raise kind

    call = await bench.run(handler)
    assert call.name == "retry"
    assert error_of(call.value[0]) == {"code": kind.__name__, "message": "The error cannot be described."}
    assert (bench.executor.running, bench.lanes[0].free) == (0, 4)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_goes_on_and_leaves_no_attempt(kind: type[BaseException]) -> None:
    benches: list[Bench] = []

    async def handler(_: Task) -> None:
        raise kind

    async def run() -> None:
        benches.append(Bench())
        await benches[0].run(handler)

    with pytest.raises(kind):
        asyncio.run(run())
    (bench,) = benches
    assert (bench.executor.running, bench.lanes[0].free, bench.store.settled) == (0, 4, [])


async def test_a_defect_of_the_executors_own_leaves_no_attempt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(_: Task) -> None: ...

    def defect(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(bench.store, "hand_finish", defect)
    bench.start(handler)
    await bench.idle()
    assert (bench.executor.running, bench.lanes[0].free) == (0, 4)


async def test_a_time_limit_that_is_over_before_the_first_step(bench: Bench) -> None:
    async def handler(_: Task) -> None: ...

    bench.start(handler, timeout_s=1e-9)
    bench.executor._stop_late()
    await bench.idle()
    (call,) = bench.store.settled
    assert (call.name, error_of(call.value[0])["code"]) == ("retry", "timeout")


async def test_a_time_limit(bench: Bench) -> None:
    seen: list[bool] = []

    async def handler(task: Task) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(task.cancelled)

    call = await bench.run(handler, timeout_s=0.01)
    assert call.name == "retry"
    assert error_of(call.value[0])["code"] == "timeout"
    assert "0.01 s" in error_of(call.value[0])["message"]
    assert seen == [True]


async def test_each_attempt_has_a_time_limit_of_its_own(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        if task.uuid != "quick":
            await asyncio.Event().wait()

    bench.start(handler, claimed("long", lease="1.x"), timeout_s=20)
    bench.start(handler, claimed("quick", lease="2.x"), timeout_s=0.01)
    bench.start(handler, claimed("late", lease="3.x"), timeout_s=0.02)
    bench.start(handler, claimed("later", lease="4.x"), timeout_s=0.04)
    await until(lambda: len(bench.store.settled) == 3, "all but the long one have ended")
    assert [call.uuid for call in bench.store.settled] == ["quick", "late", "later"]
    assert bench.executor.running == 1
    await bench.executor.close()


async def test_any_time_limit_can_be_waited_for(bench: Bench) -> None:
    async def handler(_: Task) -> None: ...

    assert (await bench.run(handler, timeout_s=1e300)).name == "finish"
    await bench.executor.close()


async def test_a_timeout_error_of_the_handlers_own(bench: Bench) -> None:
    async def handler(_: Task) -> None:
        raise TimeoutError("the remote is slow")

    error = error_of((await bench.run(handler)).value[0])
    assert error == {"code": "TimeoutError", "message": "the remote is slow"}


async def test_a_handler_that_cancels_itself(bench: Bench) -> None:
    async def handler(_: Task) -> None:
        raise asyncio.CancelledError

    assert error_of((await bench.run(handler)).value[0])["code"] == "cancelled"


async def test_a_handler_with_a_timeout_inside(bench: Bench) -> None:
    async def handler(_: Task) -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            return "its own affair"
        return "never"

    assert (await bench.run(handler)).value.result == b'"its own affair"'


async def test_the_delay_grows_with_the_attempts(bench: Bench) -> None:
    async def handler(_: Task) -> None:
        raise ValueError

    _, delay_ms = (await bench.run(handler, claimed(attempt=4))).value
    assert 4_000 <= delay_ms <= 8_000


async def test_a_very_late_attempt_is_still_retried(bench: Bench) -> None:
    async def handler(_: Task) -> None:
        raise ValueError

    _, delay_ms = (await bench.run(handler, claimed(attempt=5_000))).value
    assert 30_000 <= delay_ms <= 60_000


# Plain functions, in threads


async def test_a_plain_function(bench: Bench) -> None:
    def handler(task: Task) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return task.payload

    call = await bench.run(handler, claimed(payload=b"[1]"))
    assert call.value.result == b"[1]"
    await until(lambda: bench.freed == 1, "the slot is free")


@pytest.mark.parametrize("error", [ValueError, StopIteration, asyncio.CancelledError])
async def test_whatever_a_plain_function_raises_is_its_tasks_error(bench: Bench, error: type[BaseException]) -> None:
    def handler(_: Task) -> None:
        raise error

    call = await bench.run(handler)
    assert call.name == "retry"
    await until(lambda: bench.freed == 1, "the slot is free")


async def test_a_plain_function_that_never_began_keeps_no_slot(bench: Bench) -> None:
    def handler(_: Task) -> None: ...

    call = await bench.run(handler, msgspec.structs.replace(claimed(), payload=b"["))
    assert error_of(call.value[0])["code"] == "JSONDecodeError"
    assert bench.lanes[0].free == 4


async def test_a_plain_function_that_gets_no_thread_keeps_no_slot(bench: Bench) -> None:
    def handler(_: Task) -> None: ...

    bench.start(handler)
    threads = bench.lanes[0].threads
    assert threads is not None
    threads.close()
    await bench.idle()
    (call,) = bench.store.settled
    assert error_of(call.value[0])["code"] == "RuntimeError"
    assert bench.lanes[0].free == 4


async def test_a_plain_function_sees_that_it_is_cancelled(bench: Bench, gate: threading.Event) -> None:
    seen: list[bool] = []

    def handler(task: Task) -> None:
        while not task.cancelled and not gate.wait(0.001):
            pass
        seen.append(task.cancelled)

    bench.start(handler)
    await until(lambda: bench.executor.running == 1, "it runs")
    await asyncio.sleep(0)
    bench.end_elsewhere("t")
    await until(lambda: seen, "the function has returned")
    assert seen == [True]
    await until(lambda: bench.freed == 1, "the slot is free")
    assert bench.store.settled == []


async def test_the_slot_of_a_function_that_goes_on_is_not_free(bench: Bench, gate: threading.Event) -> None:
    def handler(_: Task) -> None:
        gate.wait(20)

    call = await bench.run(handler, timeout_s=0.02)
    assert error_of(call.value[0])["code"] == "timeout"
    assert (bench.executor.running, bench.freed) == (0, 0)
    gate.set()
    await until(lambda: bench.freed == 1, "the thread is free")


async def test_a_callable_object_may_be_async(bench: Bench) -> None:
    class AsyncObject:
        async def __call__(self, task: Task) -> str:
            return task.uuid

    assert (await bench.run(AsyncObject())).value.result == b'"t"'


# Stopped from outside


def waiting_handler(started: asyncio.Event, seen: list[str]) -> Callable[[Task], Any]:
    async def handler(_: Task) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    return handler


def stubborn_handler(started: asyncio.Event, go_on: asyncio.Event) -> Callable[[Task], Any]:
    """Takes no notice of being cancelled, and fails in the end."""

    async def handler(_: Task) -> None:
        started.set()
        while not go_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go_on.wait()
        raise ValueError("at last")

    return handler


async def test_a_task_that_somebody_ended_is_stopped_and_not_reported(bench: Bench) -> None:
    started, seen = asyncio.Event(), list[str]()
    bench.start(waiting_handler(started, seen))
    await started.wait()
    bench.end_elsewhere("t")
    bench.end_elsewhere("t")
    bench.end_elsewhere("unknown")
    await bench.idle()
    assert (seen, bench.store.settled, bench.freed) == (["cancelled"], [], 1)


async def test_who_says_that_a_task_was_ended_is_not_believed(bench: Bench) -> None:
    started, seen = asyncio.Event(), list[str]()
    bench.start(waiting_handler(started, seen))
    await started.wait()
    bench.executor.check("t")
    await until(lambda: bench.store.calls, "the store was asked")
    assert seen == []
    await bench.executor.close()


async def test_an_outage_at_that_check_stops_nothing(bench: Bench) -> None:
    started, seen = asyncio.Event(), list[str]()
    bench.start(waiting_handler(started, seen))
    await started.wait()
    bench.store.hinder("extend", OUTAGE)
    bench.executor.check("t")
    bench.executor.check("t")
    await until(lambda: bench.store.calls, "the store was asked twice")
    assert seen == []
    await bench.executor.close()


async def test_closing_gives_back_what_runs(bench: Bench) -> None:
    started, seen = asyncio.Event(), list[str]()
    bench.start(waiting_handler(started, seen))
    await started.wait()
    await bench.executor.close()
    assert seen == ["cancelled"]
    assert bench.store.settled == [Call("give_back", "t", "1.x")]


async def test_a_task_that_is_stopped_before_its_first_step_is_given_back(bench: Bench) -> None:
    bench.start(waiting_handler(asyncio.Event(), []))
    async with asyncio.timeout(2):
        await bench.executor.close()
    assert [call.name for call in bench.store.settled] == ["give_back"]
    assert (bench.executor.running, bench.freed) == (0, 1)


async def test_a_handler_that_finishes_despite_the_stop_has_its_result_stored(bench: Bench) -> None:
    started = asyncio.Event()

    async def handler(_: Task) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "just in time"
        return "never"

    bench.start(handler)
    await started.wait()
    await bench.executor.close()
    (call,) = bench.store.settled
    assert (call.name, call.value.result) == ("finish", b'"just in time"')


async def test_an_end_that_is_being_stored_is_not_interrupted(bench: Bench) -> None:
    """The outcome exists nowhere else."""
    storing, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        storing.set()
        await go_on.wait()

    async def handler(_: Task) -> str:
        return "precious"

    bench.store.hinder("finish", slow)
    bench.start(handler)
    await storing.wait()
    closing = asyncio.create_task(bench.executor.close())
    await asyncio.sleep(0)
    bench.end_elsewhere("t")
    go_on.set()
    await closing
    (call,) = bench.store.settled
    assert call.value.result == b'"precious"'


async def test_it_is_here_until_its_end_is_stored(bench: Bench) -> None:
    storing, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        storing.set()
        await go_on.wait()

    async def handler(_: Task) -> None: ...

    bench.store.hinder("finish", slow)
    bench.start(handler)
    idle = asyncio.create_task(bench.idle())
    await storing.wait()
    assert (bench.executor.running, bench.freed, idle.done()) == (1, 0, False)
    go_on.set()
    await idle
    assert (bench.executor.running, bench.freed) == (0, 1)


@pytest.mark.usefixtures("quick")
async def test_an_answer_that_comes_after_the_worker_gave_up_changes_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    storing, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        storing.set()
        await go_on.wait()

    async def handler(_: Task) -> None: ...

    bench.store.hinder("finish", slow)
    bench.start(handler)
    await storing.wait()
    await bench.executor.close()
    assert "left to the sweep" in caplog.text
    go_on.set()
    await until(lambda: bench.store.settled, "it is answered")
    assert (bench.executor.running, bench.freed) == (0, 1)


async def test_an_answer_out_of_the_ordinary_is_looked_at_again(bench: Bench) -> None:
    """A completion may be repeated, so the second answer says what the first did."""

    async def handler(_: Task) -> None: ...

    bench.store.unusual_answers = 1
    bench.store.hinder("finish", _nothing_in_the_way, LeaseLostError("replaced"))
    bench.start(handler)
    await bench.idle()
    assert ([call.name for call in bench.store.settled], bench.freed) == (["finish"], 1)
    assert bench.measures.leases_lost == 1


async def test_the_same_task_claimed_again_is_not_forgotten_with_its_first_attempt(bench: Bench) -> None:
    """After a stall longer than a lease the bell may be faster than the news that the lease is lost."""
    first_may_end, second_may_end = asyncio.Event(), asyncio.Event()

    async def first(_: Task) -> None:
        await first_may_end.wait()

    async def second(_: Task) -> None:
        await second_may_end.wait()

    bench.store.hinder("finish", LeaseLostError("replaced"))
    bench.start(first, claimed(lease="1.x"))
    bench.start(second, claimed(lease="2.x", attempt=2))
    first_may_end.set()
    await until(lambda: bench.freed == 1, "the first attempt has ended")
    assert bench.executor.running == 1
    second_may_end.set()
    await bench.idle()
    assert [call.lease for call in bench.store.settled] == ["2.x"]


# A store that is away, or that knows better


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["finish", "retry", "defer"])
async def test_an_outage_is_waited_out(bench: Bench, name: str) -> None:
    async def handler(_: Task) -> Any:
        if name == "retry":
            raise ValueError
        return DEFERRED if name == "defer" else 1

    bench.store.hinder(name, OUTAGE, OUTAGE, OUTAGE)
    assert (await bench.run(handler)).name == name


@pytest.mark.usefixtures("quick")
async def test_an_outage_does_not_hold_up_the_end_of_the_worker(bench: Bench) -> None:
    async def handler(_: Task) -> int:
        return 1

    bench.store.hinder("finish", *[OUTAGE] * 1_000)
    bench.start(handler)
    await until(lambda: len(bench.store.hindrances["finish"]) < 1_000, "the store was asked")
    async with asyncio.timeout(5):
        await bench.executor.close()
    assert (bench.executor.running, bench.freed) == (0, 1)


@pytest.mark.usefixtures("quick")
async def test_a_handler_that_takes_no_notice_does_not_hold_up_the_end_of_the_worker(bench: Bench) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    bench.start(stubborn_handler(started, go_on))
    await started.wait()
    async with asyncio.timeout(5):
        await bench.executor.close()
    assert (bench.executor.running, bench.freed) == (0, 1)
    assert "not-stored" in {outcome for _, outcome in bench.measures.executions}
    go_on.set()


@pytest.mark.usefixtures("quick")
async def test_a_handler_that_heeds_the_last_word_gives_its_task_back(bench: Bench) -> None:
    started = asyncio.Event()

    async def handler(_: Task) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    bench.start(handler)
    await started.wait()
    await bench.executor.close()
    assert [call.name for call in bench.store.settled] == ["give_back"]


@pytest.mark.usefixtures("quick")
async def test_an_end_that_comes_after_the_worker_gave_up_is_not_tried_for_ever(bench: Bench) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    bench.store.hinder("retry", *[OUTAGE] * 1_000)
    bench.start(stubborn_handler(started, go_on))
    await started.wait()
    running = asyncio.all_tasks() - {asyncio.current_task()}
    await bench.executor.close()
    go_on.set()
    async with asyncio.timeout(5):
        await asyncio.wait(running)
    assert len(bench.store.hindrances["retry"]) == 999


@pytest.mark.parametrize(
    "gone",
    [LeaseLostError("lost"), TaskNotFoundError("t"), TaskAlreadyFinalError("t", TaskState.CANCELLED, b"{}")],
    ids=lambda error: type(error).__name__,
)
async def test_an_end_that_comes_too_late_is_no_error(bench: Bench, gone: Exception) -> None:
    async def handler(_: Task) -> int:
        return 1

    bench.store.hinder("finish", gone)
    bench.start(handler)
    await bench.idle()
    assert (bench.store.settled, bench.freed) == ([], 1)


async def test_a_store_that_refuses_for_good_is_left_to_the_sweep(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_: Task) -> int:
        return 1

    bench.store.hinder("finish", StoreError("a defect"))
    with caplog.at_level(logging.ERROR):
        bench.start(handler)
        await bench.idle()
    assert "could not be stored" in caplog.text
    assert bench.freed == 1


# Renewals and progress


async def renewing(bench: Bench) -> asyncio.Task[None]:
    return asyncio.create_task(bench.executor.renew_forever())


async def stopped(renewal: asyncio.Task[None]) -> None:
    renewal.cancel()
    await asyncio.wait({renewal})


async def test_leases_are_renewed_several_times_before_they_end() -> None:
    bench = Bench(lease_s=0.1)
    started = asyncio.Event()
    bench.start(waiting_handler(started, []))
    renewal = await renewing(bench)
    await until(lambda: len(bench.store.calls) >= 3, "renewed three times")
    assert {call.lease for call in bench.store.calls} == {"1.x"}
    await stopped(renewal)
    await bench.executor.close()


async def test_an_outage_of_the_renewals_stops_nothing() -> None:
    bench = Bench(lease_s=0.1)
    started, seen = asyncio.Event(), list[str]()
    bench.store.hinder("extend", OUTAGE, StoreError("odd"))
    bench.start(waiting_handler(started, seen))
    renewal = await renewing(bench)
    await until(lambda: bench.store.calls, "renewed all the same")
    assert seen == []
    await stopped(renewal)
    await bench.executor.close()


@pytest.mark.parametrize("error", [LeaseLostError("lost"), TaskNotFoundError("t")])
async def test_a_lost_lease_stops_the_handler(error: Exception) -> None:
    bench = Bench(lease_s=0.1)
    started, seen = asyncio.Event(), list[str]()
    bench.store.hinder("extend", error)
    bench.start(waiting_handler(started, seen))
    renewal = await renewing(bench)
    await bench.idle()
    assert (seen, bench.store.settled) == (["cancelled"], [])
    await stopped(renewal)


async def test_a_renewal_that_hears_of_the_end_stops_the_handler() -> None:
    bench = Bench(lease_s=0.1)
    started, seen = asyncio.Event(), list[str]()
    bench.store.ended_by_others = TaskState.CANCELLED
    bench.start(waiting_handler(started, seen))
    renewal = await renewing(bench)
    await bench.idle()
    assert (seen, bench.store.settled) == (["cancelled"], [])
    await stopped(renewal)


async def test_progress(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        await task.progress({"percent": 50})

    await bench.run(handler)
    assert bench.store.calls[0] == Call("extend", "t", "1.x", b'{"percent":50}')


@pytest.mark.parametrize("value", [object(), 2**64, "\ud800"])
async def test_progress_that_cannot_be_stored_is_the_handlers_to_mend(bench: Bench, value: Any) -> None:
    async def handler(task: Task) -> str:
        with pytest.raises(InvalidRequestError):
            await task.progress(value)
        return "mended"

    assert (await bench.run(handler)).value.result == b'"mended"'


async def test_progress_of_a_task_that_is_no_longer_ones_own(bench: Bench) -> None:
    seen: list[type[BaseException]] = []

    async def handler(task: Task) -> None:
        try:
            await task.progress(1)
        except LeaseLostError as error:
            seen.append(type(error))
            raise

    bench.store.ended_by_others = TaskState.CANCELLED
    bench.start(handler)
    await bench.idle()
    assert bench.store.settled == []
    assert seen in ([], [LeaseLostError])


async def test_a_handler_cannot_wait_for_itself(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        await task.wait(1)

    assert error_of((await bench.run(handler)).value[0])["code"] == "RuntimeError"
