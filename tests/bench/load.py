"""Closed-loop load: `wrk` where it is installed, else a client of ours in a process of its own.

A closed loop asks again when it is answered, so its latencies leave out what an open loop would have queued; rates and
CPU time per request, which is what the benchmarks compare, are not touched by that.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from typing import Final, NamedTuple

_COUNT: Final = re.compile(r"(\d+) requests in ([\d.]+)(s|m)")
_FAILED: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")


class Load(NamedTuple):
    """What a run did."""

    requests: int
    seconds: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def generator() -> str:
    """The load generator that `run` uses."""
    return "wrk" if shutil.which("wrk") else "tests.bench.load"


def run(url: str, *, connections: int, seconds: int) -> Load:
    """GETs `url` over so many connections for so long. Raises RuntimeError when an answer was no 2xx."""
    if generator() == "wrk":
        return _run_wrk(url, connections, seconds)
    command = [sys.executable, "-m", "tests.bench.load", url, str(connections), str(seconds)]
    requests, took = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return Load(int(requests), float(took))


def _run_wrk(url: str, connections: int, seconds: int) -> Load:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = _COUNT.search(printed)
    if found is None or _FAILED.search(printed):
        raise RuntimeError(f"wrk could not load {url}:\n{printed}")
    return Load(int(found.group(1)), float(found.group(2)))


async def _load(url: str, connections: int, seconds: float) -> Load:
    from tests.support.swift_http import SwiftHttp

    base, _, path = url.partition("/createTask")
    end = time.monotonic() + seconds
    async with SwiftHttp(base) as http:

        async def lane() -> int:
            count = 0
            while time.monotonic() < end:
                answer = await http.get(f"/createTask{path}" if path else "/")
                if answer.status >= 300:
                    raise RuntimeError(f"{url} answered {answer.status}")
                count += 1
            return count

        started = time.monotonic()
        counts = await asyncio.gather(*[lane() for _ in range(connections)])
        return Load(sum(counts), time.monotonic() - started)


if __name__ == "__main__":
    done = asyncio.run(_load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
    print(done.requests, done.seconds)
