"""Waiting for several tasks in one call, until all of them have ended or the first one has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broker.background import Background
from broker.capacity import Capacity
from broker.deadlines import MOST_S
from broker.errors import BrokerError, StoreUnavailableError
from broker.holding import answered_by
from broker.items import Item, fitting
from broker.requests import Until
from broker.response_hub import ResponseHub, Waiter
from broker.store.queries import Queries, StoredTask


class Gathering:
    """The calls of one process that wait for several tasks.

    Args:
        hub: Where each of the waits is held.
        queries: Reads.
        capacity: How many waits this process may hold: a call counts for as many as it waits for.
        most_bytes: The most task JSON that one answer carries.
    """

    def __init__(self, hub: ResponseHub, queries: Queries, capacity: Capacity, *, most_bytes: int) -> None:
        self._hub = hub
        self._queries = queries
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._background = Background()

    async def close(self) -> None:
        """Ends what runs beside the held calls."""
        await self._background.cancel()

    async def gather(self, uuids: Sequence[str], wait_s: float, until: Until) -> list[Item]:
        """Reads tasks and, while not enough of them have ended, holds until they have or the wait is over.

        An unknown task counts as one that has ended: its record is gone. A uuid that is given twice is answered twice.

        Args:
            uuids: At most `SEVERAL_PER_SCRIPT`.
            wait_s: Seconds to hold at most.
            until: Whether all must have ended, or any.

        Raises:
            TooManyWaitersError: They are open, and not so many more waits are held here.
            StoreUnavailableError
        """
        # uvloop has no timer that never ends.
        ends = self._now() + min(wait_s, MOST_S)
        names = list(dict.fromkeys(uuids))
        read = await answered_by(ends, self._queries.read_several(names, most_bytes=self._most_bytes))
        items = dict(zip(names, read, strict=True))
        still_open = _open(items)
        if wait_s > 0 and still_open and (until == "all" or len(still_open) == len(items)):
            self._capacity.refuse_beyond(len(still_open))
            await self._hold(items, still_open, ends, until)
        return fitting([items[uuid] for uuid in uuids], self._most_bytes)

    async def _hold(self, items: dict[str, Item], still_open: list[StoredTask], ends: float, until: Until) -> None:
        waiters = [self._hub.join(task.queue, task.uuid, task.seal, ends - self._now()) for task in still_open]
        try:
            for waiter in waiters:
                waiter.confirm(waiter.seal)
            # Beside the wait, which ends when it must, whatever Redis does.
            self._background.spawn(self._read_subscribed(waiters), "read behind subscriptions")
            await _enough(waiters, until)
            for waiter in waiters:
                items[waiter.channel.uuid] = await _outcome(waiter) or items[waiter.channel.uuid]
        finally:
            for waiter in waiters:
                self._hub.leave(waiter)
        await self._read_last(items)

    async def _read_subscribed(self, waiters: list[Waiter]) -> None:
        """Their channels were unknown before the first read: subscribed, acknowledged, and read again.

        In an outage the wait goes on with what is known: after a reconnect the hub looks at every waited task.
        """
        try:
            await self._hub.confirm()
            items = await self._read([waiter.channel.uuid for waiter in waiters])
        except BrokerError:
            return
        for waiter, item in zip(waiters, items, strict=True):
            if isinstance(item, BrokerError):
                waiter.set_error(item)
            elif item.state.is_terminal:
                waiter.set_result(item)

    async def _read_last(self, items: dict[str, Item]) -> None:
        """Whoever says "not yet" has looked once more: a message may have been lost."""
        names = [task.uuid for task in _open(items)]
        try:
            items.update(zip(names, await answered_by(self._now(), self._read(names)), strict=True))
        except StoreUnavailableError:
            # What is known of them was true a moment ago.
            return

    async def _read(self, names: Sequence[str]) -> list[Item]:
        return await self._queries.read_several(names, most_bytes=self._most_bytes)

    def _now(self) -> float:
        return self._hub.deadlines.loop.time()


def _open(items: dict[str, Item]) -> list[StoredTask]:
    return [item for item in items.values() if isinstance(item, StoredTask) and not item.state.is_terminal]


async def _enough(waiters: Sequence[Waiter], until: Until) -> None:
    """Returns when all of the waits are over, or any of them; when the time is over, all are."""
    enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = len(waiters) if until == "all" else 1

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0 and not enough.done():
            enough.set_result(None)

    for waiter in waiters:
        waiter.call_when_settled(count)
    await enough


async def _outcome(waiter: Waiter) -> Item | None:
    """How a wait has ended; None while it has not, or when its time was over."""
    if not waiter.is_settled:
        return None
    try:
        return await waiter.wait()
    except BrokerError as error:
        return error
