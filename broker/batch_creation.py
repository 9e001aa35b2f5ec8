"""Many tasks created in one call: each has an answer of its own, and one that fails harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from broker.errors import BrokerError, StoreUnavailableError
from broker.holding import last_known
from broker.items import Item, fitting
from broker.requests import NewTask, in_item
from broker.store.creates import Created
from broker.store.queries import SEVERAL_PER_SCRIPT, Queries, StoredTask
from broker.store.transitions import Transitions

SLICE_S: Final = 0.005
"""How long tasks are checked before others of this process have a turn: a body of 16 MiB takes some 200 ms."""

T = TypeVar("T")


async def check_all(items: Iterable[T], check: Callable[[T], NewTask]) -> list[NewTask | BrokerError]:
    """Checks the tasks of a batch one by one; what `check` raises names the task and stands in its place."""
    loop = asyncio.get_running_loop()
    checked: list[NewTask | BrokerError] = []
    began = loop.time()
    for place, item in enumerate(items):
        try:
            checked.append(check(item))
        except BrokerError as error:
            checked.append(in_item(error, place))
        if loop.time() - began > SLICE_S:
            await asyncio.sleep(0)
            began = loop.time()
    return checked


class BatchCreation:
    """Creates batches.

    Args:
        transitions: Creates.
        queries: Reads the tasks that were there before.
        most_bytes: The most task JSON that one answer carries.
    """

    def __init__(self, transitions: Transitions, queries: Queries, *, most_bytes: int) -> None:
        self._transitions = transitions
        self._queries = queries
        self._most_bytes = most_bytes

    async def create(self, tasks: Sequence[NewTask | BrokerError]) -> list[Item]:
        """Creates those that passed, or attaches; the answers are in order.

        Raises:
            StoreUnavailableError: Redis has confirmed none of them.
        """
        new = {place: task for place, task in enumerate(tasks) if isinstance(task, NewTask)}
        created = dict(zip(new, await self._transitions.create_all(list(new.values())), strict=True))
        _raise_outage(list(created.values()))
        known = {place: last_known(one, new[place].queue) for place, one in created.items() if isinstance(one, Created)}
        older = [place for place, one in created.items() if isinstance(one, Created) and not one.is_new]
        errors = {place: error for place, error in enumerate(tasks) if isinstance(error, BrokerError)}
        errors |= {place: in_item(error, place) for place, error in created.items() if isinstance(error, BrokerError)}
        items: dict[int, Item] = {**known, **errors, **await self._read({place: known[place] for place in older})}
        return fitting([items[place] for place in range(len(tasks))], self._most_bytes)

    async def _read(self, known: dict[int, StoredTask]) -> dict[int, Item]:
        """Tasks that were there before may have ended, and have values. One whose record has gone since is told as the
        create found it."""
        items: dict[int, Item] = {}
        left = self._most_bytes
        places = list(known)
        for start in range(0, len(places), SEVERAL_PER_SCRIPT):
            some = places[start : start + SEVERAL_PER_SCRIPT]
            found = await self._queries.read_several([known[place].uuid for place in some], most_bytes=max(left, 0))
            for place, task in zip(some, found, strict=True):
                items[place] = known[place] if isinstance(task, BrokerError) else task
                left -= 0 if isinstance(task, BrokerError) else len(task.document)
        return items


def _raise_outage(created: Sequence[Created | BrokerError]) -> None:
    """A batch that nothing came of because of an outage may be sent again as a whole."""
    for one in created:
        if not isinstance(one, StoreUnavailableError):
            return
    for one in created:
        if isinstance(one, StoreUnavailableError):
            raise one
