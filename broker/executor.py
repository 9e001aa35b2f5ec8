"""Claimed → run → settled: one attempt at one task, as steps over one value.

The asyncio task of an attempt that succeeds runs the handler, hands the end to the connection and is over: the answer
ends the attempt where it comes in, and wakes nobody. All other ends are awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable
from enum import Enum, auto
from typing import Any, ClassVar, Final

import msgspec
import orjson

from broker import values
from broker.alarm import Alarm
from broker.background import Background
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
from broker.failures import Failure, failure, failure_of, trace_of
from broker.lane import Lane
from broker.measures import WorkerMeasures
from broker.requests import Completion, milliseconds
from broker.settings import Settings
from broker.store.claims import Claimed
from broker.store.commands import Reply
from broker.store.completions import is_changed
from broker.store.transitions import Transitions
from broker.task import Deferred, Task, TaskState

log = logging.getLogger("broker.executor")

RENEWALS_PER_LEASE: Final = 3
SETTLE_RETRY_S: Final = 0.5
CLOSE_DEADLINE_S: Final = 5.0
"""How long a worker that ends tries to give its tasks back: one command's deadline and a little."""
LAST_WORD_S: Final = 1.0
"""How long it waits for handlers that it has told once more after that."""
LONGEST_LOOK_S: Final = 86_400.0
"""Timers of event loops are bounded; time limits are not."""

_GONE: Final = (TaskAlreadyFinalError, LeaseLostError, TaskNotFoundError)
_NOT_THE_TASKS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""They end the process, or the coroutine that they are thrown into."""
_NEVER: Final = float("inf")
# A member of an enum is a Python call to look up, before Python 3.12.
_RUNNING: Final = TaskState.RUNNING
_SUCCEEDED: Final = TaskState.SUCCEEDED
_DONE: Final = Completion(state=_SUCCEEDED)
"""The end of a handler that gave nothing."""


class Stop(Enum):
    """Why an attempt was stopped from outside."""

    ENDED = auto()  # somebody else ended the task, or has its lease now
    TIMEOUT = auto()  # the handler took longer than it may
    DRAIN = auto()  # this worker goes; the task is given back


End = Completion | Deferred | Failure | Stop
"""What became of an attempt here."""


class Attempt(msgspec.Struct, eq=False):
    """One claimed task while it is here. The handler's `Task` is bound to it, and it takes the answer to its end."""

    is_abandoned: ClassVar[bool] = False
    """Its end is stored whatever happens here meanwhile."""

    claimed: Claimed
    lane: Lane
    executor: Executor
    started: float
    ends_at: float
    runner: asyncio.Task[None] = None  # type: ignore[assignment]  # there is one before anybody else knows of it
    stop: Stop | None = None
    end: End | None = None
    seconds: float = 0.0
    is_running: bool = False
    lease_was_lost: bool = False

    def __repr__(self) -> str:
        # Handlers log their tasks: a lease is nobody's to read, and all else here says nothing to them.
        return f"<attempt {self.claimed.attempt} at {self.claimed.uuid}>"

    def halt(self, reason: Stop) -> None:
        """Stops the handler: an `async def` is cancelled, a plain `def` sees `task.cancelled`."""
        if self.stop is None and self.end is None:
            self.stop = reason
            # A runner that has not begun sees the reason when it does.
            if self.is_running:
                self.runner.cancel()

    async def renew(self, progress: bytes = values.ABSENT) -> None:
        """Extends the lease, or stops the handler when the task is no longer its own."""
        try:
            state = await self.executor.extend(self.claimed, progress)
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

    # Receiver of the answer to a completion

    def succeed(self, reply: Reply) -> None:
        """The store has answered."""
        if is_changed(reply):
            self.executor.leave(self, "succeeded")
        else:
            # Asked again, it says so to the one way on which all that is unusual is told.
            self.executor.settle_on(self)

    def fail(self, error: Exception) -> None:
        """The store cannot be asked, or refuses."""
        self.executor.settle_on(self, error)

    # TaskActions

    async def wait(self, task: Task, timeout: float) -> Task:
        """A handler that waited for its own task would wait for itself."""
        raise RuntimeError(f"Task {task.uuid} runs here and cannot wait for its own end.")

    async def report_progress(self, task: Task, value: Any) -> None:
        """See `Task.progress`."""
        await self.renew(self.executor.dump(value, "progress"))

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
        # Of the loop that is known: asking Python 3.11 for the running one is a system call.
        self._loop = asyncio.get_running_loop()
        self._has_task_factory = self._loop.get_task_factory() is not None
        # By lease: after a stall, a task may be claimed again here before its first attempt is known to be lost.
        self._attempts: dict[str, Attempt] = {}
        self._on_idle: list[asyncio.Future[None]] = []
        self._background = Background()
        self._next_look = _NEVER
        self._looking = Alarm(self._stop_late)

    @property
    def running(self) -> int:
        """Attempts that are here now."""
        return len(self._attempts)

    def start(self, claimed: Claimed, lane: Lane, now: float) -> None:
        """Starts an attempt, which frees its slot of the lane at its end; if this raises, there is no attempt.

        Args:
            claimed: The task.
            lane: Its handler's.
            now: The loop's time.
        """
        ends_at = now + lane.handler.timeout_s
        if ends_at < self._next_look:
            self._look_at(ends_at)
        attempt = Attempt(claimed, lane, self, now, ends_at)
        if self._has_task_factory:
            attempt.runner = self._loop.create_task(self._run(attempt), name=claimed.uuid)
        else:
            # The same, but for a default name that uvloop has made for each task before it gives it its own.
            attempt.runner = asyncio.Task(self._run(attempt), loop=self._loop, name=claimed.uuid)
        self._attempts[claimed.lease] = attempt

    def leave(self, attempt: Attempt, outcome: str) -> None:
        """Counts an attempt that is over, and frees its slot."""
        if self._attempts.pop(attempt.claimed.lease, None) is None:
            # Left to the sweep already: the worker ends.
            return
        self._measures.executions[attempt.claimed.queue, outcome].observe(attempt.seconds)
        if attempt.lease_was_lost:
            self._measures.leases_lost += 1
        if attempt.lane.threads is None or not attempt.is_running:
            # A thread keeps its slot until its function returns.
            attempt.lane.release()
        if self._on_idle and not self._attempts:
            self._tell_idle()

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
            await self._give_up()
        finally:
            self._looking.cancel()
            await self._background.cancel()

    async def until_idle(self) -> None:
        """Returns when no attempt is left."""
        while self._attempts:
            idle = self._loop.create_future()
            self._on_idle.append(idle)
            await idle

    def _tell_idle(self) -> None:
        waiting, self._on_idle = self._on_idle, []
        for idle in waiting:
            if not idle.done():
                idle.set_result(None)

    async def renew_forever(self) -> None:
        """Extends the leases of everything that runs here, several times a lease."""
        while True:
            await asyncio.sleep(self._lease_ms / 1_000 / RENEWALS_PER_LEASE)
            await asyncio.gather(*[_renew(attempt) for attempt in self._attempts.values()])

    async def extend(self, claimed: Claimed, progress: bytes) -> TaskState | int:
        """See `Transitions.extend`."""
        return await self._transitions.extend(claimed.uuid, claimed.lease, self._lease_ms, progress)

    def dump(self, value: Any, what: str) -> bytes:
        """A handler's value as JSON; see `values.dump`."""
        return values.dump(value, what, max_bytes=self._max_bytes)

    # Time limits: one timer for all attempts, so one that ends in time has cost a comparison.

    def _look_at(self, time: float) -> None:
        self._next_look = time
        self._looking.set(min(time - self._loop.time(), LONGEST_LOOK_S))

    def _stop_late(self) -> None:
        now, self._next_look = self._loop.time(), _NEVER
        for attempt in self._attempts.values():
            if attempt.ends_at <= now:
                attempt.halt(Stop.TIMEOUT)
        next_look = min((a.ends_at for a in self._attempts.values() if a.ends_at > now), default=_NEVER)
        if next_look < _NEVER:
            self._look_at(next_look)

    # Run

    async def _run(self, attempt: Attempt) -> None:
        """What the asyncio task of an attempt does; not in steps of their own, since each costs every task."""
        try:
            try:
                if attempt.stop is None:
                    claimed = attempt.claimed
                    task = Task(
                        uuid=claimed.uuid,
                        queue=claimed.queue,
                        state=_RUNNING,
                        attempt=claimed.attempt,
                        payload=None if claimed.payload is None else orjson.loads(claimed.payload),
                        actions=attempt,
                    )
                    # From here on, a thread keeps the slot.
                    attempt.is_running = True
                    result = await attempt.lane.call(task)
                    end = _DONE if result is None else self._end_of(result)
                else:
                    end = _end_of_stopped(attempt)
            except asyncio.CancelledError:
                end = _end_of_stopped(attempt)
            except _NOT_THE_TASKS:
                raise
            except BaseException as error:  # whatever else a handler raises is its task's error
                end = _end_of_failed(attempt, error)
            attempt.end = end
            attempt.seconds = self._loop.time() - attempt.started
            if type(end) is Completion:
                self._transitions.hand_finish(attempt.claimed.uuid, attempt.claimed.lease, end, attempt)
            else:
                await self._settle(attempt, end)
        except BaseException:
            # Whatever it was, the slot is not lost; the sweep finds the task.
            self.leave(attempt, "not-stored")
            raise

    def _end_of(self, result: Any) -> End:
        # By its type: `isinstance` asks the metaclass of a struct, which takes 800 instructions more.
        if type(result) is Deferred:
            return result
        try:
            text = values.dump(result, "result", max_bytes=self._max_bytes)
            return Completion(state=_SUCCEEDED, result=text)
        except (InvalidRequestError, PayloadTooLargeError) as error:
            return failure("invalid-result", f"The handler's result cannot be stored: {error}", may_retry=False)

    # Settle

    def settle_on(self, attempt: Attempt, error: Exception | None = None) -> None:
        """Goes on with an end that was handed to the store and is not known to be stored."""
        if attempt.end is not None and attempt.claimed.lease in self._attempts:
            settling = self._settle(attempt, attempt.end, error)
            attempt.runner = self._loop.create_task(settling, name=attempt.claimed.uuid)

    async def _settle(self, attempt: Attempt, end: End, error: Exception | None = None) -> None:
        """Stores an end. `error`: what a first try has met."""
        outcome = "not-stored"
        try:
            await self._bear(attempt, error)
            outcome = await self._stored(attempt, end)
        except _GONE as gone:
            attempt.note(gone)
            log.info("The end of task %s came too late: %s", attempt.claimed.uuid, gone)
            outcome = "too-late"
        except BrokerError as defect:
            # The lease will run out and the sweep will take over.
            log.error("The end of task %s could not be stored: %s", attempt.claimed.uuid, defect)  # noqa: TRY400
        finally:
            self.leave(attempt, outcome)

    async def _stored(self, attempt: Attempt, end: End) -> str:
        """Waits an outage out, since the end exists nowhere else.

        Returns:
            What became of the attempt, as `WorkerMeasures.executions` has it.
        """
        while True:
            try:
                return _outcome_of(end, await self._storing(attempt, end))
            except StoreUnavailableError as error:
                if attempt.claimed.lease not in self._attempts:
                    # Left to the sweep already: the worker ends.
                    raise
                await self._bear(attempt, error)

    async def _bear(self, attempt: Attempt, error: Exception | None) -> None:
        """Pauses after an outage; any other error is no outage."""
        if isinstance(error, StoreUnavailableError):
            self._measures.settle_retries += 1
            log.warning("Task %s waits to store its end: %s", attempt.claimed.uuid, error)
            await asyncio.sleep(SETTLE_RETRY_S * random.uniform(0.5, 1.0))  # noqa: S311
        elif error is not None:
            raise error

    def _storing(self, attempt: Attempt, end: End) -> Awaitable[object]:
        """The step that stores an end."""
        uuid, lease = attempt.claimed.uuid, attempt.claimed.lease
        if isinstance(end, Completion):
            return self._transitions.finish(uuid, end, lease=lease)
        if isinstance(end, Failure):
            return self._failing(attempt, end)
        if isinstance(end, Deferred):
            expires_ms = None if end.expires_in_s is None else max(1, milliseconds(end.expires_in_s))
            return self._transitions.defer(uuid, lease, expires_ms=expires_ms)
        return self._transitions.give_back(uuid, lease) if end is Stop.DRAIN else _nothing()

    def _failing(self, attempt: Attempt, end: Failure) -> Awaitable[object]:
        uuid, lease = attempt.claimed.uuid, attempt.claimed.lease
        failed = Completion(state=TaskState.FAILED, error=end.error)
        if not end.may_retry:
            return self._transitions.finish(uuid, failed, lease=lease)
        delay_ms = milliseconds(attempt.lane.handler.retry_delay_s(attempt.claimed.attempt))
        return self._transitions.retry(uuid, lease, failed, delay_ms)

    async def _give_up(self) -> None:
        """Ends that could not be stored in time are left to the sweep; handlers that still run are told once more."""
        for attempt in list(self._attempts.values()):
            attempt.runner.cancel()
            if attempt.end is not None:
                self._leave_to_sweep(attempt, "its end could not be stored in time")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                await self.until_idle()
        for attempt in list(self._attempts.values()):
            self._leave_to_sweep(attempt, "its handler goes on although it was cancelled")

    def _leave_to_sweep(self, attempt: Attempt, why: str) -> None:
        log.warning("Task %s is left to the sweep: %s.", attempt.claimed.uuid, why)
        self.leave(attempt, "not-stored")


def _outcome_of(end: End, stored: object) -> str:
    """What an end that was stored is counted as. Only a retry says by True that another attempt follows."""
    if isinstance(end, Deferred):
        return "deferred"
    if isinstance(end, Completion):
        return "succeeded"
    if isinstance(end, Failure):
        return "retried" if stored is True else "failed"
    return "given-back" if end is Stop.DRAIN else "ended-elsewhere"


def _end_of_stopped(attempt: Attempt) -> Failure | Stop:
    handler = attempt.lane.handler
    if attempt.stop is Stop.TIMEOUT:
        may_retry = handler.may_retry(TimeoutError())
        return failure("timeout", f"The handler took longer than {handler.timeout_s:g} s.", may_retry=may_retry)
    if attempt.stop is not None:
        return attempt.stop
    return failure("cancelled", "The handler cancelled itself.", may_retry=True)


def _end_of_failed(attempt: Attempt, error: BaseException) -> Failure:
    if not isinstance(error, TaskError):
        # The task keeps the error's class and text; the way to it is only told here.
        claimed, trace = attempt.claimed, trace_of(error)
        log.warning("The handler of task %s failed in attempt %d:\n%s", claimed.uuid, claimed.attempt, trace)
    return failure_of(error, attempt.lane.handler)


async def _renew(attempt: Attempt) -> None:
    # A lost lease has stopped the attempt already; an outage may be over at the next round.
    with contextlib.suppress(BrokerError):
        await attempt.renew()


async def _nothing() -> None:
    """The task is somebody else's: there is nothing to store."""
