"""A worker process: handlers by queue, slots, claims when the bell rings, and a drain that leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import msgspec

from broker.alarm import Alarm
from broker.background import Background
from broker.bell_duty import BellDuty
from broker.errors import ConfigurationError, StoreError, StoreUnavailableError
from broker.executor import Executor
from broker.handlers import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TIMEOUT_S,
    ErrorTypes,
    Handler,
    HandlerFunction,
    ThreadLane,
)
from broker.measures import WorkerMeasures
from broker.presence import Presence
from broker.recovery import Recovery
from broker.request_bell import RequestBell
from broker.requests import BACKOFF_FIRST_S, BACKOFF_MOST_S, DEFAULT_MAX_ATTEMPTS, MOST_CLAIMED, milliseconds
from broker.settings import Settings
from broker.store.link import Link
from broker.store.session import Session
from broker.store.topology import Topology
from broker.store.transitions import Claimed, Claims, ClaimWish

log = logging.getLogger("broker.worker")

RETRY_CLAIM_S: Final = 0.5

F = TypeVar("F", bound=HandlerFunction)


class WorkerState(msgspec.Struct, frozen=True):
    """How a worker that runs does just now: attempts here, free slots by queue, its connections, whether it ends."""

    running: int
    free: dict[str, int]
    links: dict[str, Link]
    is_stopping: bool


class Worker:
    """Runs handlers for the tasks of their queues.

    ```python
    worker = Worker()

    @worker.handler("createbranch", concurrency=32, timeout=60, max_attempts=3)
    async def create_branch(task: Task) -> dict: ...
    ```
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.measures = WorkerMeasures()
        self._process: _WorkerProcess | None = None

    @property
    def state(self) -> WorkerState | None:
        """How it does just now; None while it does not run."""
        return None if self._process is None else self._process.state

    def handler(
        self,
        queue: str,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout: float = DEFAULT_TIMEOUT_S,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        min_backoff: float = BACKOFF_FIRST_S,
        max_backoff: float = BACKOFF_MOST_S,
        retry_on: ErrorTypes = (Exception,),
        no_retry_on: ErrorTypes = (),
    ) -> Callable[[F], F]:
        """Makes the decorated function the handler of a queue; a plain `def` runs in a bounded thread pool.

        Args:
            queue: Whose tasks it takes.
            concurrency: Tasks it runs at a time in this process.
            timeout: Seconds after which an attempt is given up as failed.
            max_attempts: Executions at most, where the task names no limit of its own.
            min_backoff: Seconds before the second attempt; they double with each further one, and up to half of them
                is taken off at random.
            max_backoff: Seconds between two attempts at most.
            retry_on: Errors after which another attempt may help; any other fails the task at once. A `timeout` that
                is over counts as a TimeoutError.
            no_retry_on: Errors that fail the task at once, although `retry_on` covers them.

        Raises:
            ConfigurationError: The queue has a handler already, or an argument cannot be used.
        """

        def register(function: F) -> F:
            if queue in self.handlers:
                raise ConfigurationError(f"The queue {queue} has a handler already; a worker takes one per queue.")
            self.handlers[queue] = Handler(
                queue,
                function,
                concurrency,
                timeout,
                max_attempts,
                min_backoff,
                max_backoff,
                _as_types(retry_on),
                _as_types(no_retry_on),
            )
            return function

        return register

    async def run(self, settings: Settings, *, stop: asyncio.Event, concurrency: int | None = None) -> None:
        """Works until `stop` is set, then drains: finishes what fits into `settings.drain_s`, gives the rest back.

        Args:
            settings: What to run with.
            stop: Set it to have the worker end.
            concurrency: Overrides every handler's own.

        Raises:
            ConfigurationError: There are no handlers, or the server cannot be used.
            StoreUnavailableError: Redis does not answer at the start.
        """
        if not self.handlers:
            raise ConfigurationError("The worker has no handlers: decorate a function with @worker.handler(queue).")
        process = _WorkerProcess(list(self.handlers.values()), settings, concurrency, self.measures)
        await process.open()
        self._process = process
        try:
            await stop.wait()
            await process.drain()
        finally:
            self._process = None
            await process.close()


def _as_types(given: ErrorTypes) -> tuple[type[BaseException], ...]:
    """As `except` takes them: one class, or several."""
    return (given,) if isinstance(given, type) else tuple(given)


class _Lane:
    """The slots of one handler, and whether its queue may hold more."""

    def __init__(self, handler: Handler, concurrency: int) -> None:
        self.handler = handler
        self.free = concurrency
        self.may_hold_more = True
        self.is_unrung = False
        self.suspects = 0
        self.threads = None if handler.is_async else ThreadLane(handler, concurrency)

    def hear(self) -> None:
        """A bell has rung: what was found without one lately was only faster than the bell."""
        self.is_unrung = False
        self.suspects = 0

    def ask_unrung(self) -> int:
        """It is asked unrung; gives the bells known to have been missed, as no ring has come since the last time."""
        missed, self.suspects = self.suspects, 0
        self.is_unrung = self.is_unrung or not self.may_hold_more
        return missed

    def wish(self) -> ClaimWish:
        return ClaimWish(self.handler.queue, min(self.free, MOST_CLAIMED), self.handler.max_attempts)


class _WorkerProcess:
    """The connections and loops behind `Worker.run`."""

    def __init__(
        self, handlers: list[Handler], settings: Settings, concurrency: int | None, measures: WorkerMeasures
    ) -> None:
        self._settings = settings
        self._measures = measures
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lanes = {handler.queue: _Lane(handler, concurrency or handler.concurrency) for handler in handlers}
        self._alarms = {queue: Alarm(partial(self._ring, queue)) for queue in self._lanes}
        self._lease_ms = milliseconds(settings.lease_s)
        topology = Topology.from_url(settings.redis_url)
        self._store = Session(
            topology,
            name=f"worker-{self._name}",
            wait_replicas=settings.wait_replicas,
            events_kept=settings.events_kept,
        )
        self._transitions = self._store.transitions
        presence = dict.fromkeys(self._lanes, 1)
        self._presence = Presence(partial(self._store.housekeeping.report_workers, self._name), lambda: presence)
        self._executor = Executor(self._transitions, settings, measures)
        self._bell = RequestBell(
            topology,
            worker=self._name,
            queues=(),
            on_ring=self._hear,
            on_ended=self._executor.check,
        )
        self._duty = BellDuty(
            self._store.duties,
            self._bell,
            worker=self._name,
            queues=list(self._lanes),
            has_place=lambda queue: self._lanes[queue].free > 0,
            on_ring=self._hear,
            on_turn=self._ask_unrung,
        )
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._background = Background()
        self._claiming: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def state(self) -> WorkerState:
        return WorkerState(
            running=self._executor.running,
            free={queue: lane.free for queue, lane in self._lanes.items()},
            links={**self._store.links, "bell": self._bell.link},
            is_stopping=self._is_stopping,
        )

    async def open(self) -> None:
        await self._store.open()
        try:
            await self._bell.open()
        except BaseException:
            await self._store.close()
            raise
        recovery = Recovery(self._store.housekeeping, self._settings, self._name)
        self._background.keep(recovery.run_forever, "recovery")
        self._background.keep(self._presence.report_forever, "presence")
        self._background.keep(self._executor.renew_forever, "lease renewal")
        self._listening = self._background.keep(self._duty.run_forever, "bell duty")
        self._claiming = self._background.keep(self._claim_forever, "claiming")
        self._wake.set()

    async def drain(self) -> None:
        """Claims no more and lets finish what fits."""
        log.info("Draining: no more claims; %d tasks run.", self._executor.running)
        await self._stop_claiming()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._executor.until_idle()
        except TimeoutError:
            log.info("%d tasks are given back after a drain of %g s.", self._executor.running, self._settings.drain_s)

    async def close(self) -> None:
        """Gives back what still runs, and disconnects."""
        # What is given back rings this worker's own bell, too.
        await self._stop_claiming()
        await self._executor.close()
        await self._background.cancel()
        await self._presence.leave()
        for lane in self._lanes.values():
            if lane.threads is not None:
                lane.threads.close()
        await self._bell.close()
        await self._store.close()

    async def _stop_claiming(self) -> None:
        """Ends the loop between two claims: a claim on its way may have taken tasks. Others hear the bells then."""
        self._is_stopping = True
        self._wake.set()
        if self._claiming is not None:
            await asyncio.wait({self._claiming})
        for alarm in self._alarms.values():
            alarm.cancel()
        if self._listening is not None:
            listening, self._listening = self._listening, None
            listening.cancel()
            await asyncio.wait({listening})
            await self._duty.leave()

    def _hear(self, queue: str) -> None:
        self._measures.bells_heard += 1
        self._lanes[queue].hear()
        self._ring(queue)

    def _ring(self, queue: str) -> None:
        lane = self._lanes[queue]
        lane.may_hold_more = True
        if lane.free:
            self._wake.set()
        else:
            self._duty.pass_on(queue)

    def _ask_unrung(self, queue: str) -> None:
        lane = self._lanes[queue]
        missed = lane.ask_unrung()
        if self._duty.listens(queue):
            # Whoever is parked hears no bells that it could miss.
            self._measures.bells_missed += missed
        self._ring(queue)

    async def _claim_forever(self) -> None:
        while not self._is_stopping:
            await self._wake.wait()
            self._wake.clear()
            asking = [lane for lane in self._lanes.values() if lane.may_hold_more and lane.free]
            if asking and not self._is_stopping:
                await self._claim(asking)

    async def _claim(self, asking: list[_Lane]) -> None:
        # No queue is always the last to be asked, should one call not get round to all.
        random.shuffle(asking)
        wishes = [lane.wish() for lane in asking]
        unrung = [lane for lane in asking if lane.is_unrung]
        for lane in asking:
            # Set again by a ring during the claim, which may have come too late for it.
            lane.may_hold_more = lane.is_unrung = False
        try:
            claims = await self._transitions.claim(self._name, self._lease_ms, wishes)
        except (StoreUnavailableError, StoreError) as error:
            log.warning("No claim: %s", error)
            await asyncio.sleep(RETRY_CLAIM_S)
            return
        self._count(claims.tasks, unrung)
        self._start_all(claims.tasks)
        self._ask_on(wishes, claims)

    def _count(self, claimed: list[Claimed], unrung: list[_Lane]) -> None:
        self._measures.claims += 1
        for task in claimed:
            self._measures.claimed[task.queue] += 1
        for lane in unrung:
            # Not yet known to be missed: bells come by another connection, and may be a moment later.
            lane.suspects += not lane.may_hold_more and any(task.queue == lane.handler.queue for task in claimed)

    def _start_all(self, claimed: list[Claimed]) -> None:
        for task in claimed:
            lane = self._lanes[task.queue]
            lane.free -= 1
            self._executor.start(task, lane.handler, lane.threads, lambda lane=lane: self._free(lane))  # type: ignore[misc]

    def _ask_on(self, wishes: list[ClaimWish], claims: Claims) -> None:
        """A queue that gave all that was asked of it may hold more; one that its rate held back does, for later."""
        for wish in wishes:
            if sum(task.queue == wish.queue for task in claims.tasks) == wish.most:
                self._ring(wish.queue)
        for queue, ms in claims.again_ms.items():
            self._alarms[queue].set(ms / 1_000)

    def _free(self, lane: _Lane) -> None:
        lane.free += 1
        if lane.may_hold_more:
            self._wake.set()
