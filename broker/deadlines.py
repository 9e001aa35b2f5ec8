"""Many timeouts on one timer: a held call costs an entry in a set, where the loop's own timer costs an object each.

Deadlines are rounded up to the next tick, so nothing ends early, and at most `TICK_S` late.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

TICK_S: Final = 0.05
TICKS_AHEAD: Final = 20
"""How far the timer is set at most: a process that holds calls for minutes wakes once a second for them."""
MOST_S: Final = 10 * 365 * 86_400.0
"""Longer timeouts, infinity included, count as this one."""


class Expiring(Protocol):
    """What can run out of time."""

    def expire(self) -> object:
        """Called once, when the time is over."""


class Deadlines:
    """The timeouts of one event loop.

    Args:
        loop: Whose clock counts.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: dict[int, set[Expiring]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0
        self._last_tick = 0

    def start(self, item: Expiring, timeout: float) -> int:
        """Has `item.expire()` called after `timeout` seconds; the number returned stops it."""
        now = self.loop.time()
        if not 0.0 <= timeout <= MOST_S:
            timeout = min(max(timeout, 0.0), MOST_S)
        tick = int((now + timeout) / TICK_S) + 1
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = set()
        due.add(item)
        if self._timer is None:
            self._last_tick = int(now / TICK_S)
            self._look_at(min(tick, self._last_tick + TICKS_AHEAD))
        elif tick < self._looks_at:
            self._timer.cancel()
            self._look_at(tick)
        return tick

    def stop(self, item: Expiring, tick: int) -> None:
        """Forgets a timeout; harmless when it is over already."""
        due = self._due.get(tick)
        if due is not None:
            due.discard(item)
            if not due:
                # Else it would stay until its time, however soon its last item has ended.
                del self._due[tick]

    def close(self) -> None:
        """Forgets all of them."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, tick: int) -> None:
        self._looks_at = tick
        self._timer = self.loop.call_at(tick * TICK_S, self._run)

    def _run(self) -> None:
        last_tick = int(self.loop.time() / TICK_S)
        for tick in range(self._last_tick + 1, last_tick + 1):
            for item in self._due.pop(tick, ()):
                self._expire(item)
        self._last_tick = last_tick
        self._timer = None
        if self._due:
            furthest = last_tick + TICKS_AHEAD
            self._look_at(next((tick for tick in range(last_tick + 1, furthest) if tick in self._due), furthest))

    def _expire(self, item: Expiring) -> None:
        try:
            item.expire()
        except Exception as error:
            # One defect must not take the time from all the others.
            self.loop.call_exception_handler({"message": "A timeout failed.", "exception": error})
