"""The subscription connection of a process: what it wants to hear, what the server has confirmed, and who is told.

Names are joined and left once a loop tick, in batches, before any command of the same tick: a command sent behind a
`join` is answered by a server that has the subscription already. After a reconnect everything is subscribed again and
confirmed, and only then those are told who have to look at what they missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

from broker import naming
from broker.background import Background
from broker.errors import StoreError, StoreUnavailableError
from broker.probe import Probe
from broker.store.commands import Command, Push, Receiver, Reply, Sender, pack_names
from broker.store.fence import Fence, FencedLink
from broker.store.link import Link
from broker.store.queries import Queries
from broker.store.topology import Topology

log = logging.getLogger("broker.subscriptions")

SUBSCRIBE_BATCH: Final = 512
"""Names a SUBSCRIBE: as centrifuge does, far past where batching stops paying."""
LEAVE_AFTER_S: Final = 1.0
"""How long an unwanted channel stays subscribed, so that a caller who comes back costs nothing."""
LEAVE_CHECK_S: Final = 0.25


class Listener(Protocol):
    """Takes the messages of one channel, or of all that match a pattern."""

    @property
    def name(self) -> bytes:
        """The channel, or the pattern."""

    def take(self, message: bytes) -> None:
        """A message has come; it must not block."""


class Topic(Listener, Protocol):
    """A channel that is heard while somebody wants it. `idle_since`: the loop's time, kept by `leave_soon`."""

    idle_since: float

    @property
    def is_wanted(self) -> bool:
        """Whether somebody wants it now."""


class _Confirmed:
    """Takes pushes that replicas have confirmed; one that they don't is lost, as messages may be."""

    is_abandoned = False

    def __init__(self, take: Callable[[Push], None]) -> None:
        self._take = take

    def succeed(self, push: Push) -> None:
        """It is confirmed."""
        self._take(push)

    def fail(self, error: Exception) -> None:
        """It is not: everybody looks again when replicas confirm again."""


class Subscriptions:
    """The subscription connection of one process.

    Args:
        topology: Where it goes.
        name: This process, for CLIENT LIST and its probe channel.
        queries: Publish, on another connection: large replies have no place on this one.
        scripts: What is called on this connection.
        fence: Where replicas have to confirm what is told, messages and replies of this connection too.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        name: str,
        queries: Queries,
        scripts: Sequence[str] = (),
        fence: Fence | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._topics: dict[bytes, Topic] = {}
        self.find: Callable[[bytes], Topic | None] = self._topics.get
        """The topic of that name, wanted now or a moment ago."""
        self._actual: set[bytes] = set()
        self._patterns: dict[bytes, Listener] = {}
        self._to_join: list[bytes] = []
        self._to_leave: list[bytes] = []
        self._patterns_to_join: list[bytes] = []
        self._patterns_to_leave: list[bytes] = []
        self._leaving: set[bytes] = set()
        self._idle: deque[tuple[float, Topic]] = deque()
        self._leave_timer: asyncio.TimerHandle | None = None
        self._background = Background()
        self._on_recovered: list[Callable[[], Awaitable[None]]] = []
        self.link = Link(
            topology,
            name=f"broker-hub-{name}",
            scripts=tuple(scripts),
            identifies=fence is not None,
            prelude=self._changes,
            on_push=self._take_push if fence is None else partial(self._take_push_fenced, fence),
            on_connected=self._subscribe_anew,
            on_lost=self._forget_subscriptions,
        )
        self._confirmed = _Confirmed(self._take_push)
        self._sender: Sender = self.link if fence is None else FencedLink(self.link, fence)
        self.hand: Callable[[Command, Receiver], None] = self._sender.hand
        """Sends a command behind the subscriptions of this tick. Its reply must be small: the server bounds what a
        subscriber may have outstanding."""
        if fence is not None:
            fence.on_restored(self._look_again)
        self._probe = Probe(naming.probe_channel(name).encode(), self.link, queries)
        self._always: dict[bytes, Listener] = {self._probe.name: self._probe}

    @property
    def is_delivering(self) -> bool:
        """Whether a message published now would arrive: connected, subscribed, and the last probe came through."""
        return self._probe.is_delivering

    @property
    def topics(self) -> Iterable[Topic]:
        """What somebody wants to hear, or did a moment ago."""
        return self._topics.values()

    @property
    def desired(self) -> int:
        """Channels and patterns that somebody wants, or did a moment ago."""
        return len(self._topics) + len(self._patterns)

    @property
    def actual(self) -> int:
        """Those that the server has confirmed."""
        return len(self._actual.difference(self._always))

    @property
    def leaked(self) -> int:
        """Those that are confirmed, that nobody here wants, and that are not being left: always zero."""
        return len(
            self._actual.difference(
                self._always, self._topics, self._patterns, self._to_leave, self._patterns_to_leave, self._leaving
            )
        )

    @property
    def reconnects(self) -> int:
        """How often the connection had to be opened anew."""
        return max(0, self.link.connections_made - 1)

    async def open(self) -> None:
        """Connects. Raises StoreUnavailableError or ConfigurationError."""
        await self.link.open()
        self._background.keep(self._probe.run_forever, "probe")

    async def close(self) -> None:
        """Disconnects."""
        if self._leave_timer is not None:
            self._leave_timer.cancel()
        await self._background.cancel()
        await self.link.close()

    # What is heard

    def listen(self, listener: Listener) -> None:
        """Hears a channel for as long as the process lives; from the first connect on when called before `open`."""
        self._always[listener.name] = listener
        if self.link.connections_made:
            self._to_join.append(listener.name)
            self.link.flush_soon()

    def on_recovered(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Has `callback` awaited after each (re)connect, once all subscriptions are live again.

        It looks at what was missed, and may raise StoreUnavailableError or StoreError, which is logged.
        """
        self._on_recovered.append(callback)

    def join(self, topic: Topic) -> None:
        """Has the channel subscribed in this tick's write, before any command sent after it."""
        name = topic.name
        self._topics[name] = topic
        if not self._to_join:
            # Whoever was the first has seen to the write that the others leave with.
            self.link.flush_soon()
        self._to_join.append(name)

    def leave(self, topic: Topic) -> None:
        """Has the channel unsubscribed with one of the next writes."""
        if self._topics.get(topic.name) is topic:
            del self._topics[topic.name]
            self._to_leave.append(topic.name)
            if self._leave_timer is None:
                self._start_leave_timer()

    def leave_soon(self, topic: Topic) -> None:
        """The same, unless somebody wants the topic again within `LEAVE_AFTER_S`."""
        topic.idle_since = self._loop.time()
        self._idle.append((topic.idle_since, topic))
        self._start_leave_timer()

    def join_pattern(self, listener: Listener) -> None:
        """Has all channels that match `listener.name` heard, until `leave_pattern` or the end of this connection.

        Whoever wants it joins again after a reconnect: rights to patterns may change, and a refused one costs the
        connection, so they are to be asked for first (`Queries.may_hear`).
        """
        self._patterns[listener.name] = listener
        self._patterns_to_join.append(listener.name)
        self.link.flush_soon()

    def leave_pattern(self, listener: Listener) -> None:
        """Hears it no longer."""
        if self._patterns.get(listener.name) is listener:
            del self._patterns[listener.name]
            self._patterns_to_leave.append(listener.name)
            self.link.flush_soon()

    async def ask(self, command: Command) -> Reply:
        """Sends a command and awaits its reply, for what is not told to anybody: no replica confirms it.

        Raises StoreUnavailableError, StoreError.
        """
        return await self.link.send(command)

    async def confirm(self) -> None:
        """Returns once every subscription asked for so far is live. Raises StoreUnavailableError."""
        await self.link.send(Command(("PING",), repeatable=True))

    def _start_leave_timer(self) -> None:
        if self._leave_timer is None:
            self._leave_timer = self._loop.call_later(LEAVE_CHECK_S, self._leave_idle)

    def _leave_idle(self) -> None:
        self._leave_timer = None
        now = self._loop.time()
        while self._idle and now - self._idle[0][0] >= LEAVE_AFTER_S:
            since, topic = self._idle.popleft()
            if not topic.is_wanted and topic.idle_since == since:
                self.leave(topic)
        if self._to_leave:
            self.link.flush_soon()
        if self._idle:
            self._start_leave_timer()

    # The connection

    def _changes(self) -> bytes:
        patterns = self._pattern_changes() if self._patterns_to_join or self._patterns_to_leave else b""
        if not self._to_join and not self._to_leave:
            return patterns
        leaving, joining = self._to_leave, self._to_join
        self._to_leave, self._to_join = [], []
        self._leaving.update(leaving)
        return b"".join([patterns, *_batches("UNSUBSCRIBE", leaving), *_batches("SUBSCRIBE", joining)])

    def _pattern_changes(self) -> bytes:
        leaving, joining = self._patterns_to_leave, self._patterns_to_join
        self._patterns_to_leave, self._patterns_to_join = [], []
        self._leaving.update(leaving)
        return b"".join([*_batches("PUNSUBSCRIBE", leaving), *_batches("PSUBSCRIBE", joining)])

    def _subscribe_anew(self) -> None:
        self._actual.clear()
        self._to_leave = []
        self._to_join = [*self._always, *self._topics]
        self._patterns.clear()
        self._patterns_to_join = []
        self._patterns_to_leave = []
        self._background.spawn(self._recover(), "recovery of subscriptions")

    def _forget_subscriptions(self) -> None:
        self._actual.clear()
        self._leaving.clear()
        self._probe.forget()

    async def _recover(self) -> None:
        """After a (re)connect: subscriptions confirmed, and only then everybody looks at what was missed."""
        try:
            await self.confirm()
            self._probe.begin()
            for callback in self._on_recovered:
                await callback()
        except (StoreUnavailableError, StoreError) as error:
            log.warning("What a reconnect missed could not be looked at (%s); a later check will.", error)

    def _look_again(self) -> None:
        """Replicas confirm again: messages that came meanwhile were kept from their listeners."""
        self._background.spawn(self._recover(), "recovery of messages")

    def _take_push_fenced(self, fence: Fence, push: Push) -> None:
        """A message tells of a change: nobody hears of it before replicas have it."""
        if push[0] != b"message" or push[1] == self._probe.name:
            self._take_push(push)
        elif push[1] in self._topics or push[1] in self._always:
            fence.hand(self.link, self._confirmed, push)

    def _take_push(self, push: Push) -> None:
        kind = push[0]
        if kind == b"message":
            listener = self._topics.get(push[1]) or self._always.get(push[1])
            if listener is not None:
                listener.take(push[2])
        elif kind == b"subscribe":
            self._actual.add(push[1])
        elif kind in (b"unsubscribe", b"punsubscribe"):
            self._actual.discard(push[1])
            self._leaving.discard(push[1])
        elif kind == b"pmessage":
            pattern = self._patterns.get(push[1])
            if pattern is not None:
                pattern.take(push[3])
        elif kind == b"psubscribe":
            self._actual.add(push[1])


def _batches(command: str, names: list[bytes]) -> list[bytes]:
    return [
        pack_names(command, names[start : start + SUBSCRIBE_BATCH]) for start in range(0, len(names), SUBSCRIBE_BATCH)
    ]
