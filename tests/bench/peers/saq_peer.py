"""saq behind FastAPI, as its documentation shows it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from saq import Queue

queue = Queue.from_url(os.environ["PEER_REDIS_URL"])


async def noop(_context: dict[str, Any]) -> int:
    """A task without work."""
    return 1


settings = {"queue": queue, "functions": [noop]}


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Connects the queue."""
    await queue.connect()
    yield
    await queue.disconnect()


app = FastAPI(lifespan=lifespan)


@app.get("/createTask")
async def create() -> int:
    """Enqueues it and waits."""
    return int(await queue.apply("noop", timeout=30))
