"""When calls begin and how long they took: in a closed loop, or at a fixed rate whatever the deployment does.

Coordinated omission: in a closed loop a slow deployment is asked less often, so the calls that would have met its bad
moments are never made, and no percentile knows of them. At a fixed rate each call has an intended time and is measured
from that time on, also where all lanes were busy and it left late; those that could not leave at all are errors.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import Final

from broker_services.cli.bench.latencies import Latencies

NEVER_SENT: Final = "due, but never sent: the calls before were not done"


class Over(Exception):  # noqa: N818  not an error: the run is at its end
    """No more calls should begin."""


class Pace:
    """One run.

    Args:
        rate: Calls a second; None for a closed loop.
        warm_up_s: Seconds at the start whose calls are not counted.
        duration_s: Seconds after that in which calls begin.
    """

    def __init__(self, *, rate: float | None, warm_up_s: float, duration_s: float) -> None:
        self.latencies = Latencies()
        self.errors: Counter[str] = Counter()
        self._rate = rate
        self._began = time.perf_counter()
        self._counted_from = self._began + warm_up_s
        self._end = self._counted_from + duration_s
        self._begun = 0
        self._last = self._counted_from
        self._sleeping: set[asyncio.Future[None]] = set()

    @property
    def is_over(self) -> bool:
        """Whether no more calls should begin."""
        return time.perf_counter() >= self._end

    @property
    def progress(self) -> float:
        """How much of the run is over, from 0 to 1."""
        return min(1.0, (time.perf_counter() - self._began) / (self._end - self._began))

    @property
    def achieved(self) -> float:
        """Counted calls a second. At a fixed rate, of the time in which they were due; else until the last answer."""
        due_s = self._end - self._counted_from
        answered_s = due_s if self._rate is not None else max(due_s, self._last - self._counted_from)
        # A difference of two times is a little more or less than the duration, depending on the clock: a rate that was
        # reached exactly must not count as missed.
        return round(len(self.latencies) / max(answered_s, 1e-9), 6)

    def stop(self) -> None:
        """Ends the run early."""
        self._end = min(self._end, time.perf_counter())
        for sleeping in self._sleeping:
            if not sleeping.done():
                sleeping.set_result(None)

    async def begin(self) -> float:
        """Waits until the next call is due, and gives the time that it is measured from.

        Raises:
            Over: There is none any more.
        """
        if self._rate is None:
            due = time.perf_counter()
        else:
            due = self._began + self._begun / self._rate
            self._begun += 1
            await self._sleep_until(due)
        if self.is_over:
            self._begun -= 1
            raise Over
        return due

    def record(self, begun: float, ended: float) -> None:
        """A call was answered as it should be."""
        if ended >= self._counted_from:
            self.latencies.add(ended - begun)
            self._last = max(self._last, ended)

    def fail(self, what: str) -> None:
        """A call was not. Errors count from the first moment on."""
        self.errors[what] += 1

    async def pause(self, seconds: float) -> None:
        """Sleeps, but not beyond the end of the run."""
        await self._sleep_until(time.perf_counter() + seconds)

    async def until_over(self) -> None:
        """Returns at the end of the run."""
        await self._sleep_until(self._end)

    def count_from_now(self) -> None:
        """For calls that come after the run: they are counted, and their rate is, from the first one on."""
        if self._counted_from < self._end:
            self._counted_from = self._last = self._end = time.perf_counter()

    def close(self) -> None:
        """Counts the calls that were due before the end and never left."""
        if self._rate is not None:
            due = math.ceil(round((self._end - self._began) * self._rate, 6))
            missed = due - self._begun
            if missed > 0:
                self.errors[NEVER_SENT] += missed

    async def _sleep_until(self, moment: float) -> None:
        """Returns then, or at the end of the run."""
        loop = asyncio.get_running_loop()
        # Again and again, since uvloop's timers, in whole milliseconds, may be early.
        while (left := min(moment, self._end) - time.perf_counter()) > 0:
            sleeping: asyncio.Future[None] = loop.create_future()
            self._sleeping.add(sleeping)
            timer = loop.call_later(left, _wake, sleeping)
            try:
                await sleeping
            finally:
                timer.cancel()
                self._sleeping.discard(sleeping)


def _wake(sleeping: asyncio.Future[None]) -> None:
    if not sleeping.done():
        sleeping.set_result(None)
