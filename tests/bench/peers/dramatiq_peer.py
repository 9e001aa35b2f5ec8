"""dramatiq behind FastAPI, as its documentation shows it: the results middleware, and a plain endpoint that blocks."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from fastapi import FastAPI

URL = os.environ["PEER_REDIS_URL"]

queue = RedisBroker(url=URL)
queue.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(queue)
app = FastAPI()


@dramatiq.actor(store_results=True)
def noop() -> int:
    """A task without work."""
    return 1


@app.get("/createTask")
def create() -> int:
    """Enqueues it and waits."""
    return int(noop.send().get_result(block=True, timeout=30_000))
