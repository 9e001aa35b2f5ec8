"""What a task takes in Redis while it is pending, running and finished."""

from __future__ import annotations

import asyncio
from typing import Final

from broker.store.embedded import EmbeddedServer
from tests.bench import processes
from tests.bench.accounting import ServerAccount
from tests.bench.budget import Budget
from tests.bench.figures import Figures
from tests.bench.stored import claim_all, create_many, finish_all
from tests.support.store import open_store

TASKS: Final = 100_000
VALUES: Final = {"no values": b"", "payload and result of 1 kB": b'"' + b"x" * 1022 + b'"'}


def run(budget: Budget) -> Figures:
    """At most two rounds: allocators hardly vary."""
    figures = Figures()
    for _ in range(min(2, budget.rounds)):
        for name, value in VALUES.items():
            with processes.server() as redis:
                asyncio.run(_stages(figures, redis, name, value, budget.sized(TASKS)))
    return figures


async def _stages(figures: Figures, redis: EmbeddedServer, name: str, value: bytes, count: int) -> None:
    account = ServerAccount(redis.url)
    async with open_store(redis.url) as store:
        empty = account.used_bytes()

        def add(state: str) -> None:
            figures.add(f"{state}, {name}: bytes a task", (account.used_bytes() - empty) / count)

        await create_many(store, count, payload=value)
        add("pending")
        claimed = await claim_all(store)
        add("running")
        await finish_all(store, claimed, value)
        add("finished")
    account.close()
