"""Four API and four worker processes against one of each: what a task costs must not grow with the deployment."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.bench import load
from tests.bench.budget import Budget
from tests.bench.deployment import Deployment, deployed
from tests.bench.figures import Figures

CONNECTIONS: Final = 64
"""For each API process."""
MANY: Final = 4
WARM_UP_S: Final = 1


def run(budget: Budget) -> Figures:
    """All rounds, the two in turn."""
    figures = Figures()
    with deployed(workers=1) as small, deployed(apis=MANY, workers=MANY) as large:
        for running in (small, large):
            _load(running, WARM_UP_S)
        for _ in range(budget.rounds):
            for running in (small, large):
                _measure(figures, running, budget.seconds)
    return figures


def _measure(figures: Figures, running: Deployment, seconds: int) -> None:
    name = f"{len(running.apis)} API, {len(running.workers)} worker processes"
    cost = load.charged(running.accounts, partial(_load, running, seconds))
    figures.add(f"{name}: tasks/s", cost.load.rate)
    figures.add_all(cost.cpu_us, prefix=f"{name}: CPU, µs a task: ")
    figures.add(f"{name}: total CPU, µs a task", cost.total_us)


def _load(running: Deployment, seconds: int) -> load.Load:
    urls = [f"{url}/createTask?queue=noop" for url in running.urls]
    return load.run(*urls, connections=CONNECTIONS, seconds=seconds)
