"""What it costs to keep what was answered: one Redis that flushes each second or always, a replica, one that confirms.

The last two have a master with one replica each, so that replication itself is paid by both.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from broker.store.embedded import EmbeddedServer
from tests.bench import load
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
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="broker-bench-")))
        systems = {
            "everysec": _alone(stack, folder, "everysec"),
            "always": _alone(stack, folder, "always"),
            "replica": _replicated(stack, folder, 0),
            "replica, wait 1": _replicated(stack, folder, 1),
        }
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


def _alone(stack: ExitStack, folder: Path, flushes: str) -> tuple[Deployment, load.Accounts]:
    server = stack.enter_context(EmbeddedServer(folder / flushes, options={"appendfsync": flushes}))
    running = stack.enter_context(deployed_on(server, workers=1))
    return running, running.accounts


def _replicated(stack: ExitStack, folder: Path, wait_replicas: int) -> tuple[Deployment, load.Accounts]:
    master = stack.enter_context(EmbeddedServer(folder / f"master-{wait_replicas}"))
    options = {"replicaof": f"127.0.0.1 {master.port}"}
    replica = stack.enter_context(EmbeddedServer(folder / f"replica-{wait_replicas}", options=options))
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
