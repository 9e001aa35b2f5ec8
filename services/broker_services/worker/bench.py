"""What `broker bench` needs a worker for: `broker worker broker_services.worker.bench:worker`."""

from __future__ import annotations

from broker import Task, Worker

worker = Worker()


@worker.handler("bench", concurrency=64)
async def bench(_task: Task) -> int:
    """A task without work."""
    return 1
