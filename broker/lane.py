"""The slots of one handler in one process, how it is called, and what is known of its queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from broker.handlers import Handler, ThreadLane
from broker.requests import MOST_CLAIMED
from broker.store.claims import ClaimWish
from broker.task import Task


class Lane:
    """One handler's.

    Args:
        handler: Whose.
        concurrency: Its slots.
        on_place: Called when a slot became free while the queue may hold more.
    """

    def __init__(self, handler: Handler, concurrency: int, on_place: Callable[[], None]) -> None:
        self.handler = handler
        self.free = concurrency
        self.may_hold_more = True
        self.got = 0
        self._wished = 0
        self._is_unrung = False
        self._was_unrung = False
        self._suspects = 0
        self.threads = None if handler.is_async else ThreadLane(handler, concurrency)
        self.call: Callable[[Task], Awaitable[Any]] = (
            handler.function if self.threads is None else partial(self.threads.run, on_end=self.release)
        )
        self._on_place = on_place

    # What is known of the queue

    def hear(self) -> None:
        """A bell has rung: what was found without one lately was only faster than the bell."""
        self.may_hold_more = True
        self._is_unrung = False
        self._suspects = 0

    def ask_unrung(self) -> int:
        """It is asked unrung; gives the bells known to have been missed, as no ring has come since the last time."""
        missed, self._suspects = self._suspects, 0
        self._is_unrung = self._is_unrung or not self.may_hold_more
        return missed

    def wish(self) -> ClaimWish:
        """What it asks for now. A ring from now on may have come too late for that."""
        self.got, self._wished = 0, min(self.free, MOST_CLAIMED)
        self._was_unrung = self._is_unrung
        self.may_hold_more = self._is_unrung = False
        return ClaimWish(self.handler.queue, self._wished, self.handler.max_attempts)

    def is_satisfied(self) -> bool:
        """What was claimed has been taken; whether that is all it wished."""
        if self.got and self._was_unrung and not self.may_hold_more:
            # Not yet known to be missed: bells come by another connection, and may be a moment later.
            self._suspects += 1
        return self.got == self._wished

    # Slots

    def take(self) -> None:
        """One of its slots is for a task that was claimed."""
        self.free -= 1
        self.got += 1

    def release(self) -> None:
        """One of its slots is free again."""
        self.free += 1
        if self.may_hold_more:
            self._on_place()
