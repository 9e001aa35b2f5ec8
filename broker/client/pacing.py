"""When to ask again: the clock, jittered exponential pauses, and what `Retry-After` says."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
LONGEST_RETRY_AFTER_S: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Time and chance, replaceable so that tests need not wait.

    Args:
        now: Seconds that only grow.
        sleep: Waits so many seconds.
        chance: A number from 0 to 1, another one each time.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    chance: Callable[[], float] = random.random


class Backoff:
    """Pauses that double up to a bound, each taken at random between nothing and its full length.

    The "full jitter" of the AWS architecture blog: many clients that lost one instance come back spread out.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rounds = 0

    def reset(self) -> None:
        """Starts again with the shortest pause."""
        self._rounds = 0

    def next_s(self, at_least_s: float | None = None) -> float:
        """The next pause in seconds; `at_least_s` is what the other side asked for, if it did."""
        full = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._rounds, 16))
        self._rounds += 1
        return max(at_least_s or 0.0, full * self._clock.chance())


def retry_after_s(header: str | None) -> float | None:
    """The seconds that a `Retry-After` header asks for; None without one, or with one that cannot be read."""
    text = (header or "").strip()
    if not text:
        return None
    seconds = _seconds(text) if text[0].isdigit() else _seconds_until(text)
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _seconds_until(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - datetime.now(UTC)).total_seconds()
