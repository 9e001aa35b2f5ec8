"""Which faults a run has, and when: drawn from a seed before it starts, so that the same seed gives the same ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import msgspec


class Fault(msgspec.Struct, frozen=True):
    """One fault: at so many seconds into the run, to whom, for how long (what an instant kind has no use for)."""

    at_s: float
    kind: str
    target: str
    seconds: float = 0.0


class Kind(msgspec.Struct, frozen=True):
    """A kind of fault: whom it strikes, how often beside the others, and how long."""

    name: str
    strikes: str
    weight: int
    shortest_s: float
    longest_s: float


KINDS: Final = (
    Kind("api-kill", "api", 4, 0.1, 2.0),
    Kind("api-stop", "api", 4, 0.3, 4.0),
    Kind("api-term", "api", 4, 0.1, 1.0),
    Kind("worker-kill", "worker", 4, 0.1, 2.0),
    Kind("worker-stop", "worker", 4, 0.5, 6.0),
    Kind("worker-term", "worker", 3, 0.1, 1.0),
    Kind("redis-kill", "redis", 2, 0.1, 3.0),
    Kind("redis-stop", "redis", 3, 0.3, 5.0),
    Kind("script-flush", "redis", 2, 0, 0),
    Kind("kill-pubsub", "all", 4, 0, 0),
    Kind("kill-normal", "all", 3, 0, 0),
    Kind("cut", "process", 4, 0, 0),
    Kind("refuse", "process", 2, 0.3, 4.0),
    Kind("freeze", "process", 3, 0.5, 6.0),
    Kind("delay", "process", 3, 1.0, 5.0),
    Kind("drop-all", "all", 2, 2.0, 8.0),
    Kind("drop-quietly", "all", 2, 2.0, 8.0),
)
BETWEEN_S: Final = (1.5, 4.0)
"""From the start of one fault to that of the next."""
RECOVERY_S: Final = 1.5
"""How long a target is left alone after a fault of its own: a process that is starting has nothing to lose yet."""


def draw(
    chance: random.Random, seconds: float, *, apis: int, workers: int, kinds: Sequence[str] | None = None
) -> list[Fault]:
    """The faults of a run, by time.

    Args:
        chance: Seeded.
        seconds: Length of the run.
        apis: How many instances there are: `api1`, `api2`, …
        workers: How many workers: `worker1`, …
        kinds: Only these; None for all.
    """
    chosen = [kind for kind in KINDS if kinds is None or kind.name in kinds]
    targets = _targets(apis, workers)
    busy_until = dict.fromkeys([*targets["process"], "redis", "all"], 0.0)
    faults: list[Fault] = []
    at_s = chance.uniform(*BETWEEN_S)
    while at_s < seconds:
        kind = chance.choices(chosen, [kind.weight for kind in chosen])[0]
        free = [target for target in targets[kind.strikes] if busy_until[target] <= at_s]
        lasts = min(chance.uniform(kind.shortest_s, kind.longest_s), max(0.0, seconds - at_s))
        if free:
            target = chance.choice(free)
            busy_until[target] = at_s + lasts + RECOVERY_S
            faults.append(Fault(round(at_s, 3), kind.name, target, round(lasts, 3)))
            at_s += chance.uniform(*BETWEEN_S)
        else:
            at_s += 0.1
    return faults


def _targets(apis: int, workers: int) -> dict[str, list[str]]:
    api = [f"api{number + 1}" for number in range(apis)]
    worker = [f"worker{number + 1}" for number in range(workers)]
    return {"api": api, "worker": worker, "process": api + worker, "redis": ["redis"], "all": ["all"]}
