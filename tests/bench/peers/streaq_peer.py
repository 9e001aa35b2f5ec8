"""streaq behind FastAPI, as its documentation shows it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from streaq import Worker

worker = Worker(redis_url=os.environ["PEER_REDIS_URL"])


@worker.task
async def noop() -> int:
    """A task without work."""
    return 1


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Connects the queue."""
    async with worker:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/createTask")
async def create() -> int:
    """Enqueues it and waits."""
    task = await noop.enqueue()
    return int((await task.result(30)).result)
