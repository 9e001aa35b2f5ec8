"""taskiq with its Redis list broker behind FastAPI, as its documentation shows it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

URL = os.environ["PEER_REDIS_URL"]

queue = ListQueueBroker(url=URL).with_result_backend(RedisAsyncResultBackend(redis_url=URL))


@queue.task
async def noop() -> int:
    """A task without work."""
    return 1


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Connects the queue."""
    await queue.startup()
    yield
    await queue.shutdown()


app = FastAPI(lifespan=lifespan)


@app.get("/createTask")
async def create() -> int:
    """Enqueues it and waits."""
    task = await noop.kiq()
    return int((await task.wait_result(timeout=30)).return_value)
