"""What no caller asks for: sweeps of what time has changed, whose turn they are, and reports of who is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker import naming
from broker.store import scripts
from broker.store.commands import Sender

SWEEP_BATCH: Final = 200
"""Tasks a sweep script handles at most: some milliseconds of the server's time."""
QUEUE_KEPT_MS: Final = 3_600_000
"""How long a queue is known that has no open tasks, no workers and no held calls."""
PRESENCE_BATCH: Final = 500
"""Queues a presence report holds at most."""


class Housekeeping:
    """Every script that keeps the store in order.

    Args:
        link: The connection that they run on.
    """

    def __init__(self, link: Sender) -> None:
        self._link = link

    async def take_sweep_turn(self, sweeper: str, turn_ms: int) -> bool:
        """Whether this process sweeps now: one does per `turn_ms`, whichever asks first."""
        return await self._take_turn(naming.sweep_turn_key(), sweeper, turn_ms)

    async def take_upload_turn(self, cleaner: str, turn_ms: int) -> bool:
        """The same for files that no task needs any more."""
        return await self._take_turn(naming.upload_turn_key(), cleaner, turn_ms)

    async def _take_turn(self, key: str, asker: str, turn_ms: int) -> bool:
        return bool(await self._link.send(scripts.TAKE_TURN.command(key, asker, turn_ms, repeatable=True)))

    async def sweep_leases(self) -> int:
        """Requeues or fails tasks whose lease ran out; how many."""
        return await self._sweep(scripts.SWEEP_LEASES, naming.leases_key())

    async def sweep_delayed(self) -> int:
        """Makes due tasks claimable; how many."""
        return await self._sweep(scripts.SWEEP_DELAYED, naming.delayed_key())

    async def sweep_expired(self) -> int:
        """Expires open tasks whose time is over; how many."""
        return await self._sweep(scripts.SWEEP_EXPIRED, naming.expiring_key())

    async def sweep_retained(self, most_tasks: int, most_bytes: int) -> int:
        """Forgets ended tasks whose retention is over, and the oldest beyond the limits; how many."""
        return await self._sweep(scripts.SWEEP_RETAINED, naming.retained_key(), most_tasks, most_bytes)

    async def sweep_queues(self) -> int:
        """Forgets queues that nobody uses any more; how many were looked at."""
        return await self._sweep(scripts.SWEEP_QUEUES, naming.queues_key(), QUEUE_KEPT_MS)

    async def report_workers(self, worker: str, numbers: Mapping[str, int], ttl_ms: int) -> None:
        """Says for which queues a worker is there, for `ttl_ms`; 0 takes it out."""
        await self._report(worker, "1", numbers, ttl_ms)

    async def report_waiters(self, process: str, numbers: Mapping[str, int], ttl_ms: int) -> None:
        """Says how many calls a process holds for tasks of which queues, for `ttl_ms`; 0 takes it out."""
        await self._report(process, "", numbers, ttl_ms)

    async def _report(self, process: str, kind: str, numbers: Mapping[str, int], ttl_ms: int) -> None:
        pairs = list(numbers.items())
        for start in range(0, len(pairs), PRESENCE_BATCH):
            words = [word for pair in pairs[start : start + PRESENCE_BATCH] for word in pair]
            command = scripts.REPORT_PRESENCE.command(
                naming.queues_key(), process, ttl_ms, kind, *words, repeatable=True
            )
            await self._link.send(command)

    async def _sweep(self, script: scripts.Script, key: str, *arguments: int) -> int:
        return int(await self._link.send(script.command(key, *arguments, SWEEP_BATCH, repeatable=True)))
