"""Celery behind FastAPI, as its documentation shows it: a plain endpoint that waits for the result."""

from __future__ import annotations

import os

from celery import Celery
from fastapi import FastAPI

URL = os.environ["PEER_REDIS_URL"]

queue = Celery("peer", broker=URL, backend=URL)
app = FastAPI()


@queue.task
def noop() -> int:
    """A task without work."""
    return 1


@app.get("/createTask")
def create() -> int:
    """Enqueues it and waits."""
    return int(noop.delay().get(timeout=30))
