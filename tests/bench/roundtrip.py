"""`python -m tests.bench.roundtrip`: createTask through one API and one worker process against bare uvicorn.

Rounds alternate between the two, so that the drift of a shared machine meets both. Prints medians and spread: the rate,
its ratio to uvicorn's, and the CPU time per task of each process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.bench import load, processes

WARM_UP_S: Final = 2
QUARTER: Final = 0.25
"""The least ratio of the rates that counts as passed."""


def measure(rounds: int, seconds: int, connections: int) -> Mapping[str, Any]:
    """All rounds; medians and spread by name."""
    with (
        processes.bare_uvicorn() as (bare, bare_url),
        processes.server() as redis,
        processes.worker(redis.url) as worker,
        processes.api(redis.url) as (api, api_url),
    ):
        url = f"{api_url}/createTask?queue=noop"
        load.run(url, connections=connections, seconds=WARM_UP_S)
        pids = {"api": api.pid, "worker": worker.pid, "redis": redis.pid}
        samples: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, value in _round(bare_url, bare.pid, url, pids, seconds, connections).items():
                samples.setdefault(name, []).append(value)
    return {name: _summary(values) for name, values in samples.items()}


def _round(
    bare_url: str, bare_pid: int, url: str, pids: Mapping[str, int], seconds: int, connections: int
) -> Mapping[str, float]:
    bare, bare_us = _loaded(lambda: load.run(bare_url, connections=connections, seconds=seconds), {"bare": bare_pid})
    ours, us = _loaded(lambda: load.run(url, connections=connections, seconds=seconds), pids)
    total = sum(us.values())
    return {
        "uvicorn requests/s": bare.rate,
        "uvicorn CPU µs": bare_us["bare"],
        "tasks/s": ours.rate,
        "rate ratio": ours.rate / bare.rate,
        **{f"{name} CPU µs a task": value for name, value in us.items()},
        "total CPU µs a task": total,
        "CPU ratio": total / bare_us["bare"],
    }


def _loaded(work: Callable[[], load.Load], pids: Mapping[str, int]) -> tuple[load.Load, Mapping[str, float]]:
    before = {name: processes.cpu_s(pid) for name, pid in pids.items()}
    done = work()
    return done, {name: (processes.cpu_s(pid) - before[name]) / done.requests * 1e6 for name, pid in pids.items()}


def _summary(values: list[float]) -> Mapping[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> int:
    """Prints the table, or JSON; exit status 1 when the median ratio of the rates is below a quarter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options.rounds, options.seconds, options.connections)
    if options.json:
        sys.stdout.write(json.dumps({"load": load.generator(), "results": results}) + "\n")
    else:
        sys.stdout.write(f"load by {load.generator()}, {options.connections} connections, {options.rounds} rounds\n")
        for name, found in results.items():
            sys.stdout.write(f"{name:24} {found['median']:10.2f}   ({found['least']:.2f} to {found['most']:.2f})\n")
    return 0 if results["rate ratio"]["median"] >= QUARTER else 1


if __name__ == "__main__":
    sys.exit(main())
