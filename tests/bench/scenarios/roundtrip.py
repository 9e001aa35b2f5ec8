"""createTask through one API and one worker process, against bare uvicorn and the peers in the same rounds.

Rounds go through all of them in turn, so that the drift of a shared machine meets each. Every system answers 64
connections, then one. A peer that does not is left out of that round, and a note says so; the broker and uvicorn must.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple

from tests.bench import load, processes
from tests.bench.accounting import cpu_s
from tests.bench.budget import Budget
from tests.bench.deployment import deployed
from tests.bench.figures import Figures
from tests.bench.peers import deployment as peers

CONNECTIONS: Final = 64
WARM_UP_S: Final = 2


class System(NamedTuple):
    """One that answers createTask. `accounts`: what its processes have used so far."""

    name: str
    url: str
    accounts: load.Accounts
    is_peer: bool = False


def run(budget: Budget) -> Figures:
    """All rounds."""
    figures = Figures()
    with ExitStack() as stack:
        systems = [_broker(stack), _uvicorn(stack), *(_peer(stack, name, budget) for name in peers.NAMES)]
        for system in systems:
            _load(Figures(), system, CONNECTIONS, WARM_UP_S)
        for _ in range(budget.rounds):
            for system in systems:
                measure(figures, system, budget.seconds)
    return figures


def measure(figures: Figures, system: System, seconds: int) -> None:
    """One round of one system."""
    many = _load(figures, system, CONNECTIONS, seconds)
    one = _load(figures, system, 1, max(1, seconds // 2))
    figures.add_all(_rate_and_costs(system, many), prefix=f"{system.name}: ")
    figures.add(f"{system.name}: p50 at one connection, ms", None if one is None else one.load.p50_ms)


def _rate_and_costs(system: System, many: load.Cost | None) -> Mapping[str, float | None]:
    by_process = [f"{process} CPU, µs a task" for process in system.accounts]
    names = ["round trips/s", *by_process, "total CPU, µs a task"]
    if many is None:
        return dict.fromkeys(names)
    return dict(zip(names, [many.load.rate, *many.cpu_us.values(), many.total_us], strict=True))


def _load(figures: Figures, system: System, connections: int, seconds: int) -> load.Cost | None:
    """None where a peer gave no figures."""
    work = partial(load.run, system.url, connections=connections, seconds=seconds)
    try:
        return load.charged(system.accounts, work)
    except (load.LoadError, OSError) as error:  # the second when its process is gone
        sentence = f"{system.name}, {connections} connections: {error}"
        if not system.is_peer:
            raise RuntimeError(sentence) from error
        figures.note(sentence)
        return None


def _broker(stack: ExitStack) -> System:
    running = stack.enter_context(deployed(workers=1))
    return System("broker", f"{running.urls[0]}/createTask?queue=noop", running.accounts)


def _uvicorn(stack: ExitStack) -> System:
    bare, url = stack.enter_context(processes.bare_uvicorn())
    return System("uvicorn", f"{url}/createTask", {"API": partial(cpu_s, bare.pid)})


def _peer(stack: ExitStack, name: str, budget: Budget) -> System:
    peer = stack.enter_context(peers.peer(name, budget.cache))
    return System(name, peer.url, peer.accounts, is_peer=True)
