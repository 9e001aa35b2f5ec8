"""Whether messages really arrive: a process publishes to itself by the normal path and listens for it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from broker.errors import StoreError, StoreUnavailableError
from broker.store.link import Link
from broker.store.queries import Queries

PROBE_EVERY_S: Final = 5.0
PROBE_DEADLINE_S: Final = 3.0


class Probe:
    """The probe of one subscription connection; a connection that answers PING but delivers nothing is dropped.

    Args:
        channel: Of this process alone.
        link: The subscription connection.
        queries: Publish, on another connection.
    """

    def __init__(self, channel: bytes, link: Link, queries: Queries) -> None:
        self.name = channel
        self._link = link
        self._queries = queries
        self._loop = asyncio.get_running_loop()
        self._is_live = False
        self._soon = asyncio.Event()
        self._heard = asyncio.Event()
        self._last_heard: float | None = None

    @property
    def is_delivering(self) -> bool:
        """Whether a message published now would arrive: connected, subscribed, and the last probe came through."""
        if not self._is_live or self._last_heard is None:
            return False
        return self._loop.time() - self._last_heard < PROBE_EVERY_S + PROBE_DEADLINE_S

    def begin(self) -> None:
        """The connection is subscribed: probed at once, since an instance that hears again should be ready again."""
        self._is_live = True
        self._soon.set()

    def forget(self) -> None:
        """The connection is gone."""
        self._is_live = False
        self._last_heard = None

    def take(self, _message: bytes) -> None:
        """A probe has come through."""
        self._last_heard = self._loop.time()
        self._heard.set()

    async def run_forever(self) -> None:
        """Probes every `PROBE_EVERY_S` seconds and after each `begin`, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_EVERY_S):
                    await self._soon.wait()
            self._soon.clear()
            if self._is_live:
                await self._probe()

    async def _probe(self) -> None:
        connection = self._link.connections_made
        self._heard.clear()
        try:
            await self._queries.publish(self.name.decode(), "probe")
            async with asyncio.timeout(PROBE_DEADLINE_S):
                await self._heard.wait()
        except TimeoutError:
            if connection == self._link.connections_made:
                self._link.drop("a message published to it did not arrive")
        except (StoreUnavailableError, StoreError):
            # The probe never left, which says nothing about the subscription.
            pass
