"""`python -m tests.bench.fleet_process REDIS_URL COUNT`: many workers in one process, each with its own connections.

For Redis they are what as many processes would be. A line on standard input is answered by one of JSON: what they have
claimed so far. The end of the input ends them.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from broker import Settings, Worker
from broker_services.loop import loop_factory
from tests.bench import processes
from tests.bench.handlers import new_worker
from tests.support.store import until

READY_DEADLINE_S: Final = 60.0


class Claims(NamedTuple):
    """What a fleet has done so far: how often it asked, and how many tasks it got."""

    attempts: int
    tasks: int


class Fleet:
    """The parent's side.

    Args:
        process: With pipes to its standard input and output.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def claims(self) -> Claims:
        """Of all workers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Claims(*json.loads(self._process.stdout.readline()))


@contextmanager
def fleet(redis_url: str, count: int) -> Iterator[Fleet]:
    """So many workers; ready once they have answered."""
    command = [sys.executable, "-m", "tests.bench.fleet_process", redis_url, str(count)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=processes.ROOT,
        env=processes.environment(),
    ) as process:
        running = Fleet(process)
        running.claims()
        try:
            yield running
        finally:
            process.communicate()


async def _work(redis_url: str, count: int) -> None:
    settings, stop = Settings(redis_url=redis_url, drain_s=0.0), asyncio.Event()
    workers = [new_worker() for _ in range(count)]
    running = [asyncio.create_task(worker.run(settings, stop=stop)) for worker in workers]
    await until(lambda: all(worker.state for worker in workers), "all workers are connected", READY_DEADLINE_S)
    await _answer(workers)
    stop.set()
    await asyncio.gather(*running)


async def _answer(workers: Sequence[Worker]) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        attempts = sum(worker.measures.claims for worker in workers)
        tasks = sum(sum(worker.measures.claimed.values()) for worker in workers)
        print(json.dumps([attempts, tasks]), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_work(sys.argv[1], int(sys.argv[2])))
