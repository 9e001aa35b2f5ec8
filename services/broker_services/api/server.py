"""uvicorn's server with a SIGTERM that answers the held calls first."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn

KEEP_ALIVE_S: Final = 75
"""Longer than the 60 s for which load balancers reuse a connection; a shorter one makes them answer 502 at times."""
BACKLOG: Final = 4_096


class DrainingServer(uvicorn.Server):
    """Answers the held calls before it waits for their connections, and exits 0 after a signal.

    Args:
        config: uvicorn's.
        on_drain: Called once, when the first signal has come.
    """

    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_drain = on_drain

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        self._on_drain()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises the signal again when it is done, which would make an orderly end look like a kill."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._take_signal)
        yield

    def _take_signal(self) -> None:
        # A second signal means now.
        self.force_exit = self.should_exit
        self.should_exit = True
