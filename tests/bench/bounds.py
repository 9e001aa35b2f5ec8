"""What the figures have to keep: every bound as a line of data, and how a run is judged by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tests.bench.figures import Summary
from tests.bench.peers.deployment import NAMES as PEERS


class Bound(NamedTuple):
    """A figure's median over that of its reference, the best of several, is at most or at least a number.

    Without a reference the median itself is.
    """

    scenario: str
    name: str
    figure: str
    at_most: float | None = None
    at_least: float | None = None
    of: tuple[str, ...] = ()

    @property
    def limit(self) -> str:
        """In words."""
        return f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"


class Verdict(NamedTuple):
    """How a bound was kept.

    `value`: None where it was not measured. `reference`: the figure it was compared with. `spread`: the least and the
    most that a single round would have given; far apart, they tell of a noisy machine.
    """

    bound: Bound
    value: float | None
    reference: str = ""
    spread: tuple[float, float] | None = None

    @property
    def is_met(self) -> bool:
        """Whether it was kept."""
        if self.value is None:
            return False
        most, least = self.bound.at_most, self.bound.at_least
        return (most is None or self.value <= most) and (least is None or self.value >= least)


def _peers(figure: str) -> tuple[str, ...]:
    return tuple(f"{name}: {figure}" for name in PEERS)


_CPU: Final = "total CPU, µs a task"
_RATE: Final = "round trips/s"
_P50: Final = "p50 at one connection, ms"
_ONE, _FLEET = "1 workers, {} connections: {}", "100 workers, {} connections: {}"
_REDIS: Final = "Redis CPU, µs a task"
_SCALE: Final = "{0} API, {0} worker processes: " + _CPU

BOUNDS: Final = (
    Bound("roundtrip", "CPU a task, of bare uvicorn's", f"broker: {_CPU}", at_most=4, of=(f"uvicorn: {_CPU}",)),
    Bound("roundtrip", "CPU a task, of the best peer's", f"broker: {_CPU}", at_most=0.1, of=_peers(_CPU)),
    Bound("roundtrip", "throughput, of the best peer's", f"broker: {_RATE}", at_least=9, of=_peers(_RATE)),
    Bound("roundtrip", "throughput, of bare uvicorn's", f"broker: {_RATE}", at_least=0.35, of=(f"uvicorn: {_RATE}",)),
    Bound("roundtrip", "p50 at one connection, of the best peer's", f"broker: {_P50}", at_most=0.2, of=_peers(_P50)),
    *(
        Bound(
            "callback",
            f"p50 of a change on B to the call held on A, {pairs} at a time, of nchan's",
            f"broker, {pairs} pairs: p50, ms",
            at_most=1.1,
            of=(f"nchan, {pairs} pairs: p50, ms",),
        )
        for pairs in (1, 200)
    ),
    Bound(
        "callback",
        "pairs/s, 200 at a time, of nchan's",
        "broker, 200 pairs: pairs/s",
        at_least=1,
        of=("nchan, 200 pairs: pairs/s",),
    ),
    Bound("hold", "API memory of a held call, bytes", "API memory, bytes a held call", at_most=15_000),
    Bound(
        "hold",
        "Redis memory of a held call beyond its task, bytes",
        "Redis memory, bytes a held call beyond its task",
        at_most=600,
    ),
    Bound("hold", "API CPU while all are held, %", "API CPU while all are held, %", at_most=2),
    Bound("hold", "10,000 callers of one uuid answered, s", "the last of all callers answered, s", at_most=1),
    *(
        Bound(
            "fleet",
            f"Redis CPU a task with 100 workers, {connections} connections, of one worker's",
            _FLEET.format(connections, _REDIS),
            at_most=1.5,
            of=(_ONE.format(connections, _REDIS),),
        )
        for connections in (1, 64)
    ),
    *(
        Bound(
            "fleet",
            f"claim attempts a task of 100 workers, {connections} connections",
            _FLEET.format(connections, "claim attempts a task"),
            at_most=2,
        )
        for connections in (1, 64)
    ),
    Bound(
        "backlog",
        "claims/s with 1,000,000 pending, of those with 1,000",
        "many pending: claims/s",
        at_least=0.8,
        of=("few pending: claims/s",),
    ),
    Bound(
        "scale",
        "CPU a task with 4 API and 4 worker processes, of one of each",
        _SCALE.format(4),
        at_most=1.15,
        of=(_SCALE.format(1),),
    ),
    Bound("watch", "one publish to 10,000 watchers on two instances, s", "the last watcher answered, s", at_most=1),
    Bound("values", "bytes into Redis", "bytes into Redis, times payload and result", at_most=1.05),
    Bound("values", "bytes out of Redis", "bytes out of Redis, times payload and result", at_most=1.05),
    Bound("uploads", "API memory for 500 files of 1 MB at once, MiB", "API memory, MiB more at most", at_most=64),
    Bound("uploads", "results that do not match their file", "results that do not match", at_most=0),
    Bound(
        "durability",
        "CPU a task with BROKER_WAIT_REPLICAS=1, of that with 0",
        f"replica, wait 1: {_CPU}",
        at_most=1.25,
        of=(f"replica: {_CPU}",),
    ),
    Bound("startup", "broker --help, s", "broker --help, s", at_most=0.15),
    Bound("startup", "broker api until it is ready, s", "broker api until it is ready, s", at_most=0.7),
)


def judge(scenario: str, found: Mapping[str, Summary]) -> list[Verdict]:
    """The verdicts on what one scenario has measured."""
    return [_verdict(bound, found) for bound in BOUNDS if bound.scenario == scenario]


def _verdict(bound: Bound, found: Mapping[str, Summary]) -> Verdict:
    references = [name for name in bound.of if name in found]
    if bound.figure not in found or (bound.of and not references):
        return Verdict(bound, None, ", ".join(bound.of))
    figure = found[bound.figure]
    if not references:
        return Verdict(bound, figure.median, spread=(figure.least, figure.most))
    # Compared with the best: the least of costs, the most of rates.
    best: Callable[..., str] = min if bound.at_most is not None else max
    reference = best(references, key=lambda name: found[name].median)
    divisor = found[reference].median
    ratio = figure.median / divisor if divisor else None
    return Verdict(bound, ratio, reference, _spread(figure, found[reference]))


def _spread(figure: Summary, reference: Summary) -> tuple[float, float] | None:
    """Of the ratios of rounds in which both were measured; rounds are compared with themselves only."""
    rounds = zip(figure.values, reference.values, strict=False)
    ratios = [value / divisor for value, divisor in rounds if value is not None and divisor]
    return (min(ratios), max(ratios)) if ratios else None
