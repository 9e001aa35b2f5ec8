"""One held wait. Pure: it knows no socket and no store, only who settles it first."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class DeferredResult(Generic[T]):
    """A result that somebody else will set: an outcome, an error, or the end of the waiter's time.

    The first of the three wins; the others are told so and change nothing. Named after Spring's class of the same job.
    """

    __slots__ = ("_future", "_timer")

    def __init__(self, timeout: float, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Starts the clock.

        Args:
            timeout: Seconds until the wait ends without a result.
            loop: The running loop, for callers that know it: asking Python 3.11 for it is a system call.
        """
        loop = loop or asyncio.get_running_loop()
        self._future: asyncio.Future[T | None] = loop.create_future()
        self._timer = loop.call_later(timeout, self.expire)

    @property
    def is_settled(self) -> bool:
        """Whether the wait is over, one way or the other."""
        return self._future.done()

    def set_result(self, result: T) -> bool:
        """Ends the wait with a result; whether this call did it."""
        if self._future.done():
            return False
        self._timer.cancel()
        self._future.set_result(result)
        return True

    def set_error(self, error: Exception) -> bool:
        """Ends the wait with an error; whether this call did it."""
        if self._future.done():
            return False
        self._timer.cancel()
        self._future.set_exception(error)
        return True

    def expire(self) -> bool:
        """Ends the wait without a result; whether this call did it."""
        if self._future.done():
            return False
        self._timer.cancel()
        self._future.set_result(None)
        return True

    def abandon(self) -> None:
        """The waiter is gone: releases the timer and the future."""
        self._timer.cancel()
        self._future.cancel()

    async def wait(self) -> T | None:
        """The result, or None when the time was over first.

        Raises:
            Exception: What `set_error` was given.
        """
        return await self._future
