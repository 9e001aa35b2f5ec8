"""Claimed → run → settled: one attempt at one task, as steps over one value."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import traceback
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, Final

import msgspec
import orjson

from broker import values
from broker.background import Background
from broker.deadlines import Deadlines
from broker.errors import (
    BrokerError,
    InvalidRequestError,
    LeaseLostError,
    PayloadTooLargeError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskError,
    TaskNotFoundError,
)
from broker.handlers import Handler, ThreadLane
from broker.measures import WorkerMeasures
from broker.requests import Completion, milliseconds
from broker.settings import Settings
from broker.store.transitions import Claimed, Transitions
from broker.task import Deferred, Task, TaskFailure, TaskState

log = logging.getLogger("broker.executor")

RENEWALS_PER_LEASE: Final = 3
SETTLE_RETRY_S: Final = 0.5
CLOSE_DEADLINE_S: Final = 5.0
"""How long a worker that ends tries to give its tasks back: one command's deadline and a little."""
ERROR_CODE_MAX_CHARS: Final = 128
ERROR_MESSAGE_MAX_CHARS: Final = 8_192
ERROR_MAX_BYTES: Final = 65_536
"""With details; longer ones are left out."""

_GONE: Final = (TaskAlreadyFinalError, LeaseLostError, TaskNotFoundError)


class Stop(Enum):
    """Why an attempt was stopped from outside."""

    ENDED = auto()  # somebody else ended the task, or has its lease now
    TIMEOUT = auto()  # the handler took longer than it may
    DRAIN = auto()  # this worker goes; the task is given back


class Failure(msgspec.Struct, frozen=True):
    """An attempt that did not work out."""

    error: bytes
    may_retry: bool


End = Completion | Deferred | Failure | Stop
"""What became of an attempt here."""


class Attempt:
    """One claimed task while it is here. It is what the handler's `Task` is bound to."""

    def __init__(
        self, claimed: Claimed, handler: Handler, transitions: Transitions, *, lease_ms: int, max_bytes: int
    ) -> None:
        self.claimed = claimed
        self.handler = handler
        self.stop: Stop | None = None
        self.is_running = False
        self.is_settling = False
        self.lease_was_lost = False
        self.runner: asyncio.Task[None] | None = None
        self._transitions = transitions
        self._lease_ms = lease_ms
        self._max_bytes = max_bytes

    def halt(self, reason: Stop) -> None:
        """Stops the handler: an `async def` is cancelled, a plain `def` sees `task.cancelled`."""
        if self.stop is None and not self.is_settling:
            self.stop = reason
            # A runner that has not begun sees the reason when it does.
            if self.is_running and self.runner is not None:
                self.runner.cancel()

    def expire(self) -> None:
        """The handler has taken longer than it may."""
        self.halt(Stop.TIMEOUT)

    async def renew(self, progress: bytes = values.ABSENT) -> None:
        """Extends the lease, or stops the handler when the task is no longer its own."""
        try:
            state = await self._transitions.extend(self.claimed.uuid, self.claimed.lease, self._lease_ms, progress)
        except (LeaseLostError, TaskNotFoundError) as gone:
            self.note(gone)
            self.halt(Stop.ENDED)
            raise
        if isinstance(state, TaskState):
            self.halt(Stop.ENDED)
            raise LeaseLostError(f"Task {self.claimed.uuid} has been ended ({state}) by somebody else.")

    def note(self, gone: BrokerError) -> None:
        """The task is no longer its own, for this reason."""
        self.lease_was_lost = self.lease_was_lost or isinstance(gone, LeaseLostError)

    # TaskActions

    async def wait(self, task: Task, timeout: float) -> Task:
        """A handler that waited for its own task would wait for itself."""
        raise RuntimeError(f"Task {task.uuid} runs here and cannot wait for its own end.")

    async def report_progress(self, task: Task, value: Any) -> None:
        """See `Task.progress`."""
        await self.renew(values.dump(value, "progress", max_bytes=self._max_bytes))

    def is_cancelled(self, task: Task) -> bool:
        """Whether the handler should stop: the task was ended, or this worker goes."""
        return self.stop is not None


class Executor:
    """Runs attempts and reports their ends.

    Args:
        transitions: The scripts.
        settings: Lease and size limits.
        measures: Where executions are counted.
    """

    def __init__(self, transitions: Transitions, settings: Settings, measures: WorkerMeasures | None = None) -> None:
        self._transitions = transitions
        self._measures = measures or WorkerMeasures()
        self._lease_ms = milliseconds(settings.lease_s)
        self._max_bytes = settings.max_body_bytes
        # By lease: after a stall, a task may be claimed again here before its first attempt is known to be lost.
        self._attempts: dict[str, Attempt] = {}
        self._background = Background()
        self._deadlines = Deadlines(asyncio.get_running_loop())

    @property
    def running(self) -> int:
        """Attempts that are here now."""
        return len(self._attempts)

    def start(self, claimed: Claimed, handler: Handler, threads: ThreadLane | None, on_end: Callable[[], None]) -> None:
        """Starts an attempt; `on_end` is called once its slot is free again."""
        attempt = Attempt(claimed, handler, self._transitions, lease_ms=self._lease_ms, max_bytes=self._max_bytes)
        self._attempts[claimed.lease] = attempt
        # Of the loop that is known: asking Python 3.11 for the running one is a system call.
        attempt.runner = self._deadlines.loop.create_task(
            self._run(attempt, threads, on_end), name=f"task {claimed.uuid}"
        )

    def check(self, uuid: str) -> None:
        """Somebody says that the task was ended elsewhere: if the store says so too, its handler is told."""
        for attempt in self._attempts.values():
            if attempt.claimed.uuid == uuid:
                self._background.spawn(_renew(attempt), f"check of task {uuid}")

    async def close(self) -> None:
        """Stops what still runs and gives it back, its attempt not counted.

        Ends that cannot be stored by then are left to the sweep: their leases run out.
        """
        for attempt in list(self._attempts.values()):
            attempt.halt(Stop.DRAIN)
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self.until_idle()
        except TimeoutError:
            for attempt in list(self._attempts.values()):
                if attempt.runner is not None:
                    attempt.runner.cancel()
            await self.until_idle()
        finally:
            self._deadlines.close()
            await self._background.cancel()

    async def until_idle(self) -> None:
        """Returns when no attempt is left."""
        while self._attempts:
            runners = [attempt.runner for attempt in self._attempts.values() if attempt.runner is not None]
            await asyncio.wait(runners)

    async def renew_forever(self) -> None:
        """Extends the leases of everything that runs here, several times a lease."""
        while True:
            await asyncio.sleep(self._lease_ms / 1_000 / RENEWALS_PER_LEASE)
            await asyncio.gather(*[_renew(attempt) for attempt in self._attempts.values()])

    async def _run(self, attempt: Attempt, threads: ThreadLane | None, on_end: Callable[[], None]) -> None:
        started, seconds, outcome = self._deadlines.loop.time(), 0.0, "not-stored"
        try:
            end = attempt.stop or await self._execute(attempt, threads, on_end)
            seconds = self._deadlines.loop.time() - started
            outcome = await self._settle(attempt, end)
        except asyncio.CancelledError:
            log.warning("Task %s is left to the sweep: its end could not be stored in time.", attempt.claimed.uuid)
        except BrokerError as error:
            # The lease will run out and the sweep will take over.
            log.error("The end of task %s could not be stored: %s", attempt.claimed.uuid, error)  # noqa: TRY400
        finally:
            self._measures.executions[attempt.claimed.queue, outcome].observe(seconds)
            self._measures.leases_lost += attempt.lease_was_lost
            self._attempts.pop(attempt.claimed.lease, None)
            if threads is None or not attempt.is_running:
                on_end()

    # Run

    async def _execute(self, attempt: Attempt, threads: ThreadLane | None, on_end: Callable[[], None]) -> End:
        """Runs the handler."""
        tick = self._deadlines.start(attempt, attempt.handler.timeout_s)
        attempt.is_running = True
        try:
            result = await _call(attempt.handler, _task(attempt), threads, on_end)
        except asyncio.CancelledError:
            return _end_of_cancelled(attempt)
        except TaskError as error:
            return _failure_of(error, attempt.handler)
        except Exception as error:  # whatever a handler raises is its task's error
            _log_failure(attempt, error)
            return _failure_of(error, attempt.handler)
        finally:
            self._deadlines.stop(attempt, tick)
        return result if isinstance(result, Deferred) else self._success(result)

    def _success(self, result: Any) -> Completion | Failure:
        try:
            text = values.ABSENT if result is None else values.dump(result, "result", max_bytes=self._max_bytes)
            return Completion(state=TaskState.SUCCEEDED, result=text)
        except (InvalidRequestError, PayloadTooLargeError) as error:
            return _failure("invalid-result", f"The handler's result cannot be stored: {error}", may_retry=False)

    # Settle

    async def _settle(self, attempt: Attempt, end: End) -> str:
        """Stores the end of an attempt; an outage is waited out, since the outcome exists nowhere else.

        Returns:
            What became of it, as `WorkerMeasures.executions` has it.
        """
        attempt.is_settling = True
        steps = self._settling(attempt, end)
        while True:
            try:
                stored = await steps()
            except StoreUnavailableError as error:
                self._measures.settle_retries += 1
                log.warning("Task %s waits to store its end: %s", attempt.claimed.uuid, error)
                await asyncio.sleep(SETTLE_RETRY_S * random.uniform(0.5, 1.0))  # noqa: S311
            except _GONE as gone:
                attempt.note(gone)
                log.info("The end of task %s came too late: %s", attempt.claimed.uuid, gone)
                return "too-late"
            else:
                return _outcome_of(end, stored)

    def _settling(self, attempt: Attempt, end: End) -> Callable[[], Awaitable[object]]:
        uuid, lease = attempt.claimed.uuid, attempt.claimed.lease
        if isinstance(end, Deferred):
            expires_ms = None if end.expires_in_s is None else max(1, milliseconds(end.expires_in_s))
            return lambda: self._transitions.defer(uuid, lease, expires_ms=expires_ms)
        if isinstance(end, Completion):
            return lambda: self._transitions.finish(uuid, end, lease=lease)
        if isinstance(end, Failure):
            return self._failing(attempt, end)
        if end is Stop.DRAIN:
            return lambda: self._transitions.give_back(uuid, lease)
        return _nothing

    def _failing(self, attempt: Attempt, failure: Failure) -> Callable[[], Awaitable[object]]:
        uuid, lease = attempt.claimed.uuid, attempt.claimed.lease
        failed = Completion(state=TaskState.FAILED, error=failure.error)
        if not failure.may_retry:
            return lambda: self._transitions.finish(uuid, failed, lease=lease)
        delay_ms = milliseconds(attempt.handler.retry_delay_s(attempt.claimed.attempt))
        return lambda: self._transitions.retry(uuid, lease, failed, delay_ms)


def _outcome_of(end: End, stored: object) -> str:
    """What an end that was stored is counted as. Only a retry says by True that another attempt follows."""
    if isinstance(end, Deferred):
        return "deferred"
    if isinstance(end, Completion):
        return "succeeded"
    if isinstance(end, Failure):
        return "retried" if stored is True else "failed"
    return "given-back" if end is Stop.DRAIN else "ended-elsewhere"


def _end_of_cancelled(attempt: Attempt) -> Failure | Stop:
    if attempt.stop is Stop.TIMEOUT:
        limit = attempt.handler.timeout_s
        may_retry = attempt.handler.may_retry(TimeoutError())
        return _failure("timeout", f"The handler took longer than {limit:g} s.", may_retry=may_retry)
    if attempt.stop is not None:
        return attempt.stop
    return _failure("cancelled", "The handler cancelled itself.", may_retry=True)


async def _renew(attempt: Attempt) -> None:
    # A lost lease has stopped the attempt already; an outage may be over at the next round.
    with contextlib.suppress(BrokerError):
        await attempt.renew()


async def _nothing() -> None:
    """The task is somebody else's: there is nothing to store."""


async def _call(handler: Handler, task: Task, threads: ThreadLane | None, on_end: Callable[[], None]) -> Any:
    if threads is not None:
        return await threads.run(task, on_end)
    return await handler.function(task)


def _task(attempt: Attempt) -> Task:
    claimed = attempt.claimed
    return Task(
        uuid=claimed.uuid,
        queue=claimed.queue,
        state=TaskState.RUNNING,
        attempt=claimed.attempt,
        payload=None if claimed.payload is None else orjson.loads(claimed.payload),
        actions=attempt,
    )


def _failure_of(error: Exception, handler: Handler) -> Failure:
    code = getattr(error, "code", None)
    return _failure(
        code if isinstance(code, str) and code else type(error).__name__,
        _text_of(error),
        details=getattr(error, "details", None),
        may_retry=handler.may_retry(error),
    )


def _failure(code: str, message: str, *, may_retry: bool, details: Any = None) -> Failure:
    failure = TaskFailure(code[:ERROR_CODE_MAX_CHARS], message[:ERROR_MESSAGE_MAX_CHARS], details)
    try:
        text = values.dump(_members(failure), "error", max_bytes=ERROR_MAX_BYTES)
    except (InvalidRequestError, PayloadTooLargeError):
        # Better an error without its details than none.
        plain = TaskFailure(_printable(failure.code), _printable(failure.message))
        text = values.dump(_members(plain), "error", max_bytes=ERROR_MAX_BYTES)
    return Failure(text, may_retry)


def _log_failure(attempt: Attempt, error: Exception) -> None:
    """The task keeps the error's class and text; the way to it is only told here."""
    trace = _printable("".join(traceback.format_exception(error)))
    log.warning(
        "The handler of task %s failed in attempt %d:\n%s", attempt.claimed.uuid, attempt.claimed.attempt, trace
    )


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return "The error has no text."


def _members(failure: TaskFailure) -> dict[str, Any]:
    members: dict[str, Any] = {"code": failure.code, "message": failure.message}
    if failure.details is not None:
        members["details"] = failure.details
    return members


def _printable(message: str | None) -> str:
    """Without the lone surrogates that a file name in a message may bring."""
    return (message or "").encode("utf-8", "replace").decode()
