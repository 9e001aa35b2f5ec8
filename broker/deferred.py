"""One held wait. Pure: it knows no socket and no store, only who settles it first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from broker.deadlines import Deadlines

T = TypeVar("T")


class DeferredResult(Generic[T]):
    """A result that somebody else will set: an outcome, an error, or the end of the waiter's time.

    The first of the three wins; the others are told so and change nothing. Named after Spring's class of the same job.
    Nothing has to await it: a held call that is told by `call_when_settled` costs neither a future nor a task.
    """

    __slots__ = ("_deadlines", "_error", "_is_awaited", "_listener", "_tick", "is_settled", "result")

    def __init__(self, timeout: float, deadlines: Deadlines) -> None:
        """Starts the clock.

        Args:
            timeout: Seconds until the wait ends without a result.
            deadlines: Of the running loop.
        """
        self.is_settled = False
        """Whether the wait is over, one way or the other."""
        self.result: T | None = None
        """What was set; None while nothing is, and when the wait ended by an error or by its time."""
        self._error: BaseException | None = None
        self._listener: Callable[[], object] | None = None
        self._is_awaited = False
        self._deadlines = deadlines
        self._tick = deadlines.start(self, timeout)

    def set_result(self, result: T | None, error: BaseException | None = None) -> bool:
        """Ends the wait with a result, as all that ends it does; whether this call did it."""
        if self.is_settled:
            return False
        self.is_settled = True
        self.result, self._error = result, error
        self._deadlines.stop(self, self._tick)
        listener = self._listener
        if listener is not None:
            self._listener = None
            listener()
        return True

    def set_error(self, error: Exception) -> bool:
        """Ends the wait with an error; whether this call did it."""
        return self.set_result(None, error)

    def expire(self) -> bool:
        """Ends the wait without a result; whether this call did it."""
        return self.set_result(None)

    def abandon(self) -> None:
        """The waiter is gone: nobody is told of anything any more, and whoever waits here after all is cancelled."""
        if not self.is_settled:
            if not self._is_awaited:
                self._listener = None
            self.set_result(None, asyncio.CancelledError())

    def call_when_settled(self, listener: Callable[[], object]) -> None:
        """Has `listener` called by whoever ends the wait, or at once where it is over already.

        There is one listener. It must not raise: others are told after it.
        """
        if self.is_settled:
            listener()
        else:
            self._listener = listener

    async def wait(self) -> T | None:
        """The result, or None when the time was over first.

        Raises:
            Exception: What `set_error` was given.
        """
        if not self.is_settled:
            await self._settled()
        if self._error is not None:
            raise self._error
        return self.result

    async def _settled(self) -> None:
        over: asyncio.Future[None] = self._deadlines.loop.create_future()

        def wake() -> None:
            if not over.done():
                over.set_result(None)

        self.call_when_settled(wake)
        self._is_awaited = True
        try:
            await over
        except asyncio.CancelledError:
            self.abandon()
            raise
