"""When a worker asks for tasks: one claim on its way at a time, for all lanes with a place whose queue may hold more.

Nobody waits here. A ring hands the claim to the connection, and its reply starts what it brought where it comes in.
What rings in between is remembered by the lane and asked for next.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final

from broker.alarm import Alarm
from broker.executor import Executor
from broker.lane import Lane
from broker.measures import WorkerMeasures
from broker.store.claims import Claims
from broker.store.transitions import Transitions

log = logging.getLogger("broker.worker")

RETRY_CLAIM_S: Final = 0.5


class Claimer:
    """The claims of one worker. It is the receiver of their replies.

    Args:
        transitions: The scripts.
        executor: Runs what is claimed.
        lanes: By queue.
        worker: This worker's name.
        lease_ms: How long a claim holds.
        measures: Where claims are counted.
        on_full: Called with a queue that may hold more than this worker has place for.
    """

    is_abandoned = False

    def __init__(
        self,
        transitions: Transitions,
        executor: Executor,
        lanes: Mapping[str, Lane],
        *,
        worker: str,
        lease_ms: int,
        measures: WorkerMeasures,
        on_full: Callable[[str], None],
    ) -> None:
        self._transitions = transitions
        self._executor = executor
        self._lanes = lanes
        self._worker = worker
        self._lease_ms = lease_ms
        self._measures = measures
        self._on_full = on_full
        self._loop = asyncio.get_running_loop()
        self._alarms = {queue: Alarm(partial(self.ring, lane)) for queue, lane in lanes.items()}
        self._asked: list[Lane] = []
        self._is_due = False
        self._is_stopped = False
        self._pause: asyncio.TimerHandle | None = None
        self._at_rest: asyncio.Future[None] | None = None

    def hear(self, queues: Collection[str], bells: int = 1) -> None:
        """The bells of these queues have rung, so many in all."""
        self._measures.bells_heard += bells
        for queue in queues:
            lane = self._lanes[queue]
            lane.hear()
            if not lane.free:
                self._on_full(queue)
        self.ask()

    def ask_unrung(self, queue: str) -> int:
        """No bell has rung, but one may have been lost; gives the number of those that were, before."""
        lane = self._lanes[queue]
        missed = lane.ask_unrung()
        self.ring(lane)
        return missed

    def ring(self, lane: Lane) -> None:
        """The lane's queue may hold more."""
        lane.may_hold_more = True
        if lane.free:
            self.ask_soon()
        else:
            self._on_full(lane.handler.queue)

    def ask_soon(self) -> None:
        """Asks at the end of this turn of the loop: all slots are free by then that one reply frees."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._ask_due)

    def ask(self) -> None:
        """Claims, unless a claim is on its way: its reply asks again."""
        if self._asked or self._pause is not None or self._is_stopped:
            return
        asking = [lane for lane in self._lanes.values() if lane.may_hold_more and lane.free]
        if asking:
            self._claim(asking)

    async def stop(self) -> None:
        """Ends it between two claims: one on its way may have taken tasks."""
        self._is_stopped = True
        for alarm in self._alarms.values():
            alarm.cancel()
        if self._pause is not None:
            self._pause.cancel()
        if self._asked:
            self._at_rest = self._loop.create_future()
            await self._at_rest

    def _ask_due(self) -> None:
        self._is_due = False
        self.ask()

    def _claim(self, asking: list[Lane]) -> None:
        if len(asking) > 1:
            # No queue is always the last to be asked, should one call not get round to all.
            random.shuffle(asking)
        self._asked = asking
        self._transitions.hand_claim(self._worker, self._lease_ms, [lane.wish() for lane in asking], self)

    # Receiver

    def succeed(self, claims: Claims) -> None:
        """Starts what was claimed."""
        asked, self._asked = self._asked, []
        self._measures.claims += 1
        now = self._loop.time()
        try:
            for claimed in claims.tasks:
                try:
                    lane = self._lanes[claimed.queue]
                    self._executor.start(claimed, lane, now)
                    lane.take()
                except Exception:
                    # A defect of one must not keep the others from their start.
                    log.exception("Task %s of %s is left to the sweep.", claimed.uuid, claimed.queue)
            if claims.tasks:
                # Behind the first steps of all: what ends in them is stored together.
                self._transitions.flush_soon()
            satisfied = [lane for lane in asked if self._has_all(lane)]
            if satisfied:
                self._ask_on(satisfied)
            for queue, ms in claims.again_ms.items():
                self._alarms[queue].set(ms / 1_000)
        finally:
            self._rest()

    def fail(self, error: Exception) -> None:
        """There is no claim, or nobody knows: what it took is freed by the sweep."""
        asked, self._asked = self._asked, []
        for lane in asked:
            lane.may_hold_more = True
        log.warning("No claim: %s", error)
        self._pause = self._loop.call_later(RETRY_CLAIM_S, self._resume)
        self._rest()

    def _has_all(self, lane: Lane) -> bool:
        """Counts what a lane has got; whether that is all it asked for."""
        if lane.got:
            self._measures.claimed[lane.handler.queue] += lane.got
        return lane.is_satisfied()

    def _ask_on(self, lanes: list[Lane]) -> None:
        """Queues that gave all that was asked of them may hold more."""
        for lane in lanes:
            lane.may_hold_more = True
        for lane in lanes:
            self.ring(lane)

    def _rest(self) -> None:
        if self._at_rest is not None and not self._at_rest.done():
            self._at_rest.set_result(None)
        self.ask()

    def _resume(self) -> None:
        self._pause = None
        self.ask()
