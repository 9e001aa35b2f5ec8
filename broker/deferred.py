"""One held wait. Pure: it knows no socket and no store, only who settles it first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from broker.deadlines import Deadlines

T = TypeVar("T")


class DeferredResult(Generic[T]):
    """A result that somebody else will set: an outcome, an error, or the end of the waiter's time.

    The first of the three wins; the others are told so and change nothing. Named after Spring's class of the same job.
    """

    __slots__ = ("_deadlines", "_future", "_tick")

    def __init__(self, timeout: float, deadlines: Deadlines) -> None:
        """Starts the clock.

        Args:
            timeout: Seconds until the wait ends without a result.
            deadlines: Of the running loop.
        """
        self._future: asyncio.Future[T | None] = deadlines.loop.create_future()
        self._deadlines = deadlines
        self._tick = deadlines.start(self, timeout)

    @property
    def is_settled(self) -> bool:
        """Whether the wait is over, one way or the other."""
        return self._future.done()

    def set_result(self, result: T) -> bool:
        """Ends the wait with a result; whether this call did it."""
        if self._future.done():
            return False
        self._deadlines.stop(self, self._tick)
        self._future.set_result(result)
        return True

    def set_error(self, error: Exception) -> bool:
        """Ends the wait with an error; whether this call did it."""
        if self._future.done():
            return False
        self._deadlines.stop(self, self._tick)
        self._future.set_exception(error)
        return True

    def expire(self) -> bool:
        """Ends the wait without a result; whether this call did it."""
        if self._future.done():
            return False
        self._deadlines.stop(self, self._tick)
        self._future.set_result(None)
        return True

    def abandon(self) -> None:
        """The waiter is gone: releases the clock and the future."""
        self._deadlines.stop(self, self._tick)
        if self._future.done() and not self._future.cancelled():
            # An error that nobody came to hear is no defect.
            self._future.exception()
        self._future.cancel()

    def call_when_settled(self, callback: Callable[[], None]) -> None:
        """Has `callback` called soon after the wait is over, for whoever waits for other things too."""
        self._future.add_done_callback(lambda _: callback())

    def wait(self) -> Awaitable[T | None]:
        """The result, or None when the time was over first.

        Raises:
            Exception: What `set_error` was given.
        """
        return self._future
