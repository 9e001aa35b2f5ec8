"""Claims from a queue of a million pending tasks against one of a thousand.

Only the claims are timed: one task each, several on their way at a time. What was claimed is ended and replaced before
the next batch, so the number of pending tasks stays what it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from broker.store.transitions import Claimed
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


def run(budget: Budget) -> Figures:
    """All rounds, the two queues in turn."""
    return asyncio.run(_run(budget))


async def _run(budget: Budget) -> Figures:
    figures = Figures()
    many = budget.sized(MANY, at_least=20 * FEW)
    async with _filled(FEW) as small, _filled(many) as large:
        figures.add("pending tasks in the large queue", many)
        for _ in range(budget.rounds):
            for name, (store, account) in (("few", small), ("many", large)):
                await _measure(figures, name, store, account, budget.seconds)
    return figures


async def _measure(figures: Figures, name: str, store: Store, account: ServerAccount, seconds: float) -> None:
    claims, claiming_s, cpu_s = 0, 0.0, 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        spent, began = account.cpu_s(), time.perf_counter()
        lanes = await asyncio.gather(*[_claim(store, BATCH // LANES) for _ in range(LANES)])
        claiming_s += time.perf_counter() - began
        cpu_s += account.cpu_s() - spent
        claimed = [task for lane in lanes for task in lane]
        claims += len(claimed)
        await finish_all(store, claimed)
        await create_many(store, len(claimed))
    figures.add(f"{name} pending: claims/s", claims / claiming_s)
    figures.add(f"{name} pending: Redis CPU, µs a claim", cpu_s / claims * 1e6)


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
