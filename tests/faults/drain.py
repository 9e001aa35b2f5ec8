"""`python -m tests.faults.drain --calls 5000`: how long an instance takes from SIGTERM to its end under held calls."""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec
import redis.asyncio as redis

from broker.store.embedded import EmbeddedServer
from tests.faults.caller import Caller
from tests.faults.history import Call
from tests.support.api import ApiProcess

HELD_DEADLINE_S: Final = 60.0
WAIT_S: Final = 90.0
SPARE_DESCRIPTORS: Final = 200
AT_A_TIME: Final = 200
"""Calls opened together: what a listener's backlog takes at ease."""


class Drained(msgspec.Struct, frozen=True):
    """What came of it: seconds from SIGTERM to the last answer and to the end of the process."""

    answers: dict[str, int]
    last_answer_s: float
    exit_s: float
    exit_code: int | None


def allow_descriptors(calls: int) -> bool:
    """Raises this process's limit (children inherit it) as far as it takes, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = calls + SPARE_DESCRIPTORS
    if soft < needed <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return needed <= hard


async def drain_under(calls: int, folder: Path) -> Drained:
    """Holds so many calls on one instance, and tells it to end.

    Args:
        calls: Held at the same time.
        folder: For its log.
    """
    with EmbeddedServer() as server, ApiProcess(server.url, log=folder / "api.log") as instance:
        history: list[Call] = []
        caller = Caller("held", {"api1": instance.port}, history)
        opening = asyncio.Semaphore(AT_A_TIME)
        held = [asyncio.create_task(_hold(caller, number, opening)) for number in range(calls)]
        await _until_subscribed(server.url, calls)
        began = time.time()
        instance.terminate()
        exiting = asyncio.to_thread(instance.process.wait, HELD_DEADLINE_S)
        exit_code, *_ = await asyncio.gather(exiting, *held)
        ended = time.time()
    answers = Counter(str(call.status or call.failure) for call in history)
    last = max(call.ended for call in history)
    # The process's end is seen by a thread that blocks on it, and so may be seen before the last answer is read.
    return Drained(dict(answers), last - began, ended - began, exit_code)


async def _hold(caller: Caller, number: int, opening: asyncio.Semaphore) -> None:
    async with opening:
        call = asyncio.create_task(caller.create("api1", {"uuid": f"t{number}", "queue": "nobody", "wait": WAIT_S}))
        await asyncio.sleep(0.02)
    await call


async def _until_subscribed(url: str, calls: int) -> None:
    async with asyncio.timeout(HELD_DEADLINE_S), redis.Redis.from_url(url) as store:
        while len(await store.pubsub_channels("*-response-*")) < calls:  # noqa: ASYNC110 - another process tells
            await asyncio.sleep(0.05)


def main() -> int:
    """Measures and prints it; 1 when a call was not answered 202 or the exit status is not 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.drain")
    parser.add_argument("--calls", type=int, default=5_000)
    calls = parser.parse_args().calls
    if not allow_descriptors(calls):
        print(f"{calls} calls need a higher limit of open files: see `ulimit -Hn`.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        drained = asyncio.run(drain_under(calls, Path(folder)))
    print(
        f"{calls} held calls: answers {drained.answers}, the last one {drained.last_answer_s:.2f} s after SIGTERM; "
        f"exit {drained.exit_code} after {drained.exit_s:.2f} s"
    )
    return 0 if drained.answers == {"202": calls} and drained.exit_code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
