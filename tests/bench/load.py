"""Closed-loop load: `wrk` where it is installed, else a client of ours in a process of its own.

A closed loop asks again when it is answered, so its latencies leave out what an open loop would have queued; rates and
CPU time per request, which is what the benchmarks compare, are not touched by that.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from tests.bench.figures import percentile

_COUNT: Final = re.compile(r"(\d+) requests in ([\d.]+)(s|m)")
_MEDIAN: Final = re.compile(r"50%\s+([\d.]+)(us|ms|s)")
_REFUSED: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_BROKEN: Final = re.compile(r"Socket errors: (connect (\d+), read (\d+), write (\d+))")
_MILLISECONDS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class LoadError(RuntimeError):
    """A run that gives no figures: nothing was answered, or not all was answered well."""


class Load(NamedTuple):
    """What a run did; at least one request."""

    requests: int
    seconds: float
    p50_ms: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class Cost(NamedTuple):
    """A run, and the CPU time per request that each account was charged meanwhile, in µs."""

    load: Load
    cpu_us: Mapping[str, float]

    @property
    def total_us(self) -> float:
        """Of all accounts."""
        return sum(self.cpu_us.values())


Accounts = Mapping[str, Callable[[], float]]
"""By name, what tells the CPU seconds used so far."""


def generator() -> str:
    """The load generator that `run` uses."""
    return "wrk" if shutil.which("wrk") else "tests.bench.load"


def run(*urls: str, connections: int, seconds: int) -> Load:
    """GETs each URL over so many connections for so long, all at the same time.

    Raises:
        LoadError: Nothing was answered, an answer was no 2xx, or a connection broke.
    """
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(_command(url, connections, seconds), stdout=subprocess.PIPE, text=True)
            )
            for url in urls
        ]
        printed = [process.communicate()[0] for process in started]
    return _joined([_parsed(text) for text in printed])


def charged(accounts: Accounts, work: Callable[[], Load]) -> Cost:
    """Runs `work` and divides what it cost by its requests."""
    before = {name: spent() for name, spent in accounts.items()}
    done = work()
    spent_us = {name: (spent() - before[name]) * 1e6 for name, spent in accounts.items()}
    return Cost(done, {name: us / done.requests for name, us in spent_us.items()})


def _joined(loads: Sequence[Load]) -> Load:
    """Side by side: the requests of all in the time of the longest."""
    return Load(
        sum(load.requests for load in loads),
        max(load.seconds for load in loads),
        percentile((load.p50_ms for load in loads), 0.5),
    )


def _command(url: str, connections: int, seconds: int) -> list[str]:
    if generator() == "wrk":
        return ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
    return [sys.executable, "-m", "tests.bench.load", url, str(connections), str(seconds)]


def _parsed(printed: str) -> Load:
    if printed.startswith("{"):
        return Load(**json.loads(printed))
    count, median = _COUNT.search(printed), _MEDIAN.search(printed)
    if count is None or median is None:
        raise LoadError(f"{generator()} could not be run: {printed or 'it printed nothing'}")
    if int(count[1]) == 0:
        raise LoadError("no answer")
    if refused := _REFUSED.search(printed):
        raise LoadError(f"{refused[1]} of {count[1]} answers were no success")
    # Timeouts, which stand in the same line, are slow answers: the rate tells of them.
    broken = _BROKEN.search(printed)
    if broken is not None and any(map(int, broken.groups()[1:])):
        raise LoadError(f"connections broke: {broken[1]}")
    seconds = float(count[2]) * (60 if count[3] == "m" else 1)
    return Load(int(count[1]), seconds, float(median[1]) * _MILLISECONDS[median[2]])


async def _load(url: str, connections: int, seconds: float) -> Load:
    from tests.support.swift_http import SwiftHttp

    base, _, path = url.partition("/createTask")
    latencies: list[float] = []
    started = time.monotonic()
    async with SwiftHttp(base) as http:

        async def lane() -> None:
            while (sent := time.monotonic()) < started + seconds:
                answer = await http.get(f"/createTask{path}")
                if answer.status >= 300:
                    raise RuntimeError(f"{url} answered {answer.status}")
                latencies.append(time.monotonic() - sent)

        await asyncio.gather(*[lane() for _ in range(connections)])
    return Load(len(latencies), time.monotonic() - started, percentile(latencies, 0.5) * 1e3)


def _main(arguments: list[str]) -> Any:
    url, connections, seconds = arguments
    return asyncio.run(_load(url, int(connections), float(seconds)))._asdict()


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1:])))
