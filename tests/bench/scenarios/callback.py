"""A change on instance B answers the call held on instance A: how soon, for one pair and for many at a time.

In each burst every held call is in place before the first change leaves, so nothing but the way from change to answer
is timed. The reference is nginx's nchan over a Redis of the same kind, in alternating rounds.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from tests.bench import nchan, wire
from tests.bench.accounting import ServerAccount, cpu_s
from tests.bench.budget import Budget
from tests.bench.deployment import deployed
from tests.bench.figures import Figures, percentile
from tests.bench.wire import Wire

PAIRS: Final = (1, 200)
SETTLE_S: Final = {1: 0.005, 200: 0.1}
"""How long a burst waits until its calls are held, by its pairs: several times what either system takes."""
WARM_UP_BURSTS: Final = 20


class System(NamedTuple):
    """Two instances. `cpu_s` tells what all processes have used.

    `hold` and `change` give the requests of a name, `create` the one that has to be answered before both; nchan's
    channels need none.
    """

    name: str
    held_url: str
    change_url: str
    create: Callable[[str], bytes] | None
    hold: Callable[[str], bytes]
    change: Callable[[str], bytes]
    cpu_s: Callable[[], float]


class Burst(NamedTuple):
    """Seconds from each change to its answer, and from the first change to the last answer."""

    latencies: list[float]
    span: float


def run(budget: Budget) -> Figures:
    """All rounds."""
    figures = Figures()
    with _broker() as ours, _nchan() as theirs, ExitStack() as stack:
        lanes = {
            (system.name, pairs): stack.enter_context(_lanes(system, pairs))
            for system in (ours, theirs)
            for pairs in PAIRS
        }
        for system in (ours, theirs):
            for pairs in PAIRS:
                _bursts(system, *lanes[system.name, pairs], pairs, bursts=WARM_UP_BURSTS)
        for _ in range(budget.rounds):
            for pairs in PAIRS:
                for system in (ours, theirs):
                    found = _measure(system, *lanes[system.name, pairs], pairs, budget.seconds)
                    figures.add_all(found, prefix=f"{system.name}, {pairs} pairs: ")
    return figures


def _measure(
    system: System, client: Wire, held: list[int], changing: list[int], pairs: int, seconds: int
) -> Mapping[str, float]:
    before = system.cpu_s()
    bursts = _bursts(system, client, held, changing, pairs, seconds=seconds)
    latencies = [latency for burst in bursts for latency in burst.latencies]
    return {
        "p50, ms": percentile(latencies, 0.5) * 1e3,
        "p99, ms": percentile(latencies, 0.99) * 1e3,
        "pairs/s": len(latencies) / sum(burst.span for burst in bursts),
        "CPU, µs a pair": (system.cpu_s() - before) / len(latencies) * 1e6,
    }


def _bursts(
    system: System,
    client: Wire,
    held: list[int],
    changing: list[int],
    pairs: int,
    *,
    seconds: float = 0.0,
    bursts: int = 1,
) -> list[Burst]:
    """So many at least, and for so long."""
    end = time.monotonic() + seconds
    done: list[Burst] = []
    while len(done) < bursts or time.monotonic() < end:
        done.append(_burst(system, client, held, changing, SETTLE_S[pairs]))
    return done


def _burst(system: System, client: Wire, held: list[int], changing: list[int], settle_s: float) -> Burst:
    names = [secrets.token_hex(8) for _ in held]
    changes = [system.change(name) for name in names]
    if system.create is not None:
        _send(client, held, map(system.create, names))
        wire.expect(client.receive(len(held)))
    _send(client, held, map(system.hold, names))
    time.sleep(settle_s)
    if client.is_answered():
        raise RuntimeError(f"{system.name} answered a held call before it was changed.")
    sent = {
        connection: client.send(changer, change)
        for connection, changer, change in zip(held, changing, changes, strict=True)
    }
    try:
        answers = wire.expect(client.receive(2 * len(held)))
    except TimeoutError as error:
        raise TimeoutError(f"{system.name}: {error}") from None
    # Another success, such as 202, would say that the wait was over without a change.
    ended = wire.expect([answer for answer in answers if answer.connection in sent], 200)
    latencies = [answer.at - sent[answer.connection] for answer in ended]
    return Burst(latencies, max(answer.at for answer in ended) - min(sent.values()))


def _send(client: Wire, connections: list[int], requests: Iterable[bytes]) -> None:
    for connection, request in zip(connections, requests, strict=True):
        client.send(connection, request)


@contextmanager
def _lanes(system: System, pairs: int) -> Iterator[tuple[Wire, list[int], list[int]]]:
    with Wire() as client:
        yield client, client.open(system.held_url, pairs), client.open(system.change_url, pairs)


@contextmanager
def _broker() -> Iterator[System]:
    with deployed(apis=2) as running:
        yield System(
            "broker",
            running.urls[0],
            running.urls[1],
            lambda name: wire.post("/createTask", {"uuid": name, "queue": "held", "wait": 0}),
            lambda name: wire.post("/createTask", {"uuid": name, "queue": "held", "wait": 60}),
            lambda name: wire.post("/changeTaskState", {"uuid": name, "result": 1}),
            running.cpu_s,
        )


@contextmanager
def _nchan() -> Iterator[System]:
    with nchan.pair() as running:
        account = ServerAccount(running.redis.url)
        yield System(
            "nchan",
            *running.urls,
            None,
            lambda name: wire.get(f"/subscribe/{name}"),
            lambda name: wire.post(f"/publish/{name}", 1),
            lambda: account.cpu_s() + sum(cpu_s(instance.pid) for instance in running.instances),
        )
        account.close()
