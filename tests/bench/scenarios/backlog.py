"""Claims from a queue of a million pending tasks against one of a thousand.

Only the claims are timed: one task each, several on their way at a time. What was claimed is ended and replaced before
the next batch, so the number of pending tasks stays what it is. Batches of the two alternate: whatever else the machine
does meets both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from broker.store.claims import Claimed
from tests.bench import processes
from tests.bench.accounting import ServerAccount
from tests.bench.budget import Budget
from tests.bench.figures import Figures
from tests.bench.stored import create_many, finish_all
from tests.support.store import Store, open_store

FEW: Final = 1_000
MANY: Final = 1_000_000
BATCH: Final = 400
"""Claims timed between two refills; less than the few."""
LANES: Final = 16


@dataclass
class Queue:
    """One of the two, and what this round's claims from it took."""

    name: str
    store: Store
    account: ServerAccount
    claims: int = 0
    claiming_s: float = 0.0
    cpu_s: float = 0.0


def run(budget: Budget) -> Figures:
    """All rounds."""
    return asyncio.run(_run(budget))


async def _run(budget: Budget) -> Figures:
    figures = Figures()
    many = budget.sized(MANY, at_least=20 * FEW)
    async with _filled(FEW) as small, _filled(many) as large:
        figures.add("pending tasks in the large queue", many)
        for _ in range(budget.rounds):
            await _round(figures, Queue("few", *small), Queue("many", *large), seconds=2 * budget.seconds)
    return figures


async def _round(figures: Figures, *queues: Queue, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for queue in queues:
            await _batch(queue)
    for queue in queues:
        figures.add(f"{queue.name} pending: claims/s", queue.claims / queue.claiming_s)
        figures.add(f"{queue.name} pending: Redis CPU, µs a claim", queue.cpu_s / queue.claims * 1e6)


async def _batch(queue: Queue) -> None:
    spent, began = queue.account.cpu_s(), time.perf_counter()
    lanes = await asyncio.gather(*[_claim(queue.store, BATCH // LANES) for _ in range(LANES)])
    queue.claiming_s += time.perf_counter() - began
    queue.cpu_s += queue.account.cpu_s() - spent
    claimed = [task for lane in lanes for task in lane]
    queue.claims += len(claimed)
    await finish_all(queue.store, claimed)
    await create_many(queue.store, len(claimed))


async def _claim(store: Store, count: int) -> list[Claimed]:
    return [await store.claim_one() for _ in range(count)]


@asynccontextmanager
async def _filled(count: int) -> AsyncIterator[tuple[Store, ServerAccount]]:
    with processes.server() as redis:
        account = ServerAccount(redis.url)
        async with open_store(redis.url) as store:
            await create_many(store, count)
            yield store, account
        account.close()
