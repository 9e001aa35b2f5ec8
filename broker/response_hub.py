"""Routes outcomes to the waits of this process: one subscription connection, one exact channel per waited task.

A waiter registers first; its SUBSCRIBE leaves before the command that creates the task, on the same connection, which
answers in order, so nothing fits in between. A message only ever ends a wait when it carries the task's
seal; any other message is a reason to read the store. After a reconnect everything is subscribed again, confirmed, and
only then read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from broker import naming
from broker.background import Background
from broker.deadlines import Deadlines
from broker.deferred import DeferredResult
from broker.errors import StoreError, StoreUnavailableError, TaskNotFoundError
from broker.store import scripts
from broker.store.commands import Command, Push, Receiver, pack
from broker.store.link import Link
from broker.store.queries import Queries, StoredTask
from broker.store.topology import Topology
from broker.task import TaskState

log = logging.getLogger("broker.hub")

SUBSCRIBE_BATCH: Final = 512
"""Names a SUBSCRIBE: as centrifuge does, far past where batching stops paying."""
LEAVE_AFTER_S: Final = 1.0
"""How long an unwaited channel stays subscribed, so that a caller who comes back costs nothing."""
LEAVE_CHECK_S: Final = 0.25
REREAD_EVERY_S: Final = 12.0
"""How often waits older than this are checked against the store, should a message have been lost."""
READ_BATCH: Final = 500
PROBE_EVERY_S: Final = 5.0
PROBE_DEADLINE_S: Final = 3.0


class Waiter:
    """One held wait for one task."""

    __slots__ = ("channel", "deferred", "is_confirmed", "seal")

    def __init__(self, channel: Channel, deferred: DeferredResult[StoredTask], seal: str) -> None:
        self.channel = channel
        self.deferred = deferred
        self.seal = seal
        self.is_confirmed = False

    def confirm(self, seal: str) -> None:
        """The task is known to exist, with this seal; from now on its disappearance ends the wait."""
        self.seal = seal
        self.is_confirmed = True


class Channel:
    """One waited task: its subscription and its waiters."""

    __slots__ = ("has_ended", "idle_since", "is_being_read", "name", "queue", "read_again", "since", "uuid", "waiters")

    def __init__(self, queue: str, uuid: str, since: float) -> None:
        self.queue = queue
        self.uuid = uuid
        self.name = naming.response_channel(queue, uuid).encode()
        self.waiters: set[Waiter] = set()
        self.since = since
        self.idle_since = since
        self.has_ended = False
        self.is_being_read = False
        self.read_again = False


class _Message(msgspec.Struct):
    """What the hub needs of a published outcome."""

    seal: str
    uuid: str
    queue: str
    state: TaskState
    omitted: bool = False


_decoder = msgspec.json.Decoder(_Message)


class ResponseHub:
    """All waits of one process.

    Args:
        topology: Where the subscription connection goes.
        name: This process, for CLIENT LIST and its probe channel.
        queries: Reads of the store, on another connection: large replies have no place on this one.
    """

    def __init__(self, topology: Topology, *, name: str, queries: Queries) -> None:
        self._queries = queries
        self._loop = asyncio.get_running_loop()
        self.deadlines = Deadlines(self._loop)
        self._probe = naming.probe_channel(name).encode()
        self._channels: dict[bytes, Channel] = {}
        self._actual: set[bytes] = set()
        self._to_join: list[bytes] = []
        self._to_leave: list[bytes] = []
        self._leaving: set[bytes] = set()
        self._idle: deque[tuple[float, Channel]] = deque()
        self._leave_timer: asyncio.TimerHandle | None = None
        self._background = Background()
        self._probe_heard = asyncio.Event()
        self._probe_soon = asyncio.Event()
        self._last_probe_heard: float | None = None
        self._is_confirmed = False
        self._held = 0
        self._held_of: Counter[str] = Counter()
        self._is_ending = False
        self.rescued = 0
        self._link = Link(
            topology,
            name=f"broker-hub-{name}",
            scripts=(scripts.CREATE_TASK.source,),
            prelude=self._subscriptions,
            on_push=self._take_push,
            on_connected=self._subscribe_anew,
            on_lost=self._forget_subscriptions,
        )

    @property
    def link(self) -> Link:
        """The subscription connection, to be looked at."""
        return self._link

    @property
    def is_delivering(self) -> bool:
        """Whether a message published now would arrive: connected, subscribed, and the last probe came through."""
        if not self._is_confirmed or self._last_probe_heard is None:
            return False
        return self._loop.time() - self._last_probe_heard < PROBE_EVERY_S + PROBE_DEADLINE_S

    @property
    def held(self) -> int:
        """Waits held now."""
        return self._held

    @property
    def held_by_queue(self) -> Mapping[str, int]:
        """The same by the queue of the task, as far as any are held."""
        return self._held_of

    @property
    def desired(self) -> int:
        """Channels that somebody waits on, or did a moment ago."""
        return len(self._channels)

    @property
    def actual(self) -> int:
        """Channels that the server has confirmed."""
        return len(self._actual)

    @property
    def leaked(self) -> int:
        """Confirmed channels that nobody here wants and that are not being left: always zero."""
        return len(self._actual.difference(self._channels, self._to_leave, self._leaving))

    @property
    def reconnects(self) -> int:
        """How often the subscription connection had to be opened anew."""
        return max(0, self._link.connections_made - 1)

    async def open(self) -> None:
        """Connects. Raises StoreUnavailableError or ConfigurationError."""
        await self._link.open()
        self._background.keep(self._probe_forever, "hub probe")
        self._background.keep(self._reread_forever, "hub re-read")

    async def close(self) -> None:
        """Disconnects; held waits are the owner's to end first."""
        if self._leave_timer is not None:
            self._leave_timer.cancel()
        await self._background.cancel()
        await self._link.close()
        self.deadlines.close()

    def join(self, queue: str, uuid: str, seal: str, timeout: float) -> Waiter:
        """Registers a wait and has its channel subscribed in this tick's write, before any command sent after it.

        Args:
            queue: The task's queue.
            uuid: The task.
            seal: The task's seal, or what it will be if the caller's create makes it.
            timeout: Seconds until the wait ends by itself.
        """
        name = naming.response_channel(queue, uuid).encode()
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(queue, uuid, self._loop.time())
            self._to_join.append(name)
            self._link.flush_soon()
        waiter = Waiter(channel, DeferredResult(0 if self._is_ending else timeout, self.deadlines), seal)
        channel.waiters.add(waiter)
        self._held += 1
        self._held_of[queue] += 1
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Ends a wait from the waiter's side; the channel goes a moment after its last waiter."""
        channel = waiter.channel
        if waiter not in channel.waiters:
            return
        channel.waiters.discard(waiter)
        self._held -= 1
        self._held_of[channel.queue] -= 1
        if not self._held_of[channel.queue]:
            del self._held_of[channel.queue]
        waiter.deferred.abandon()
        if channel.waiters:
            return
        if channel.has_ended:
            # Nobody who comes back will wait for this task: what it says is stored.
            self._drop(channel)
        else:
            channel.idle_since = self._loop.time()
            self._idle.append((channel.idle_since, channel))
        self._leave_soon()

    def hand(self, command: Command, receiver: Receiver) -> None:
        """Sends a command behind the subscriptions of this tick. Its reply must be small (see `link`)."""
        self._link.hand(command, receiver)

    async def confirm(self) -> None:
        """Returns once every subscription asked for so far is live. Raises StoreUnavailableError."""
        await self._link.send(Command(("PING",), repeatable=True))

    def end_all(self) -> None:
        """Ends every held wait as if its time were over, and those that still come soon after they do."""
        self._is_ending = True
        for channel in list(self._channels.values()):
            for waiter in list(channel.waiters):
                waiter.deferred.expire()

    # Subscriptions

    def _subscriptions(self) -> bytes:
        if not self._to_join and not self._to_leave:
            return b""
        leaving, joining = self._to_leave, self._to_join
        self._to_leave, self._to_join = [], []
        self._leaving.update(leaving)
        return b"".join([*_batches("UNSUBSCRIBE", leaving), *_batches("SUBSCRIBE", joining)])

    def _subscribe_anew(self) -> None:
        self._actual.clear()
        self._to_leave = []
        self._to_join = [self._probe, *self._channels]
        self._background.spawn(self._recover(), "hub recovery")

    def _forget_subscriptions(self) -> None:
        self._actual.clear()
        self._leaving.clear()
        self._is_confirmed = False
        self._last_probe_heard = None

    def _drop(self, channel: Channel) -> None:
        """Has the channel unsubscribed by the next write."""
        if self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            self._to_leave.append(channel.name)

    def _leave_soon(self) -> None:
        if self._leave_timer is None:
            self._leave_timer = self._loop.call_later(LEAVE_CHECK_S, self._leave_idle)

    def _leave_idle(self) -> None:
        self._leave_timer = None
        now = self._loop.time()
        while self._idle and now - self._idle[0][0] >= LEAVE_AFTER_S:
            since, channel = self._idle.popleft()
            if not channel.waiters and channel.idle_since == since:
                self._drop(channel)
        if self._to_leave:
            self._link.flush_soon()
        if self._idle:
            self._leave_soon()

    # Messages

    def _take_push(self, push: Push) -> None:
        kind = push[0]
        if kind == b"message":
            self._take_message(push[1], push[2])
        elif kind == b"subscribe":
            if push[1] != self._probe:
                self._actual.add(push[1])
        elif kind == b"unsubscribe":
            self._actual.discard(push[1])
            self._leaving.discard(push[1])

    def _take_message(self, name: bytes, data: bytes) -> None:
        if name == self._probe:
            self._last_probe_heard = self._loop.time()
            self._probe_heard.set()
            return
        channel = self._channels.get(name)
        if channel is None or not channel.waiters:
            return
        message = _read_message(data)
        if message is not None and not message.omitted:
            self._settle_sealed(channel, message, data)
        if any(not waiter.deferred.is_settled for waiter in channel.waiters):
            self._read_soon(channel, is_rescue=False)

    def _settle_sealed(self, channel: Channel, message: _Message, data: bytes) -> None:
        task = StoredTask(channel.uuid, channel.queue, message.seal, message.state, _without_seal(data))
        for waiter in channel.waiters:
            if waiter.seal == message.seal:
                channel.has_ended = True
                waiter.deferred.set_result(task)

    # Reading the store again

    def _read_soon(self, channel: Channel, *, is_rescue: bool) -> None:
        if channel.is_being_read:
            channel.read_again = True
            return
        channel.is_being_read = True
        self._background.spawn(self._read(channel, is_rescue=is_rescue), "hub read")

    async def _read(self, channel: Channel, *, is_rescue: bool) -> None:
        try:
            channel.read_again = True
            while channel.read_again and channel.waiters:
                channel.read_again = False
                await self._read_once(channel, is_rescue=is_rescue)
        except (StoreUnavailableError, StoreError) as error:
            log.warning("Task %s could not be read again (%s); a later check will.", channel.uuid, error)
        finally:
            channel.is_being_read = False

    async def _read_once(self, channel: Channel, *, is_rescue: bool) -> None:
        try:
            task = await self._queries.read(channel.uuid)
        except TaskNotFoundError as gone:
            # A waiter whose create is still on its way has nothing to miss yet.
            for waiter in channel.waiters:
                if waiter.is_confirmed:
                    waiter.deferred.set_error(gone)
            return
        if task.state.is_terminal:
            channel.has_ended = True
            for waiter in channel.waiters:
                if waiter.deferred.set_result(task) and is_rescue:
                    self.rescued += 1

    async def _recover(self) -> None:
        """After a (re)connect: subscriptions confirmed, and only then every waited task read again."""
        try:
            await self.confirm()
            self._is_confirmed = True
            self._probe_soon.set()
            await self._check(list(self._channels.values()))
        except (StoreUnavailableError, StoreError) as error:
            log.warning("Waits could not be checked after a reconnect (%s); a later check will.", error)

    async def _check(self, channels: Iterable[Channel]) -> None:
        """Finds the ended among waited tasks, cheaply, and reads only those."""
        waited = [channel for channel in channels if channel.waiters]
        for start in range(0, len(waited), READ_BATCH):
            batch = {channel.uuid: channel for channel in waited[start : start + READ_BATCH]}
            for uuid in await self._queries.find_ended(list(batch)):
                self._read_soon(batch[uuid], is_rescue=True)

    async def _reread_forever(self) -> None:
        while True:
            await asyncio.sleep(REREAD_EVERY_S * random.uniform(0.85, 1.15))  # noqa: S311
            oldest = self._loop.time() - REREAD_EVERY_S
            try:
                await self._check([channel for channel in self._channels.values() if channel.since < oldest])
            except (StoreUnavailableError, StoreError) as error:
                log.warning("Old waits could not be checked (%s); the next round will.", error)

    # Liveness

    async def _probe_forever(self) -> None:
        while True:
            # A reconnect is probed at once: an instance that hears again should be ready again.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_EVERY_S):
                    await self._probe_soon.wait()
            self._probe_soon.clear()
            if self._is_confirmed:
                await self._probe_once()

    async def _probe_once(self) -> None:
        """Publishes by the normal path; a connection that answers PING but hears nothing of it is dropped."""
        connection = self._link.connections_made
        self._probe_heard.clear()
        try:
            await self._queries.publish(self._probe.decode(), "probe")
            async with asyncio.timeout(PROBE_DEADLINE_S):
                await self._probe_heard.wait()
        except TimeoutError:
            if connection == self._link.connections_made:
                self._link.drop("a message published to it did not arrive")
        except (StoreUnavailableError, StoreError):
            # The probe never left, which says nothing about the subscription.
            pass


def _batches(command: str, names: list[bytes]) -> list[bytes]:
    return [pack((command, *names[start : start + SUBSCRIBE_BATCH])) for start in range(0, len(names), SUBSCRIBE_BATCH)]


def _read_message(data: bytes) -> _Message | None:
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _without_seal(data: bytes) -> bytes:
    """The task JSON of a sealed message: the seal is its first member, as `settle.lua` writes it."""
    return b"{" + data[data.index(b",") + 1 :]
