"""Held calls: a task is created or read, and whoever asked is held until it has ended or the wait is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

import msgspec

from broker.background import Background
from broker.capacity import Capacity
from broker.creation import Creation, begin_creation
from broker.deadlines import MOST_S
from broker.errors import BrokerError, StoreUnavailableError
from broker.requests import NewTask
from broker.response_hub import ResponseHub, Waiter
from broker.store.creates import Created
from broker.store.queries import Queries, StoredTask
from broker.store.transitions import Transitions
from broker.timestamps import rfc3339

LAST_LOOK_S: Final = 0.5
"""How long a wait that is over waits for the store: whoever asked gets an answer within a second of the deadline."""

T = TypeVar("T")


class Holding:
    """The held calls of one process.

    Args:
        hub: Where waits are held.
        transitions: Creates.
        queries: Reads.
        capacity: How many calls this process may hold.
    """

    def __init__(self, hub: ResponseHub, transitions: Transitions, queries: Queries, capacity: Capacity) -> None:
        self._hub = hub
        self._transitions = transitions
        self._queries = queries
        self._capacity = capacity
        self._background = Background()

    async def close(self) -> None:
        """Ends what runs beside the held calls."""
        await self._background.cancel()

    async def create(self, new: NewTask, wait_s: float) -> StoredTask:
        """Creates a task, or attaches, and holds until it has ended or the wait is over.

        Raises:
            TaskConflictError, IdempotencyMismatchError, QueueFullError
            TooManyWaitersError: Nothing was created.
            StoreUnavailableError: The creation was never confirmed.
        """
        if wait_s <= 0:
            return as_stored(await self._transitions.create(new), new.queue)
        return await self.end_of(self.begin(new, wait_s))

    def begin(self, new: NewTask, wait_s: float) -> Creation:
        """Creates a task, or attaches, and holds without being awaited: `creation.waiter` tells when the wait is over.

        Whoever begins a creation ends it: by awaiting `end_of`, or by `leave` where its waiter has a result.

        Raises:
            TooManyWaitersError: Nothing was created.
        """
        self._capacity.refuse_beyond()
        return begin_creation(self._hub, new, wait_s if wait_s < MOST_S else MOST_S)

    def leave(self, creation: Creation) -> None:
        """Ends a creation from its holder's side; the task goes on."""
        self._hub.leave(creation.waiter)

    async def end_of(self, creation: Creation) -> StoredTask:
        """Awaits the end of a creation, and leaves it; raises as `create` does."""
        try:
            settled = await creation.waiter.wait()
            if settled is not None:
                return settled
            created = await answered_by(creation.ends, creation.created())
            if created.uuid == creation.new.uuid:
                return await self._read_last(last_known(created, creation.new.queue))
        finally:
            self.leave(creation)
        # The idempotency key stands for a task whose channel was unknown until now.
        return await self._hold(created.uuid, creation.ends)

    async def query(self, uuid: str, wait_s: float) -> StoredTask:
        """Reads a task and, while it is open, holds until it has ended or the wait is over.

        Raises:
            TaskNotFoundError: At once, whatever the wait.
            TooManyWaitersError: The task is open, and no more waits are held here.
            StoreUnavailableError
        """
        if wait_s <= 0:
            return await self._queries.read(uuid)
        return await self._hold(uuid, self._end_of(wait_s))

    async def _hold(self, uuid: str, ends: float) -> StoredTask:
        task = await answered_by(ends, self._queries.read(uuid))
        if task.state.is_terminal:
            return task
        self._capacity.refuse_beyond()
        waiter = self._hub.join(task.queue, uuid, task.seal, ends - self._now())
        try:
            waiter.confirm(task.seal)
            # Beside the wait, which ends when it must, whatever Redis does.
            self._background.spawn(self._read_subscribed(waiter), "read behind a subscription")
            return await waiter.wait() or await self._read_last(task)
        finally:
            self._hub.leave(waiter)

    async def _read_subscribed(self, waiter: Waiter) -> None:
        """The channel was unknown before the first read: subscribed, acknowledged, and read again.

        In an outage the wait goes on with what is known: after a reconnect the hub looks at every waited task.
        """
        try:
            await self._hub.confirm()
            task = await self._queries.read(waiter.channel.uuid)
        except StoreUnavailableError:
            return
        except BrokerError as error:
            waiter.set_error(error)
            return
        if task.state.is_terminal:
            waiter.set_result(task)

    async def _read_last(self, last_known: StoredTask) -> StoredTask:
        """Whoever says "not yet" has looked once more: a message may have been lost."""
        try:
            return await answered_by(self._now(), self._queries.read(last_known.uuid))
        except StoreUnavailableError:
            if last_known.state.is_terminal:
                # It has ended, but how is stored where nobody can look now.
                raise
            return last_known

    def _end_of(self, wait_s: float) -> float:
        # uvloop has no timer that never ends.
        return self._now() + min(wait_s, MOST_S)

    def _now(self) -> float:
        return self._hub.deadlines.loop.time()


async def answered_by(ends: float, asked: Awaitable[T]) -> T:
    """What the store says, unless the wait is over long before it does.

    Args:
        ends: The loop's time at the end of the wait.
        asked: The store's answer.

    Raises:
        StoreUnavailableError: It has not answered by then.
    """
    try:
        async with asyncio.timeout_at(ends + LAST_LOOK_S):
            return await asked
    except TimeoutError:
        raise StoreUnavailableError("Redis did not answer by the end of the wait.", may_have_run=True) from None


def as_stored(created: Created, queue: str) -> StoredTask:
    """What a create that asked for the task JSON has found."""
    return StoredTask(created.uuid, queue, created.seal, created.state, created.document or b"")


def last_known(created: Created, queue: str) -> StoredTask:
    """What is certain of a task that was confirmed but never read; only told when the store is away."""
    document = {
        "uuid": created.uuid,
        "queue": queue,
        "state": created.state,
        "attempt": created.attempt,
        "created_at": rfc3339(created.created_ms),
        "expires_at": rfc3339(created.expires_ms),
    }
    return StoredTask(created.uuid, queue, created.seal, created.state, msgspec.json.encode(document))
