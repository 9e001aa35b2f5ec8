"""Which worker of a queue listens to its doorbell, and how the parked ones are woken."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from broker import naming
from broker.store import scripts
from broker.store.commands import Command, Sender


class Duty(msgspec.Struct, frozen=True):
    """One worker's part in hearing of one queue's work; `workers`: how many workers the queue is known to have."""

    queue: str
    listens: bool
    asks_now: bool
    workers: int


class Duties:
    """The duties of all queues.

    Args:
        link: The connection that the scripts run on.
    """

    def __init__(self, link: Sender) -> None:
        self._link = link

    async def take(self, worker: str, queues: Sequence[str], *, held_ms: int, turn_ms: int) -> list[Duty]:
        """Takes or keeps each duty that is free.

        Args:
            worker: Who asks.
            queues: Its queues.
            held_ms: How long a duty is the worker's, in milliseconds, unless it asks again.
            turn_ms: In how many milliseconds one worker of a queue, whichever, is told to ask unrung.
        """
        reply = await self._link.send(
            scripts.TAKE_DUTIES.command(naming.duty_key(queues[0]), worker, held_ms, turn_ms, *queues, repeatable=True)
        )
        return [
            Duty(queue, bool(listens), bool(asks), workers)
            for queue, (listens, asks, workers) in zip(queues, reply, strict=True)
        ]

    async def leave(self, worker: str, queues: Sequence[str]) -> None:
        """Gives the worker's duties to others."""
        command = scripts.LEAVE_DUTIES.command(naming.duty_key(queues[0]), worker, *queues, repeatable=True)
        await self._link.send(command)

    async def pass_on(self, queue: str) -> None:
        """Wakes a parked worker of the queue."""
        await self._link.send(scripts.PASS_BELL.command(naming.wake_key(queue), queue, repeatable=True))


def parking(queues: Sequence[str], seconds: float) -> Command:
    """Waits to be woken for one of `queues`; on a connection for which nobody else waits meanwhile."""
    # A token whose reply is lost costs what a lost bell costs.
    return Command(("BLPOP", *(naming.wake_key(queue) for queue in queues), seconds))
