"""Says when what a server has answered so far is on enough replicas that a failover cannot forget it.

`WAIT` speaks for what its own connection has written, and delays all that follows on it. So a connection apart writes
a fence after the reply that is to be told, and waits for that: replication keeps the order, and whoever has the fence
has all that came before it. One fence stands for every reply that was seen before it was written.

A fence counts only on the very server that gave the reply: after a failover, or a restart that lost its last writes,
another server confirms gladly what it never had. Connections therefore know the identity of their server.

The fence is a PUBLISH on a channel that nobody hears: it is replicated like a write, but takes no memory, which a full
server would refuse, and no flush to disk. (A PING would do for Redis; Valkey waits for real writes only.)
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from broker import naming
from broker.errors import StoreError, StoreUnavailableError
from broker.store.commands import Awaited, Command, Receiver, Reply
from broker.store.link import Link
from broker.store.replicas import Replicas
from broker.store.topology import Topology

log = logging.getLogger("broker.store")

CONFIRM_DEADLINE_S: Final = 4.0
"""How long a command may take with its confirmation before a caller is told that replicas don't confirm."""
LEAST_S: Final = 0.5
"""How long replicas have at least, though the reply itself came late."""
WAIT_MS: Final = 500
"""How long one WAIT takes at most: shorter than a link lets a server owe a reply."""
LOOK_EVERY_S: Final = 0.4
"""How often the server is asked which replicas it has, while there is anything to confirm: more often than a WAIT may
take, so that a replica counts only if it is fast enough to confirm."""
CHECK_EVERY_S: Final = 0.25
MOST_WAITING: Final = 65_536
"""Replies that may wait to be confirmed; beyond it callers are refused at once."""

_FENCE: Final = Command(("PUBLISH", naming.fence_channel(), ""))
_LOOK: Final = Command(("INFO", "replication"))


class UnconfirmedError(StoreUnavailableError):
    """The command has run, but not enough replicas say that they have it. `reply`: what it answered."""

    def __init__(self, message: str, reply: Reply) -> None:
        super().__init__(message, may_have_run=True)
        self.reply = reply


class _Ticket:
    """A reply that may be told once it is confirmed; before that, the receiver that the link gives it to."""

    __slots__ = ("_fence", "_link", "_receiver", "_reply", "asked_at", "deadline", "identity")

    identity: bytes
    deadline: float

    def __init__(self, fence: Fence, link: Link, receiver: Receiver, asked_at: float) -> None:
        self._fence = fence
        self._link = link
        self._receiver = receiver
        self.asked_at = asked_at

    @property
    def is_abandoned(self) -> bool:
        return self._receiver.is_abandoned

    def succeed(self, reply: Reply) -> None:
        if not reply:
            # A claim that found nothing: there is nothing to tell.
            self._receiver.succeed(reply)
            return
        self._reply = reply
        self.identity = self._link.identity
        self._fence.queue(self)

    def fail(self, error: Exception) -> None:
        """An error is given at once: it tells no outcome."""
        self._receiver.fail(error)

    def tell(self) -> None:
        self._receiver.succeed(self._reply)

    def refuse(self, message: str) -> None:
        self._receiver.fail(UnconfirmedError(message, self._reply))


class _Round:
    """One fence on its way, with the replies that it stands for. The receiver of its WAIT."""

    is_abandoned = False

    def __init__(self, fence: Fence, identity: bytes, tickets: list[_Ticket], began: float) -> None:
        self._fence = fence
        self.identity = identity
        self.tickets = tickets
        self.began = began

    def succeed(self, reply: Reply) -> None:
        """So many replicas have it."""
        self._fence.take_round(self, int(reply))

    def fail(self, error: Exception) -> None:
        """The connection was lost, or the server refuses."""
        self._fence.lose_round(error)


class _Nobody:
    """The receiver of a reply that says nothing."""

    is_abandoned = False

    def succeed(self, reply: Reply) -> None:
        """Published."""

    def fail(self, error: Exception) -> None:
        """The WAIT behind it fails, too."""


class _Look:
    """The receiver of INFO."""

    is_abandoned = False

    def __init__(self, replicas: Replicas, now: float) -> None:
        self._replicas = replicas
        self._now = now

    def succeed(self, reply: Reply) -> None:
        """The master's replicas."""
        self._replicas.look(reply, self._now)

    def fail(self, error: Exception) -> None:
        """Another look will do."""


class Fence:
    """The confirmations of one process.

    Args:
        topology: Where the master is.
        name: For CLIENT LIST.
        replicas: How many replicas have to confirm.
    """

    def __init__(self, topology: Topology, *, name: str, replicas: int) -> None:
        self._least = replicas
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Ticket] = deque()
        self._round: _Round | None = None
        self._is_due = False
        self._is_closed = False
        self._replicas = Replicas(replicas)
        self._identity = b""
        self._looked_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._on_restored: list[Callable[[], None]] = []
        self.is_failing = False
        self.link = Link(topology, name=name, identifies=True, on_connected=self._begin_soon)

    async def open(self) -> None:
        """Connects. Raises StoreUnavailableError or ConfigurationError."""
        await self.link.open()

    async def close(self) -> None:
        """Disconnects; what is still unconfirmed fails."""
        self._is_closed = True
        await self.link.close()
        self._expire(float("inf"))
        if self._timer is not None:
            self._timer.cancel()

    def on_restored(self, callback: Callable[[], None]) -> None:
        """Has `callback` called when replicas confirm again after they did not."""
        self._on_restored.append(callback)

    def hand(self, link: Link, receiver: Receiver, reply: Reply) -> None:
        """Gives what `link` has just heard to its receiver, once it is confirmed and in the order of the calls.

        Args:
            link: One that knows the identity of its server.
            receiver: Told of it, or by an UnconfirmedError that it must not be told.
            reply: What to give.
        """
        _Ticket(self, link, receiver, self._loop.time()).succeed(reply)

    def queue(self, ticket: _Ticket) -> None:
        """Has a reply confirmed by the next round."""
        if self._is_closed or len(self._waiting) >= MOST_WAITING:
            self._refuse([ticket])
            return
        ticket.deadline = max(ticket.asked_at + CONFIRM_DEADLINE_S, self._loop.time() + LEAST_S)
        self._waiting.append(ticket)
        if self._round is None:
            self._begin_soon()
        if self._timer is None:
            self._timer = self._loop.call_later(CHECK_EVERY_S, self._check)

    # Rounds

    def _begin_soon(self) -> None:
        # At the end of the tick: one fence for all replies that came in it.
        # While replicas don't confirm they are asked on, so that who was kept from hearing of something hears of it.
        if self._round is None and not self._is_due and (self._waiting or self.is_failing):
            self._is_due = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._is_due = False
        identity = self.link.identity
        if not identity or self._round is not None:
            return
        # Replies of another server wait for the connection to go there, or in vain.
        tickets = [ticket for ticket in self._waiting if ticket.identity == identity]
        if not tickets and not self.is_failing:
            return
        self._waiting = deque(ticket for ticket in self._waiting if ticket.identity != identity)
        self._round = _Round(self, identity, tickets, self._loop.time())
        self._look(identity)
        self.link.hand(_FENCE, _Nobody())
        self.link.hand(Command(("WAIT", self._replicas.expected, WAIT_MS)), self._round)

    def _look(self, identity: bytes) -> None:
        now = self._loop.time()
        if identity != self._identity:
            self._identity = identity
            self._replicas = Replicas(self._least)
        elif now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        self.link.hand(_LOOK, _Look(self._replicas, now))

    def take_round(self, finished: _Round, count: int) -> None:
        """A WAIT was answered."""
        self._round = None
        now = self._loop.time()
        # The commands may have left by a newer connection than the one they were meant for.
        is_same = self.link.identity == finished.identity
        if is_same and self._replicas.judge(count, finished.began, self.link.master_seen_at):
            self._confirm(finished.tickets)
        else:
            self._waiting.extendleft(reversed(finished.tickets))
            self._expire(now)
        self._begin_soon()

    def lose_round(self, error: Exception) -> None:
        """A WAIT was not answered."""
        lost, self._round = self._round, None
        if lost is None:
            return
        if isinstance(error, StoreError) and not self.is_failing:
            log.error("Replicas cannot be asked to confirm (%s): `broker doctor` names what is missing.", error)
        # The server may be there again before their time is over, and the same still.
        self._waiting.extendleft(reversed(lost.tickets))

    def _confirm(self, tickets: list[_Ticket]) -> None:
        was_failing, self.is_failing = self.is_failing, False
        for ticket in tickets:
            ticket.tell()
        if was_failing:
            log.warning("Replicas confirm again.")
            for callback in self._on_restored:
                callback()

    # Deadlines

    def _check(self) -> None:
        self._timer = None
        self._expire(self._loop.time())
        self._begin_soon()
        if not self._is_closed and (self._waiting or self._round is not None or self.is_failing):
            self._timer = self._loop.call_later(CHECK_EVERY_S, self._check)

    def _expire(self, now: float) -> None:
        late = [ticket for ticket in self._waiting if ticket.deadline <= now]
        if late:
            self._waiting = deque(ticket for ticket in self._waiting if ticket.deadline > now)
        if self._round is not None:
            late += [ticket for ticket in self._round.tickets if ticket.deadline <= now]
            self._round.tickets = [ticket for ticket in self._round.tickets if ticket.deadline > now]
        if late:
            self._refuse(late)

    def _refuse(self, late: list[_Ticket]) -> None:
        self.link.commands_unavailable += len(late)
        if not self.is_failing:
            log.warning("What Redis answers is not confirmed by %d replicas.", self._least)
        self.is_failing = True
        for ticket in late:
            ticket.refuse(
                f"What Redis answered was not on {self._least} replicas within {CONFIRM_DEADLINE_S:g} s: it may hold, "
                "or be lost in a failover. Ask again."
            )


class FencedLink:
    """A link whose replies are given only when they are confirmed. An error is given at once: it tells no outcome.

    Args:
        link: One that knows the identity of its server.
        fence: Who confirms.
    """

    def __init__(self, link: Link, fence: Fence) -> None:
        self._link = link
        self._fence = fence
        self._loop = asyncio.get_running_loop()

    def send(self, command: Command) -> asyncio.Future[Reply]:
        """See `Link.send`; the future may also raise UnconfirmedError."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.hand(command, Awaited(future))
        return future

    def hand(self, command: Command, receiver: Receiver) -> None:
        """See `Link.hand`."""
        self._link.hand(command, _Ticket(self._fence, self._link, receiver, self._loop.time()))

    def hand_all(self, calls: Sequence[tuple[Command, Receiver]]) -> None:
        """See `Link.hand_all`."""
        now = self._loop.time()
        self._link.hand_all([(command, _Ticket(self._fence, self._link, receiver, now)) for command, receiver in calls])

    def flush_soon(self) -> None:
        """See `Link.flush_soon`."""
        self._link.flush_soon()
