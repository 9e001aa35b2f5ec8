"""What the worker of the tests runs: `tests.support.handlers:worker`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any, Final

from broker import DEFERRED, Task, Worker
from broker.errors import TaskError

POLL_S: Final = 0.01

worker = Worker()


@worker.handler("test-echo")
async def echo(task: Task) -> Any:
    """Returns the payload."""
    return task.payload


@worker.handler("test-fails", max_attempts=1)
async def fail(task: Task) -> None:
    """Fails with everything that an error can have."""
    raise TaskError("There is no such branch.", code="no-branch", details={"branch": task.payload})


@worker.handler("test-deferred")
async def defer(_task: Task) -> object:
    """Leaves the task to a third party."""
    return DEFERRED


@worker.handler("test-deferred-within")
async def defer_within(task: Task) -> object:
    """Leaves the task to a third party for as many seconds as the payload says."""
    return DEFERRED.within(task.payload)


@worker.handler("test-endless")
async def run_endlessly(task: Task) -> None:
    """Runs until it is cancelled. The payload is the folder for the files that tell so."""
    folder = Path(task.payload)
    (folder / "started").touch()
    try:
        await asyncio.Event().wait()
    finally:
        (folder / "cancelled").touch()


@worker.handler("test-stubborn")
async def take_no_notice(task: Task) -> None:
    """Goes on although it is cancelled."""
    folder = Path(task.payload)
    (folder / "started").touch()
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


@worker.handler("test-endless-thread")
def run_endlessly_in_thread(task: Task) -> None:
    """The same as a plain function."""
    folder = Path(task.payload)
    (folder / "started").touch()
    never = threading.Event()
    while not task.cancelled:
        never.wait(POLL_S)
    (folder / "cancelled").touch()


@worker.handler("test-killer", max_attempts=2)
async def kill_worker(task: Task) -> None:
    """Ends its own process as the system would, and tells so by a file in the payload's folder."""
    (Path(task.payload) / f"{os.getpid()}-{task.attempt}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


@worker.handler("test-slow", timeout=0.2, max_attempts=2, min_backoff=0.01, max_backoff=0.02)
async def run_too_long(task: Task) -> None:
    """Is over its time in every attempt, and tells when it is cancelled."""
    try:
        await asyncio.Event().wait()
    finally:
        (Path(task.payload) / f"cancelled-{task.attempt}").touch()


@worker.handler("test-slow-thread", timeout=0.2, max_attempts=1)
def run_too_long_in_thread(task: Task) -> str:
    """Goes on until there is a file `gate`, however late that is, and returns a result."""
    folder = Path(task.payload)
    never = threading.Event()
    while not (folder / "gate").exists():
        never.wait(POLL_S)
    (folder / "returned").touch()
    return "late"


@worker.handler("test-log", concurrency=64)
async def log_execution(task: Task) -> Any:
    """Writes a line per execution into the payload's folder, a file a process, and returns the payload's number."""
    with (Path(task.payload["folder"]) / f"{os.getpid()}.log").open("a") as log:
        log.write(f"{task.uuid} {task.attempt}\n")
    return task.payload["number"]


@worker.handler("test-gated")
async def wait_for_gate(task: Task) -> Any:
    """Tells where it runs, by a file of that name in the payload's folder, and ends when there is a file `gate`."""
    folder = Path(task.payload)
    (folder / f"{os.getpid()}-{task.attempt}").touch()
    while not (folder / "gate").exists():  # noqa: ASYNC110 - another process makes the file
        await asyncio.sleep(POLL_S)
    return {"by": os.getpid(), "attempt": task.attempt}
