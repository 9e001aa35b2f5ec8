"""createTask through one API and one worker process, against bare uvicorn and the peers in the same rounds.

Rounds go through all of them in turn, so that the drift of a shared machine meets each. Every system answers 64
connections, then one.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Final

from tests.bench import load, processes
from tests.bench.accounting import cpu_s
from tests.bench.budget import Budget
from tests.bench.deployment import deployed
from tests.bench.figures import Figures
from tests.bench.peers import deployment as peers

CONNECTIONS: Final = 64
WARM_UP_S: Final = 2


def run(budget: Budget) -> Figures:
    """All rounds."""
    figures = Figures()
    with ExitStack() as stack:
        systems = {"broker": _broker(stack), "uvicorn": _uvicorn(stack)}
        for name in peers.NAMES:
            peer = stack.enter_context(peers.peer(name, budget.cache))
            systems[name] = (peer.url, peer.accounts)
        for url, _ in systems.values():
            load.run(url, connections=CONNECTIONS, seconds=WARM_UP_S)
        for _ in range(budget.rounds):
            for name, (url, accounts) in systems.items():
                _measure(figures, name, url, accounts, budget.seconds)
    return figures


def _measure(figures: Figures, name: str, url: str, accounts: load.Accounts, seconds: int) -> None:
    many = load.charged(accounts, partial(load.run, url, connections=CONNECTIONS, seconds=seconds))
    figures.add(f"{name}: round trips/s", many.load.rate)
    for process, us in many.cpu_us.items():
        figures.add(f"{name}: {process} CPU, µs a task", us)
    if many.cpu_us:
        figures.add(f"{name}: total CPU, µs a task", many.total_us)
    one = load.run(url, connections=1, seconds=max(1, seconds // 2))
    if one.requests:
        figures.add(f"{name}: p50 at one connection, ms", one.p50_ms)


def _broker(stack: ExitStack) -> tuple[str, load.Accounts]:
    running = stack.enter_context(deployed(workers=1))
    return f"{running.urls[0]}/createTask?queue=noop", running.accounts


def _uvicorn(stack: ExitStack) -> tuple[str, load.Accounts]:
    bare, url = stack.enter_context(processes.bare_uvicorn())
    return f"{url}/createTask", {"API": partial(cpu_s, bare.pid)}
