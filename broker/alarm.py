"""One timer that may be set many times."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls something once, at the earliest of the times that it was set to since the last call.

    Args:
        on_time: What to call.
    """

    __slots__ = ("_on_time", "_timer")

    def __init__(self, on_time: Callable[[], None]) -> None:
        self._on_time = on_time
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Has it called in so many seconds, or before, if that was asked for already."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._timer is None or at < self._timer.when():
            self.cancel()
            self._timer = loop.call_at(at, self._ring)

    def cancel(self) -> None:
        """Forgets what was set."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._on_time()
