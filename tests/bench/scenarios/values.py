"""A payload and a result at the limit, through API and worker: how often each travels to and from Redis."""

from __future__ import annotations

from typing import Final

from tests.bench import wire
from tests.bench.budget import Budget
from tests.bench.deployment import deployed
from tests.bench.figures import Figures
from tests.bench.wire import Wire

VALUE_BYTES: Final = 262_144 - 1_024
"""The limit of a whole body, less the other fields."""
TASKS: Final = 200


def run(budget: Budget) -> Figures:
    """All rounds."""
    figures = Figures()
    with deployed(workers=1) as running, Wire() as client:
        (connection,) = client.open(running.urls[0], 1)
        request = wire.post("/createTask", {"queue": "echo", "payload": "x" * VALUE_BYTES, "wait": 60})
        client.call(connection, request)
        for _ in range(budget.rounds):
            tasks = budget.sized(TASKS, at_least=20)
            came, went = running.redis.network_bytes()
            spent = running.cpu_s()
            for _ in range(tasks):
                answer = client.call(connection, request)
                if len(answer.body) < VALUE_BYTES:
                    raise RuntimeError(f"The result did not come back: {answer.body[:300]!r}")
            cpu = running.cpu_s() - spent
            now_came, now_went = running.redis.network_bytes()
            # One payload and one result a task: the least that has to travel each way.
            least = 2 * VALUE_BYTES * tasks
            figures.add("bytes into Redis, times payload and result", (now_came - came) / least)
            figures.add("bytes out of Redis, times payload and result", (now_went - went) / least)
            figures.add("total CPU, µs a task", cpu / tasks * 1e6)
    return figures
