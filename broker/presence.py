"""Says again and again for which queues a process is there, so that everybody sees who is, and who is no longer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from broker.errors import StoreError, StoreUnavailableError

log = logging.getLogger("broker.presence")

REPORT_EVERY_S: Final = 2.0
PRESENT_MS: Final = 10_000
"""How long a report counts: a process that died is gone after that."""
FAREWELL_S: Final = 0.5
"""How long an orderly end may take for it; a report that never comes runs out by itself."""

Report = Callable[[Mapping[str, int], int], Awaitable[None]]


class Presence:
    """What one process reports.

    Args:
        report: Stores the numbers by queue, for so many milliseconds; 0 takes the process out.
        numbers: The numbers now, by queue.
    """

    def __init__(self, report: Report, numbers: Callable[[], Mapping[str, int]]) -> None:
        self._report = report
        self._numbers = numbers
        self._reported: set[str] = set()

    async def report_forever(self) -> None:
        """Reports at once and then every few seconds, until cancelled."""
        while True:
            try:
                await self.report(self._numbers())
            except (StoreUnavailableError, StoreError) as error:
                # Only numbers for people: the next report will do.
                log.debug("No report: %s", error)
            await asyncio.sleep(REPORT_EVERY_S * random.uniform(0.75, 1.0))  # noqa: S311

    async def report(self, numbers: Mapping[str, int]) -> None:
        """Stores the numbers, and takes the process out of the queues that it has reported before and no longer has.

        Raises:
            StoreUnavailableError, StoreError
        """
        present = {queue: number for queue, number in numbers.items() if number}
        news = {**dict.fromkeys(self._reported, 0), **present}
        # Known before the store has answered: a report whose answer is lost must be taken back, too.
        self._reported |= present.keys()
        if news:
            await self._report(news, PRESENT_MS)
        self._reported = set(present)

    async def leave(self) -> None:
        """The process ends in order and is gone at once."""
        with contextlib.suppress(StoreUnavailableError, StoreError, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self.report({})
