"""Many tasks straight through the store's own transitions, as no API call could make them as fast."""

from __future__ import annotations

import asyncio
from typing import Final

from broker.randomness import new_uuid
from broker.store.claims import Claimed
from tests.support.store import Store, succeeded

AT_A_TIME: Final = 500
MOST_PER_CLAIM: Final = 100
NO_LIMIT: Final = 10**9


async def create_many(store: Store, count: int, *, payload: bytes = b"") -> None:
    """Creates tasks with names as the broker makes them."""
    for start in range(0, count, AT_A_TIME):
        names = [new_uuid() for _ in range(start, min(count, start + AT_A_TIME))]
        await asyncio.gather(*[store.create(name, payload=payload, most_pending=NO_LIMIT) for name in names])


async def claim_all(store: Store) -> list[Claimed]:
    """Claims all that is pending."""
    claimed: list[Claimed] = []
    while found := await store.claim(MOST_PER_CLAIM):
        claimed += found
    return claimed


async def finish_all(store: Store, claimed: list[Claimed], result: bytes = b"") -> None:
    """Ends tasks as succeeded."""
    for start in range(0, len(claimed), AT_A_TIME):
        batch = claimed[start : start + AT_A_TIME]
        await asyncio.gather(
            *[store.transitions.finish(task.uuid, succeeded(result), lease=task.lease) for task in batch]
        )
