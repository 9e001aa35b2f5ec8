"""arq behind FastAPI, as its documentation shows it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from fastapi import FastAPI

SETTINGS = RedisSettings.from_dsn(os.environ["PEER_REDIS_URL"])
pools: list[ArqRedis] = []


async def noop(_context: dict[str, Any]) -> int:
    """A task without work."""
    return 1


class WorkerSettings:
    """What `arq` runs."""

    functions = [noop]
    redis_settings = SETTINGS


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Connects the queue."""
    pools.append(await create_pool(SETTINGS))
    yield
    await pools.pop().aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/createTask")
async def create() -> int:
    """Enqueues it and waits."""
    job = await pools[0].enqueue_job("noop")
    return int(await job.result(timeout=30))
