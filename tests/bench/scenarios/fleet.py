"""A hundred workers against one: what a task costs Redis, and how often somebody asks for it in vain.

Every worker of the fleet has its own connections, subscriptions and claims; they share one process, since Redis sees no
difference and a hundred processes would measure this machine's scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple

from tests.bench import load
from tests.bench.budget import Budget
from tests.bench.deployment import Deployment, deployed
from tests.bench.figures import Figures
from tests.bench.fleet_process import Fleet, fleet

WORKERS: Final = (1, 100)
CONNECTIONS: Final = (1, 64)
"""One task at a time, which leaves the fleet idle; and as many as one worker has slots."""
WARM_UP_S: Final = 1


class Fleeted(NamedTuple):
    """A deployment and its workers."""

    workers: int
    running: Deployment
    fleet: Fleet


def run(budget: Budget) -> Figures:
    """All rounds, the two fleets in turn."""
    figures = Figures()
    one, many = WORKERS
    with _fleeted(one) as small, _fleeted(many) as large:
        for _ in range(budget.rounds):
            for connections in CONNECTIONS:
                for system in (small, large):
                    _measure(figures, system, connections, budget.seconds)
    return figures


def _measure(figures: Figures, system: Fleeted, connections: int, seconds: int) -> None:
    before = system.fleet.claims()
    accounts = {"Redis": system.running.redis.cpu_s}
    cost = load.charged(accounts, partial(load.run, _url(system.running), connections=connections, seconds=seconds))
    after = system.fleet.claims()
    name = f"{system.workers} workers, {connections} connections: "
    figures.add(name + "tasks/s", cost.load.rate)
    figures.add(name + "Redis CPU, µs a task", cost.total_us)
    figures.add(name + "claim attempts a task", (after.attempts - before.attempts) / (after.tasks - before.tasks))


@contextmanager
def _fleeted(workers: int) -> Iterator[Fleeted]:
    with deployed() as running, fleet(running.redis_url, workers) as started:
        load.run(_url(running), connections=CONNECTIONS[-1], seconds=WARM_UP_S)
        yield Fleeted(workers, running, started)


def _url(running: Deployment) -> str:
    return f"{running.urls[0]}/createTask?queue=noop"
