"""Routes outcomes to the waits of this process: one exact channel per waited task.

A waiter registers first; its SUBSCRIBE leaves before the command that creates the task, on the same connection, which
answers in order, so nothing fits in between. A message only ever ends a wait when it carries the task's
seal; any other message is a reason to read the store. After a reconnect everything is subscribed again, confirmed, and
only then read again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from broker import naming
from broker.background import Background
from broker.capacity import Capacity
from broker.deadlines import Deadlines
from broker.deferred import DeferredResult
from broker.errors import StoreError, StoreUnavailableError, TaskNotFoundError
from broker.store.commands import Command, Reply
from broker.store.queries import Queries, StoredTask
from broker.subscriptions import Subscriptions
from broker.task import TaskState

log = logging.getLogger("broker.hub")

REREAD_EVERY_S: Final = 12.0
"""How often waits older than this are checked against the store, should a message have been lost."""
READ_BATCH: Final = 500


class Waiter(DeferredResult[StoredTask], eq=False, kw_only=True):
    """One held wait for one task: by its channel, and by the seal that it has, or will have if the caller's create
    makes it."""

    channel: Channel
    seal: str
    is_confirmed: bool = False

    def confirm(self, seal: str) -> None:
        """The task is known to exist, with this seal; from now on its disappearance ends the wait."""
        self.seal = seal
        self.is_confirmed = True


class Channel(msgspec.Struct, eq=False):
    """One waited task: its subscription and its waiters, the first of whom came at `since`."""

    hub: ResponseHub
    name: bytes
    queue: str
    uuid: str
    since: float
    waiters: set[Waiter] = msgspec.field(default_factory=set)
    idle_since: float = 0.0
    has_ended: bool = False
    is_being_read: bool = False
    read_again: bool = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self.waiters)

    def take(self, message: bytes) -> None:
        """A message on the task's response channel: only its seal makes it more than a hint."""
        if not self.waiters:
            return
        try:
            sealed = _decoder.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Not from the scripts: a reason to look.
            pass
        else:
            if not sealed.omitted:
                # The seal is the first member, as `settle.lua` writes it: `{"seal":"...",`.
                document = b"{" + message[len(sealed.seal) + 11 :]
                task = StoredTask(self.uuid, self.queue, sealed.seal, sealed.state, document)
                # Those who are told may leave at once.
                for waiter in tuple(self.waiters):
                    if waiter.seal == sealed.seal:
                        self.has_ended = True
                        waiter.set_result(task)
        if self.waiters and any(not waiter.is_settled for waiter in self.waiters):
            self.hub.read_soon(self)


class _Sealed(msgspec.Struct):
    """What tells a published outcome from a hint, and what is needed of it."""

    seal: str
    state: TaskState
    omitted: bool = False


_decoder = msgspec.json.Decoder(_Sealed)


class ResponseHub:
    """All waits of one process.

    Args:
        subscriptions: Where its channels are heard.
        queries: Reads of the store, on another connection: large replies have no place on that one.
        capacity: Counts the waits among all held calls.
    """

    def __init__(self, subscriptions: Subscriptions, queries: Queries, capacity: Capacity) -> None:
        self.subscriptions = subscriptions
        self._queries = queries
        self._capacity = capacity
        self._loop = asyncio.get_running_loop()
        self.deadlines = Deadlines(self._loop)
        self._background = Background()
        self._is_ending = False
        self.rescued = 0
        self.hand = subscriptions.hand
        """Sends a command behind the subscriptions of this tick. Its reply must be small."""
        subscriptions.on_recovered(self._check_all)

    @property
    def held(self) -> int:
        """Waits held now: counted when somebody asks, not by each wait."""
        return sum(len(channel.waiters) for channel in self._channels())

    @property
    def held_by_queue(self) -> Mapping[str, int]:
        """The same by the queue of the task, as far as any are held."""
        # A loop, since this is the greatest part of what an instance does that holds many calls.
        numbers: dict[str, int] = {}
        for channel in self._channels():
            if channel.waiters:
                numbers[channel.queue] = numbers.get(channel.queue, 0) + len(channel.waiters)
        return numbers

    def start(self) -> None:
        """Begins to look at old waits now and then."""
        self._background.keep(self._reread_forever, "hub re-read")

    async def close(self) -> None:
        """Ends what runs beside the waits; those that are held are the owner's to end first."""
        await self._background.cancel()
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
        channel = self.subscriptions.find(name)
        if not isinstance(channel, Channel):
            channel = Channel(self, name, queue, uuid, self._loop.time())
            self.subscriptions.join(channel)
        waiter = Waiter(0 if self._is_ending else timeout, self.deadlines, channel=channel, seal=seal)
        channel.waiters.add(waiter)
        self._capacity.held += 1
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Ends a wait from the waiter's side; the channel goes a moment after its last waiter."""
        channel = waiter.channel
        try:
            channel.waiters.remove(waiter)
        except KeyError:
            # It has left before.
            return
        self._capacity.held -= 1
        if not waiter.is_settled:
            waiter.abandon()
        if channel.waiters:
            return
        if channel.has_ended:
            # Nobody who comes back will wait for this task: what it says is stored.
            self.subscriptions.leave(channel)
        else:
            self.subscriptions.leave_soon(channel)

    async def ask(self, command: Command) -> Reply:
        """Sends a command on the hub's connection and awaits its reply. Raises StoreUnavailableError, StoreError."""
        return await self.subscriptions.ask(command)

    def leave_idle(self, queue: str, uuid: str) -> None:
        """Has the task's channel unsubscribed before the next command, if only the moment after its last waiter keeps
        it."""
        channel = self.subscriptions.find(naming.response_channel(queue, uuid).encode())
        if isinstance(channel, Channel) and not channel.waiters:
            self.subscriptions.leave(channel)

    async def confirm(self) -> None:
        """Returns once every wait registered so far is subscribed. Raises StoreUnavailableError."""
        await self.subscriptions.confirm()

    def end_all(self) -> None:
        """Ends every held wait as if its time were over, and those that still come soon after they do."""
        self._is_ending = True
        for channel in self._channels():
            for waiter in list(channel.waiters):
                waiter.expire()

    def _channels(self) -> list[Channel]:
        return [topic for topic in self.subscriptions.topics if isinstance(topic, Channel)]

    # Reading the store again

    def read_soon(self, channel: Channel, *, is_rescue: bool = False) -> None:
        """Has the store looked at for those who still wait there.

        Args:
            channel: Of the task.
            is_rescue: Whether it looks for what no message has told.
        """
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
            for waiter in tuple(channel.waiters):
                if waiter.is_confirmed:
                    waiter.set_error(gone)
            return
        if task.state.is_terminal:
            channel.has_ended = True
            for waiter in tuple(channel.waiters):
                if waiter.set_result(task) and is_rescue:
                    self.rescued += 1

    async def _check_all(self) -> None:
        await self._check(self._channels())

    async def _check(self, channels: Iterable[Channel]) -> None:
        """Finds the ended among waited tasks, cheaply, and reads only those."""
        waited = [channel for channel in channels if channel.waiters]
        for start in range(0, len(waited), READ_BATCH):
            batch = {channel.uuid: channel for channel in waited[start : start + READ_BATCH]}
            for uuid in await self._queries.find_ended(list(batch)):
                self.read_soon(batch[uuid], is_rescue=True)

    async def _reread_forever(self) -> None:
        while True:
            await asyncio.sleep(REREAD_EVERY_S * random.uniform(0.85, 1.15))  # noqa: S311
            oldest = self._loop.time() - REREAD_EVERY_S
            try:
                await self._check([channel for channel in self._channels() if channel.since < oldest])
            except (StoreUnavailableError, StoreError) as error:
                log.warning("Old waits could not be checked (%s); the next round will.", error)
