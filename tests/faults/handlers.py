"""What the workers of the fault suite run: `tests.faults.handlers:worker`. Each execution writes itself down.

A result names the lease that it was made under, so that whoever sees an outcome sees whose it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from broker import DEFERRED, Task, Worker
from broker.errors import TaskError

POLL_S: Final = 0.01
MAX_ATTEMPTS: Final = 3
FATAL_ATTEMPTS: Final = 2

worker = Worker()


@worker.handler("f-quick", concurrency=32, max_attempts=MAX_ATTEMPTS)
async def run_quickly(task: Task) -> Any:
    """Ends at once."""
    with _written_down(task):
        return _result(task)


@worker.handler("f-slow", concurrency=32, max_attempts=MAX_ATTEMPTS)
async def run_slowly(task: Task) -> Any:
    """Takes the payload's `seconds`."""
    with _written_down(task):
        await asyncio.sleep(task.payload["seconds"])
        return _result(task)


@worker.handler("f-thread", concurrency=8, max_attempts=MAX_ATTEMPTS)
def run_in_thread(task: Task) -> Any:
    """The same as a plain function."""
    with _written_down(task, in_thread=True):
        end, never = time.monotonic() + task.payload["seconds"], threading.Event()
        while time.monotonic() < end and not task.cancelled:
            never.wait(POLL_S)
        return _result(task)


@worker.handler("f-flaky", concurrency=32, max_attempts=MAX_ATTEMPTS)
async def fail_at_first(task: Task) -> Any:
    """Fails in as many attempts as the payload's `failures` says."""
    with _written_down(task):
        if task.attempt <= task.payload["failures"]:
            raise TaskError("Not yet.", code="flaky", details=_result(task), retry=True)
        return _result(task)


@worker.handler("f-deferred", concurrency=32, max_attempts=MAX_ATTEMPTS)
async def defer(task: Task) -> object:
    """Leaves the task to third parties."""
    with _written_down(task):
        return DEFERRED


@worker.handler("f-fatal", concurrency=2, max_attempts=FATAL_ATTEMPTS)
async def kill_the_worker(task: Task) -> None:
    """Ends the process that runs it."""
    with _written_down(task):
        os.kill(os.getpid(), signal.SIGKILL)


def _result(task: Task) -> dict[str, Any]:
    return {"by": _claimed(task).lease, "attempt": task.attempt}


def _claimed(task: Task) -> Any:
    return task.actions.claimed


@contextmanager
def _written_down(task: Task, *, in_thread: bool = False) -> Iterator[None]:
    claimed = _claimed(task)
    # The start of the lease by the server's clock: what it was given, less its length.
    claimed_at = claimed.lease_end_ms / 1_000 - task.payload["lease_s"]
    start = {"uuid": task.uuid, "queue": task.queue, "attempt": task.attempt, "lease": claimed.lease}
    _write(task, {**start, "claimed": claimed_at, "started": time.time(), "pid": os.getpid(), "in_thread": in_thread})
    try:
        yield
    finally:
        _write(task, {"lease": claimed.lease, "ended": time.time()})


def _write(task: Task, line: dict[str, Any]) -> None:
    path = Path(task.payload["folder"]) / f"{os.getpid()}.jsonl"
    with path.open("ab", buffering=0) as log:
        log.write(json.dumps(line).encode() + b"\n")
