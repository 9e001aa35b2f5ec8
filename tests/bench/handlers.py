"""What the workers of the benchmarks run: nothing, as fast as it goes."""

from __future__ import annotations

from broker import Task, Worker

worker = Worker()


@worker.handler("noop", concurrency=64)
async def noop(_task: Task) -> int:
    """A task without work."""
    return 1
