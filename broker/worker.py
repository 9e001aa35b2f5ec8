"""A worker process: handlers by queue, slots, claims when the bell rings, and a drain that leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

from broker.background import Background
from broker.bell_duty import BellDuty
from broker.claimer import Claimer
from broker.errors import ConfigurationError
from broker.executor import Executor
from broker.handlers import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TIMEOUT_S,
    ErrorTypes,
    Handler,
    HandlerFunction,
)
from broker.lane import Lane
from broker.measures import WorkerMeasures
from broker.presence import Presence
from broker.recovery import Recovery
from broker.request_bell import RequestBell
from broker.requests import BACKOFF_FIRST_S, BACKOFF_MOST_S, DEFAULT_MAX_ATTEMPTS, milliseconds
from broker.settings import Settings
from broker.store.link import Link
from broker.store.session import Session
from broker.store.topology import Topology

log = logging.getLogger("broker.worker")

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


class _WorkerProcess:
    """The connections and loops behind `Worker.run`."""

    def __init__(
        self, handlers: list[Handler], settings: Settings, concurrency: int | None, measures: WorkerMeasures
    ) -> None:
        self._settings = settings
        self._measures = measures
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lanes = {
            handler.queue: Lane(handler, concurrency or handler.concurrency, on_place=self._ask_soon)
            for handler in handlers
        }
        topology = Topology.from_url(settings.redis_url)
        self._store = Session(
            topology,
            name=f"worker-{self._name}",
            wait_replicas=settings.wait_replicas,
            events_kept=settings.events_kept,
        )
        presence = dict.fromkeys(self._lanes, 1)
        self._presence = Presence(partial(self._store.housekeeping.report_workers, self._name), lambda: presence)
        self._executor = Executor(self._store.transitions, settings, measures)
        self._claimer = Claimer(
            self._store.transitions,
            self._executor,
            self._lanes,
            worker=self._name,
            lease_ms=milliseconds(settings.lease_s),
            measures=measures,
            on_full=lambda queue: self._duty.pass_on(queue),
        )
        self._bell = RequestBell(
            topology,
            worker=self._name,
            queues=(),
            on_rings=self._claimer.hear,
            on_ended=self._executor.check,
        )
        self._duty = BellDuty(
            self._store.duties,
            self._bell,
            worker=self._name,
            queues=list(self._lanes),
            has_place=lambda queue: self._lanes[queue].free > 0,
            on_ring=lambda queue: self._claimer.hear([queue]),
            on_turn=self._ask_unrung,
        )
        self._is_stopping = False
        self._background = Background()
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
        self._claimer.ask()

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
        """Others hear the bells then."""
        self._is_stopping = True
        await self._claimer.stop()
        if self._listening is not None:
            listening, self._listening = self._listening, None
            listening.cancel()
            await asyncio.wait({listening})
            await self._duty.leave()

    def _ask_unrung(self, queue: str) -> None:
        missed = self._claimer.ask_unrung(queue)
        if self._duty.listens(queue):
            # Whoever is parked hears no bells that it could miss.
            self._measures.bells_missed += missed

    def _ask_soon(self) -> None:
        self._claimer.ask_soon()
