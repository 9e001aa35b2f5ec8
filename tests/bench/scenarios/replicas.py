"""What it costs that a replica has to confirm: the same load with `BROKER_WAIT_REPLICAS` 0 and 1, in turns.

Each has a master with one replica of its own, so that replication itself is paid by both.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import Final

from tests.bench import load, processes
from tests.bench.accounting import ServerAccount
from tests.bench.budget import Budget
from tests.bench.deployment import Deployment, deployed_on
from tests.bench.figures import Figures

CONNECTIONS: Final = 64
WARM_UP_S: Final = 2
ATTACH_DEADLINE_S: Final = 10.0


def run(budget: Budget) -> Figures:
    """All rounds."""
    figures = Figures()
    with ExitStack() as stack:
        systems = {f"wait {count}": _replicated(stack, count) for count in (0, 1)}
        for running, _ in systems.values():
            load.run(_url(running), connections=CONNECTIONS, seconds=WARM_UP_S)
        for _ in range(budget.rounds):
            for name, (running, accounts) in systems.items():
                _measure(figures, name, _url(running), accounts, budget.seconds)
    return figures


def _measure(figures: Figures, name: str, url: str, accounts: load.Accounts, seconds: int) -> None:
    many = load.charged(accounts, partial(load.run, url, connections=CONNECTIONS, seconds=seconds))
    figures.add(f"{name}: round trips/s", many.load.rate)
    for process, us in many.cpu_us.items():
        figures.add(f"{name}: {process} CPU, µs a task", us)
    figures.add(f"{name}: total CPU, µs a task", many.total_us)
    one = load.run(url, connections=1, seconds=max(1, seconds // 2))
    figures.add(f"{name}: p50 at one connection, ms", one.p50_ms)


def _replicated(stack: ExitStack, wait_replicas: int) -> tuple[Deployment, load.Accounts]:
    master = stack.enter_context(processes.server())
    replica = stack.enter_context(processes.server(replicaof=f"127.0.0.1 {master.port}"))
    accounts = [ServerAccount(server.url) for server in (master, replica)]
    for account in accounts:
        stack.callback(account.close)
    _until_attached(accounts[0])
    running = stack.enter_context(deployed_on(master, workers=1, wait_replicas=str(wait_replicas)))
    return running, {**running.accounts, "replica": accounts[1].cpu_s}


def _until_attached(master: ServerAccount) -> None:
    deadline = time.monotonic() + ATTACH_DEADLINE_S
    while not master.has_replica():
        if time.monotonic() > deadline:
            raise RuntimeError("The replica does not follow its master.")
        time.sleep(0.05)


def _url(running: Deployment) -> str:
    return f"{running.urls[0]}/createTask?queue=noop"
