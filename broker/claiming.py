"""Claims of callers that have no connection to Redis: held here until a queue of theirs has work.

A claim asks at once. When there is nothing, it rests until the doorbell of one of its queues rings here: a ring wakes
one claim, the one that has rested longest, and one that got all it asked for wakes the next, since there may be more.
So a thousand claims that wait for a queue cost Redis one question a ring. A slow timer rings, too, for lost bells.

What was claimed for a caller that is gone before it was told goes back at once, and does not count as an attempt.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from typing import Final

from broker.background import Background
from broker.bells import Bell, WaitingClaim
from broker.capacity import Capacity
from broker.deadlines import MOST_S
from broker.errors import (
    LeaseLostError,
    StoreError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskNotFoundError,
)
from broker.requests import Claim, Release, milliseconds
from broker.response_hub import ResponseHub
from broker.store.claims import Claimed, ClaimWish
from broker.store.queries import Queries
from broker.store.transitions import Transitions
from broker.subscriptions import LEAVE_AFTER_S

log = logging.getLogger("broker.claiming")

ASK_EVERY_S: Final = 1.0
"""How often one claim of each queue asks unrung: what a lost doorbell costs at most."""
LAST_LOOK_S: Final = 0.5
"""How long a claim whose wait is over waits for the store's answer."""
MOST_BELLS: Final = 256
"""Queues whose doorbells are heard here; claims of others ask by the timer alone. Each PUBLISH on the server is
compared with all patterns that anybody listens to: 256 cost some 15 µs."""
GIVE_BACK_AGAIN_S: Final = 0.5
FAREWELL_S: Final = 1.0
"""How long a process that ends tries to give back what nobody was told of."""


class Claiming:
    """The claims of one process.

    Args:
        hub: Its subscriptions and its clock.
        transitions: Claims and gives back.
        queries: Asks for the right to hear a queue's requests.
        capacity: How many calls this process may hold.
        lease_s: How long a claim is its caller's.
        name: This process.
    """

    def __init__(
        self,
        hub: ResponseHub,
        transitions: Transitions,
        queries: Queries,
        capacity: Capacity,
        *,
        lease_s: float,
        name: str,
    ) -> None:
        self._hub = hub
        self._subscriptions = hub.subscriptions
        self._deadlines = hub.deadlines
        self._transitions = transitions
        self._queries = queries
        self._capacity = capacity
        self._lease_s = lease_s
        self._name = name
        self._bells: dict[str, Bell] = {}
        self._waiting: set[WaitingClaim] = set()
        self._unheard: set[asyncio.Future[list[Claimed]]] = set()
        self._background = Background()
        self._returns = Background()
        self._is_ending = False
        self._has_warned = False
        self.returned = 0
        self._subscriptions.on_recovered(self._listen_anew)

    @property
    def waiting(self) -> int:
        """Claims held now."""
        return len(self._waiting)

    @property
    def waiting_by_queue(self) -> Mapping[str, int]:
        """The same by queue; one of several queues counts for each."""
        return {bell.queue: bell.claims for bell in self._bells.values() if bell.claims}

    def start(self) -> None:
        """Begins to ask unrung now and then."""
        self._background.keep(self._ring_forever, "slow asking")

    def end_all(self) -> None:
        """Ends every held claim as if its time were over, and those that still come: this process claims no more."""
        self._is_ending = True
        for claim in self._waiting:
            claim.expire()

    async def close(self) -> None:
        """Gives back what nobody was told of, and ends what runs beside the claims."""
        self.end_all()
        for bell in self._bells.values():
            bell.alarm.cancel()
        await self._background.cancel()
        if self._unheard:
            await asyncio.wait(self._unheard, timeout=FAREWELL_S)
        await self._returns.finish(FAREWELL_S)
        await self._returns.cancel()

    async def claim(self, wish: Claim, wait_s: float) -> list[Claimed]:
        """Takes tasks, waiting until there are some or the wait is over.

        Raises:
            TooManyWaitersError: No more calls are held here.
            StoreUnavailableError
        """
        if self._is_ending:
            return []
        if wait_s <= 0:
            return await self._ask(wish, None)
        self._capacity.refuse_beyond()
        # uvloop has no timer that never ends.
        ends = self._deadlines.loop.time() + min(wait_s, MOST_S)
        claim = self._enter(wish)
        try:
            return await self._hold(claim, ends)
        except asyncio.CancelledError:
            if claim.owes_question:
                claim.pass_on()
            raise
        finally:
            self._leave(claim)

    def give_back_soon(self, unheard: Iterable[Release]) -> None:
        """Returns tasks whose claimer never heard of them; see `unharmed`."""
        for release in unheard:
            self._returns.spawn(self._give_back(release), f"return of task {release.uuid}")

    # Asking

    async def _hold(self, claim: WaitingClaim, ends: float) -> list[Claimed]:
        while True:
            claim.begin_question()
            found = await self._ask(claim.wish, ends + LAST_LOOK_S)
            claim.owes_question = False
            if len(found) == claim.wish.most:
                claim.pass_on()
            if found or self._is_ending:
                return found
            if not claim.was_rung and not await claim.rest(ends - self._deadlines.loop.time(), self._deadlines):
                return []

    async def _ask(self, wish: Claim, give_up_at: float | None) -> list[Claimed]:
        """One question. What it takes for a caller that has left meanwhile, or waits no longer, goes back."""
        asking = asyncio.ensure_future(self._take(wish))
        try:
            async with asyncio.timeout_at(give_up_at):
                return await asyncio.shield(asking)
        except TimeoutError:
            self._give_back_later(asking)
            raise StoreUnavailableError("Redis did not answer by the end of the wait.", may_have_run=True) from None
        except asyncio.CancelledError:
            self._give_back_later(asking)
            raise

    async def _take(self, wish: Claim) -> list[Claimed]:
        wishes = [ClaimWish(queue, wish.most) for queue in wish.queues]
        lease_ms = milliseconds(self._lease_s)
        claims = await self._transitions.claim(self._name, lease_ms, wishes, most=wish.most, wants_documents=True)
        for queue, ms in claims.again_ms.items():
            self._ring_later(queue, ms)
        return claims.tasks

    def _give_back_later(self, asking: asyncio.Future[list[Claimed]]) -> None:
        self._unheard.add(asking)
        asking.add_done_callback(self._take_unheard)

    def _take_unheard(self, asking: asyncio.Future[list[Claimed]]) -> None:
        self._unheard.discard(asking)
        if not asking.cancelled() and asking.exception() is None:
            self.give_back_soon(unharmed(asking.result()))

    async def _give_back(self, release: Release) -> None:
        ends = self._deadlines.loop.time() + self._lease_s
        while self._deadlines.loop.time() < ends:
            try:
                await self._transitions.give_back(release.uuid, release.lease)
            except (TaskAlreadyFinalError, LeaseLostError, TaskNotFoundError):
                # Somebody ended it, or an attempt to give it back that seemed to fail did not.
                return
            except (StoreUnavailableError, StoreError) as error:
                log.warning("Task %s waits to be given back: %s", release.uuid, error)
                await asyncio.sleep(GIVE_BACK_AGAIN_S)
            else:
                self.returned += 1
                return

    # Bells

    def _enter(self, wish: Claim) -> WaitingClaim:
        claim = WaitingClaim(wish, [self._bell(queue) for queue in wish.queues])
        for bell in claim.bells:
            bell.claims += 1
        self._waiting.add(claim)
        self._capacity.held += 1
        return claim

    def _leave(self, claim: WaitingClaim) -> None:
        self._waiting.discard(claim)
        self._capacity.held -= 1
        for bell in claim.bells:
            bell.claims -= 1
            bell.idle_since = self._deadlines.loop.time()

    def _bell(self, queue: str) -> Bell:
        bell = self._bells.get(queue)
        if bell is None:
            bell = self._bells[queue] = Bell(queue, self._deadlines.loop.time())
            self._background.spawn(self._listen(), "listening")
        return bell

    async def _listen(self) -> None:
        """Hears all bells from now on, and asks for what was published before. Until then, the timer rings."""
        room = MOST_BELLS - sum(bell.is_heard for bell in self._bells.values())
        bells = [bell for bell in self._bells.values() if not bell.is_heard][:room]
        if not bells:
            return
        try:
            allowed = await self._queries.may_hear([bell.name.decode() for bell in bells])
            heard = [bell for bell, may_hear in zip(bells, allowed, strict=True) if may_hear and self._is_known(bell)]
            for bell in heard:
                bell.is_heard = True
                self._subscriptions.join_pattern(bell)
            await self._subscriptions.confirm()
        except (StoreUnavailableError, StoreError) as error:
            log.warning("Requests are not heard yet (%s); claims ask by the timer until they are.", error)
            return
        if not all(allowed):
            self._warn_once(bells[allowed.index(False)])
        for bell in heard:
            bell.ring()

    async def _listen_anew(self) -> None:
        for bell in self._bells.values():
            bell.is_heard = False
        await self._listen()

    def _ring_later(self, queue: str, ms: int) -> None:
        """A rate held tasks back: whoever waits for them asks when it lets the next one start."""
        bell = self._bells.get(queue)
        if bell is not None:
            bell.alarm.set(ms / 1_000)

    def _is_known(self, bell: Bell) -> bool:
        return self._bells.get(bell.queue) is bell

    def _warn_once(self, bell: Bell) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "This Redis user may not listen to %s, so claims ask each second instead: add the rule &%s, letter for "
                "letter, and one for each queue that is worked on over HTTP.",
                bell.name.decode(),
                bell.name.decode(),
            )

    async def _ring_forever(self) -> None:
        """Rings for lost bells, tries again to hear the unheard, and lets go of those that nobody needs."""
        while True:
            await asyncio.sleep(ASK_EVERY_S * random.uniform(0.75, 1.0))  # noqa: S311
            left_before = self._deadlines.loop.time() - LEAVE_AFTER_S
            for bell in list(self._bells.values()):
                if bell.claims:
                    bell.ring()
                elif bell.idle_since < left_before:
                    del self._bells[bell.queue]
                    bell.alarm.cancel()
                    self._subscriptions.leave_pattern(bell)
            await self._listen()


def unharmed(claimed: Iterable[Claimed]) -> list[Release]:
    """What gives these tasks back, without their payloads: it is kept for as long as an answer may be lost."""
    return [Release(uuid=task.uuid, lease=task.lease) for task in claimed]
