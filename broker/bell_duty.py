"""Who of a queue's workers hears its doorbell: one, so that a ring costs the same with one worker and with a thousand.

The others are parked on a blocking pop. The listener that has no place for more passes the bell on, which wakes the one
that has been parked longest; whoever gets all that it asked for, and has no place left, passes it on again. A listener
keeps its duty by asking for it twice a second; when it goes, it wakes its successor, and when it dies, another one
takes over when the duty runs out. Until then, as for any lost bell, one worker of the queue asks unrung every half
second.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Sequence
from typing import Final

from broker.background import Background
from broker.errors import StoreError, StoreUnavailableError
from broker.request_bell import RequestBell
from broker.store.duties import Duties

log = logging.getLogger("broker.worker")

ROUND_S: Final = 0.5
"""How often a worker asks for its duties, and how long it is parked at a time."""
TURN_MS: Final = 450
"""In which time one worker of a queue asks unrung: a lost bell or listener costs this and a round, under a second."""
HELD_MS: Final = 2_000
"""How long a duty outlives its last round: several rounds, so that a slow moment moves nothing."""
FAREWELL_S: Final = 0.5


class BellDuty:
    """One worker's part.

    Args:
        duties: The store's.
        bell: The worker's ear.
        worker: Its name.
        queues: Its queues.
        has_place: Whether it could take a task of a queue now.
        on_ring: Called with a queue for which it was woken.
        on_turn: Called with a queue that it is to ask unrung.
    """

    def __init__(
        self,
        duties: Duties,
        bell: RequestBell,
        *,
        worker: str,
        queues: Sequence[str],
        has_place: Callable[[str], bool],
        on_ring: Callable[[str], None],
        on_turn: Callable[[str], None],
    ) -> None:
        self._duties = duties
        self._bell = bell
        self._worker = worker
        self._queues = queues
        self._has_place = has_place
        self._on_ring = on_ring
        self._on_turn = on_turn
        self._listening: Collection[str] = ()
        self._shared: Collection[str] = ()
        self._passing: set[str] = set()
        self._background = Background()

    def listens(self, queue: str) -> bool:
        """Whether this worker hears the queue's doorbell."""
        return queue in self._listening

    async def run_forever(self) -> None:
        """Takes the duties that are free, and is parked for the others, until cancelled."""
        while True:
            try:
                await self._take()
                await self._park()
            except StoreUnavailableError as error:
                log.warning("No doorbell for now: %s", error)
                await asyncio.sleep(ROUND_S)
            except StoreError as error:
                # A user who may not do this may still listen: as every worker would, if there was only one.
                log.warning("Listening to every queue, since duties cannot be shared: %s", error)
                self._listen_to(self._queues)
                for queue in self._queues:
                    self._on_turn(queue)
                await asyncio.sleep(ROUND_S)

    def pass_on(self, queue: str) -> None:
        """There may be work for which this worker has no place: another one is woken, if there is one."""
        if queue in self._shared and queue not in self._passing:
            self._passing.add(queue)
            self._background.spawn(self._pass_on(queue), "passing a bell on")

    async def leave(self) -> None:
        """Hands the duties on."""
        await self._background.cancel()
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._duties.leave(self._worker, self._queues)
        except (TimeoutError, StoreUnavailableError, StoreError) as error:
            log.info("The duties of this worker run out by themselves: %s", error)

    async def _take(self) -> None:
        duties = await self._duties.take(self._worker, self._queues, held_ms=HELD_MS, turn_ms=TURN_MS)
        self._shared = {duty.queue for duty in duties if duty.workers > 1 or not duty.listens}
        self._listen_to([duty.queue for duty in duties if duty.listens])
        for duty in duties:
            if duty.asks_now:
                self._on_turn(duty.queue)

    def _listen_to(self, queues: Collection[str]) -> None:
        self._listening = queues
        self._bell.hear(queues)

    async def _park(self) -> None:
        seconds = ROUND_S * random.uniform(0.75, 1.0)  # noqa: S311
        parked = [queue for queue in self._queues if queue not in self._listening and self._has_place(queue)]
        if not parked:
            await asyncio.sleep(seconds)
            return
        queue = await self._bell.park(parked, seconds)
        if queue is not None:
            self._on_ring(queue)

    async def _pass_on(self, queue: str) -> None:
        try:
            await self._duties.pass_on(queue)
        except (StoreUnavailableError, StoreError) as error:
            log.warning("A bell could not be passed on: %s", error)
        finally:
            self._passing.discard(queue)
