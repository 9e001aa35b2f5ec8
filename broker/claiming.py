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

from broker import naming
from broker.background import Background
from broker.capacity import Capacity
from broker.deadlines import MOST_S, Deadlines
from broker.deferred import DeferredResult
from broker.errors import (
    LeaseLostError,
    StoreError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskNotFoundError,
)
from broker.requests import Claim, milliseconds
from broker.response_hub import ResponseHub
from broker.store.queries import Queries
from broker.store.transitions import Claimed, ClaimWish, Transitions
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


class Bell:
    """A queue that claims wait for here: who they are, and which of them the next ring wakes."""

    __slots__ = ("claims", "idle", "idle_since", "may_hold_more", "name", "queue")

    def __init__(self, queue: str, now: float) -> None:
        self.queue = queue
        self.name = naming.request_pattern(queue).encode()
        self.claims = 0
        # In the order in which they came to rest.
        self.idle: dict[WaitingClaim, None] = {}
        self.may_hold_more = False
        self.idle_since = now

    def take(self, _message: bytes) -> None:
        """A request was published; what it says is only that it is time to ask."""
        self.ring()

    def ring(self) -> None:
        """The queue may hold work: one claim asks for it. One that is asking just now asks again."""
        self.may_hold_more = True
        claim = next(iter(self.idle), None)
        if claim is not None:
            claim.wake()


class WaitingClaim:
    """One claim that is held."""

    __slots__ = ("_rest", "bells", "owes_question", "wish")

    def __init__(self, wish: Claim, bells: list[Bell]) -> None:
        self.wish = wish
        self.bells = bells
        self.owes_question = True
        self._rest: DeferredResult[bool] | None = None

    @property
    def was_rung(self) -> bool:
        """Whether a bell rang, perhaps too late for the last question."""
        return any(bell.may_hold_more for bell in self.bells)

    def begin_question(self) -> None:
        """What has rung so far is answered by this question."""
        for bell in self.bells:
            bell.may_hold_more = False

    async def rest(self, seconds: float, deadlines: Deadlines) -> bool:
        """Whether a bell has rung within `seconds`."""
        self._rest = DeferredResult(seconds, deadlines)
        for bell in self.bells:
            bell.idle[self] = None
        try:
            return await self._rest.wait() is not None
        finally:
            self._rest.abandon()
            self._leave_idle()

    def wake(self) -> None:
        """A bell has rung for it: no other ring is for it until it has asked."""
        if self._rest is not None and self._rest.set_result(True):
            self.owes_question = True
            self._leave_idle()

    def expire(self) -> None:
        """Its time is over, for whatever reason."""
        if self._rest is not None:
            self._rest.expire()

    def pass_on(self) -> None:
        """What it was woken for is for another one."""
        for bell in self.bells:
            bell.ring()

    def _leave_idle(self) -> None:
        for bell in self.bells:
            bell.idle.pop(self, None)


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
        capacity.count(lambda: len(self._waiting))
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
        self._subscriptions.on_recovered(self._listen_to_all)

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

    def give_back_soon(self, claimed: Iterable[Claimed]) -> None:
        """Returns tasks whose claimer never heard of them."""
        for task in claimed:
            self._returns.spawn(self._give_back(task), f"return of task {task.uuid}")

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
        return await self._transitions.claim(self._name, lease_ms, wishes, most=wish.most, wants_documents=True)

    def _give_back_later(self, asking: asyncio.Future[list[Claimed]]) -> None:
        self._unheard.add(asking)
        asking.add_done_callback(self._take_unheard)

    def _take_unheard(self, asking: asyncio.Future[list[Claimed]]) -> None:
        self._unheard.discard(asking)
        if not asking.cancelled() and asking.exception() is None:
            self.give_back_soon(asking.result())

    async def _give_back(self, task: Claimed) -> None:
        ends = self._deadlines.loop.time() + self._lease_s
        while self._deadlines.loop.time() < ends:
            try:
                await self._transitions.give_back(task.uuid, task.lease)
            except (TaskAlreadyFinalError, LeaseLostError, TaskNotFoundError):
                # Somebody ended it, or an attempt to give it back that seemed to fail did not.
                return
            except (StoreUnavailableError, StoreError) as error:
                log.warning("Task %s waits to be given back: %s", task.uuid, error)
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
        return claim

    def _leave(self, claim: WaitingClaim) -> None:
        self._waiting.discard(claim)
        for bell in claim.bells:
            bell.claims -= 1
            bell.idle_since = self._deadlines.loop.time()

    def _bell(self, queue: str) -> Bell:
        bell = self._bells.get(queue)
        if bell is None:
            bell = self._bells[queue] = Bell(queue, self._deadlines.loop.time())
            if len(self._bells) <= MOST_BELLS:
                self._background.spawn(self._listen([bell]), f"listening to {queue}")
        return bell

    async def _listen(self, bells: list[Bell]) -> None:
        """Hears their rings from now on; what was published before is asked for. Until then, the timer rings."""
        try:
            allowed = await self._queries.may_hear([bell.name.decode() for bell in bells])
            heard = [bell for bell, may_hear in zip(bells, allowed, strict=True) if may_hear and self._is_known(bell)]
            for bell in heard:
                self._subscriptions.join_pattern(bell)
            await self._subscriptions.confirm()
        except (StoreUnavailableError, StoreError) as error:
            log.warning("Requests are not heard yet (%s); claims ask by the timer until they are.", error)
            return
        if not all(allowed):
            self._warn_once(bells[allowed.index(False)])
        for bell in heard:
            bell.ring()

    async def _listen_to_all(self) -> None:
        bells = list(self._bells.values())[:MOST_BELLS]
        if bells:
            await self._listen(bells)

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
        """Rings for lost bells, and lets go of those that nobody waits for."""
        while True:
            await asyncio.sleep(ASK_EVERY_S * random.uniform(0.75, 1.0))  # noqa: S311
            left_before = self._deadlines.loop.time() - LEAVE_AFTER_S
            for bell in list(self._bells.values()):
                if bell.claims:
                    bell.ring()
                elif bell.idle_since < left_before:
                    del self._bells[bell.queue]
                    self._subscriptions.leave_pattern(bell)
