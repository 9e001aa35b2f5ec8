"""Tasks that run beside the main path: referenced while they run, heard when they fail, gone when their owner is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

log = logging.getLogger("broker")

BEGIN_ANEW_S: Final = 1.0


class Background:
    """The background tasks of one owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Starts `work`; an exception that escapes it is logged, since nobody awaits it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
        """Starts work that must not stop; when a defect ends it, the defect is logged and the work begun anew."""
        return self.spawn(_kept(work, name), name)

    async def finish(self, timeout: float) -> None:
        """Returns once none is left, those that began meanwhile included, or after `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """Ends all of them and waits until they are gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("The background task %s failed.", task.get_name(), exc_info=error)


async def _kept(work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    while True:
        try:
            await work()
            return
        except Exception:
            log.exception("The background task %s failed; it begins anew.", name)
        await asyncio.sleep(BEGIN_ANEW_S)
