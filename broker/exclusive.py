"""Exclusive calls: whoever makes one is the only one who waits for the task, or is refused before anything happened.

Only these calls pay for it. Others may join an exclusive one later.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from broker.background import Background
from broker.deadlines import MOST_S
from broker.errors import StoreUnavailableError, WaiterExistsError
from broker.holding import Holding, answered_by
from broker.randomness import new_secret
from broker.requests import NewTask
from broker.response_hub import ResponseHub
from broker.store.exclusive_waits import read_taken, release_command, take_command
from broker.store.queries import StoredTask

REFUSE_AFTER_S: Final = 1.5
"""How long others are asked again before a call is refused. Elsewhere a subscription goes up to 1.25 s after its last
waiter, and a caller who has hung up and calls again, as a reloaded page does, is noticed within half a second."""
ASK_AGAIN_S: Final = 0.15
LEAST_WAIT_S: Final = 0.001
"""For a caller whose time went by while it was let in: it is told how the task stands."""


class ExclusiveHolding:
    """Creates as `Holding` does, for callers who want to be the only one who waits.

    Args:
        holding: Holds those who are let in.
        hub: This process's subscriptions.
    """

    def __init__(self, holding: Holding, hub: ResponseHub) -> None:
        self._holding = holding
        self._hub = hub
        self._background = Background()

    async def close(self) -> None:
        """Ends what runs beside the calls."""
        await self._background.cancel()

    async def create(self, new: NewTask, wait_s: float) -> StoredTask:
        """Creates a task, or attaches, and holds; see `Holding.create`.

        A task that has ended is nobody's to wait for: its outcome is answered. With `wait_s` 0 the call is refused like
        any other, but keeps nobody out.

        Raises:
            WaiterExistsError: Somebody waits for the task already; nothing was created or changed.
        """
        ends = self._hub.deadlines.loop.time() + min(wait_s, MOST_S)
        taking = _Taking(self._hub, new, will_wait=wait_s > 0)
        try:
            await taking.take(ends)
            left_s = ends - self._hub.deadlines.loop.time()
            return await self._holding.create(new, max(left_s, LEAST_WAIT_S) if wait_s > 0 else 0)
        finally:
            if taking.may_have_marked:
                self._background.spawn(taking.release(), "release of an exclusive wait")


class _Taking:
    """One caller's way in."""

    def __init__(self, hub: ResponseHub, new: NewTask, *, will_wait: bool) -> None:
        self._hub = hub
        self._new = new
        self._who = new_secret()
        self._will_wait = will_wait
        self._uuid = new.uuid
        self.may_have_marked = False

    async def take(self, ends: float) -> None:
        """Returns when nobody else waits. Raises WaiterExistsError, StoreUnavailableError."""
        refuse_at = self._now() + REFUSE_AFTER_S
        while not await self._is_free(ends):
            if self._now() >= refuse_at:
                raise WaiterExistsError(self._uuid)
            await asyncio.sleep(ASK_AGAIN_S)

    async def release(self) -> None:
        """Takes the markers away; without Redis they go by themselves."""
        with contextlib.suppress(StoreUnavailableError):
            await self._hub.ask(release_command(self._uuid, self._new.idempotency, self._who))

    async def _is_free(self, ends: float) -> bool:
        # What lingers here is known to be nobody's; what still counts after this belongs to somebody, or lingers there.
        self._hub.leave_idle(self._new.queue, self._uuid)
        self.may_have_marked = self._will_wait
        command = take_command(self._new, self._who, will_wait=self._will_wait)
        is_free, self._uuid = read_taken(await answered_by(max(ends, self._now()), self._hub.ask(command)))
        return is_free

    def _now(self) -> float:
        return self._hub.deadlines.loop.time()
