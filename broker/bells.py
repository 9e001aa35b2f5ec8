"""The doorbells of queues that claims wait for, and which claim a ring wakes. Pure: `claiming` listens and asks."""

from __future__ import annotations

from broker import naming
from broker.alarm import Alarm
from broker.deadlines import Deadlines
from broker.deferred import DeferredResult
from broker.requests import Claim


class Bell:
    """A queue that claims wait for here: who they are, and which of them the next ring wakes."""

    __slots__ = ("alarm", "claims", "idle", "idle_since", "is_heard", "may_hold_more", "name", "queue")

    def __init__(self, queue: str, now: float) -> None:
        self.queue = queue
        self.name = naming.request_pattern(queue).encode()
        self.claims = 0
        # In the order in which they came to rest.
        self.idle: dict[WaitingClaim, None] = {}
        self.may_hold_more = False
        self.is_heard = False
        self.idle_since = now
        self.alarm = Alarm(self.ring)

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
