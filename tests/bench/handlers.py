"""What the workers of the benchmarks run: nothing, as fast as it goes."""

from __future__ import annotations

from typing import Any

from broker import Task, Worker


async def noop(_task: Task) -> int:
    """A task without work."""
    return 1


async def echo(task: Task) -> Any:
    """Gives back its payload."""
    return task.payload


def new_worker() -> Worker:
    """One that serves the queues `noop` and `echo`."""
    made = Worker()
    made.handler("noop", concurrency=64)(noop)
    made.handler("echo", concurrency=64)(echo)
    return made


worker = new_worker()
