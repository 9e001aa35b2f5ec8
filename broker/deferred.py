"""One held wait. Pure: it knows no socket and no store, only who settles it first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from broker.deadlines import Deadlines

T = TypeVar("T")


class DeferredResult(msgspec.Struct, Generic[T], eq=False):
    """A result that somebody else will set: an outcome, an error, or the end of the waiter's time.

    The first of the three wins; the others are told so and change nothing. Named after Spring's class of the same job.
    Nothing has to await it: a held call that is told by `call_when_settled` costs neither a future nor a task.

    It ends without a result after `timeout` seconds by `deadlines`, which are the running loop's. `is_settled` tells
    whether it is over, one way or the other. `result` is what was set: None while nothing is, and when the wait ended
    by an error or by its time.
    """

    timeout: float
    deadlines: Deadlines
    is_settled: bool = False
    result: T | None = None
    _error: BaseException | None = None
    _listener: Callable[[], object] | None = None
    _is_awaited: bool = False
    _tick: int = 0

    def __post_init__(self) -> None:
        self._tick = self.deadlines.start(self, self.timeout)

    def set_result(self, result: T | None) -> bool:
        """Ends the wait with a result; whether this call did it."""
        if self.is_settled:
            return False
        self.is_settled = True
        self.result = result
        self.deadlines.stop(self, self._tick)
        listener = self._listener
        if listener is not None:
            self._listener = None
            listener()
        return True

    def set_error(self, error: Exception) -> bool:
        """Ends the wait with an error; whether this call did it."""
        if not self.is_settled:
            self._error = error
        return self.set_result(None)

    def expire(self) -> bool:
        """Ends the wait without a result; whether this call did it."""
        return self.set_result(None)

    def abandon(self) -> None:
        """The waiter is gone: nobody is told of anything any more, and whoever waits here after all is cancelled."""
        if not self.is_settled:
            if not self._is_awaited:
                self._listener = None
            self._error = asyncio.CancelledError()
            self.set_result(None)

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
        over: asyncio.Future[None] = self.deadlines.loop.create_future()

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
