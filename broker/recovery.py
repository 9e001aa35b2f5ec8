"""What time alone changes: lost leases, due delays, expiry, retention. Every process sweeps; one does at a time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from broker.errors import StoreError, StoreUnavailableError
from broker.settings import Settings
from broker.store.housekeeping import SWEEP_BATCH, Housekeeping

log = logging.getLogger("broker.recovery")

SWEEP_EVERY_S: Final = 0.4
"""A due task becomes claimable within a second, whoever sweeps."""
TURN_MS: Final = 300
MOST_ROUNDS: Final = 50
"""Batches per turn, so that a great backlog of due work leaves the server time for others."""


class Recovery:
    """One process's share of the sweeping.

    Args:
        housekeeping: The scripts.
        settings: Limits of what is kept.
        sweeper: This process, shown as the holder of the turn.
    """

    def __init__(self, housekeeping: Housekeeping, settings: Settings, sweeper: str) -> None:
        self._housekeeping = housekeeping
        self._most_finished = settings.finished_max
        self._most_finished_bytes = settings.finished_max_mb * 2**20
        self._sweeper = sweeper

    async def run_forever(self) -> None:
        """Sweeps whenever it is this process's turn, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S * random.uniform(0.75, 1.25))  # noqa: S311
            try:
                if await self._housekeeping.take_sweep_turn(self._sweeper, TURN_MS):
                    await self.sweep()
            except (StoreUnavailableError, StoreError) as error:
                # Sweeping has no caller to tell, and nothing is lost by sweeping later.
                log.warning("No sweep: %s", error)

    async def sweep(self) -> None:
        """Each sweep once, and again while a full batch says that more is due; one that fails holds up no other."""
        for sweep in (
            self._housekeeping.sweep_leases,
            self._housekeeping.sweep_delayed,
            self._housekeeping.sweep_expired,
            self._forget_ended,
            self._housekeeping.sweep_queues,
        ):
            try:
                await _repeat(sweep)
            except StoreError as error:
                log.error("A sweep failed: %s", error)  # noqa: TRY400

    async def _forget_ended(self) -> int:
        return await self._housekeeping.sweep_retained(self._most_finished, self._most_finished_bytes)


async def _repeat(sweep: Callable[[], Awaitable[int]]) -> None:
    for _ in range(MOST_ROUNDS):
        if await sweep() < SWEEP_BATCH:
            return
