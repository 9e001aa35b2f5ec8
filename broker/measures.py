"""Plain counters that cost next to nothing to keep: whoever shows them (Prometheus, a log) reads them when asked."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

COMMAND_BOUNDS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 4.0)
"""From a script on a near server to the deadline of a command."""
ANSWER_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
HOLD_BOUNDS_S: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
EXECUTION_BOUNDS_S: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)

OTHER: Final = "_other"
"""Stands for all names beyond the bound; no queue can have it as its name."""


class Histogram:
    """How often which durations were seen.

    Args:
        bounds: The upper bounds of the buckets in seconds, ascending; a last bucket takes what is longer.
    """

    __slots__ = ("_least", "bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._least = self.bounds[0]
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one duration; a bound belongs to the bucket below it."""
        # Most is short, and a bisect through a dozen bounds takes 1,300 instructions.
        self.counts[0 if seconds <= self._least else bisect_left(self.bounds, seconds)] += 1
        self.sum_s += seconds

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each upper bound, the last one infinite, with how many were not above it."""
        seen = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            yield bound, seen


class BoundedNames:
    """Names that callers choose, as labels: the first so many keep theirs, all others share one.

    Args:
        most: How many names keep theirs.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: set[str] = set()

    def label(self, name: str) -> str:
        """The name itself, or `OTHER`."""
        if name in self._names:
            return name
        if len(self._names) >= self._most:
            return OTHER
        self._names.add(name)
        return name


class WorkerMeasures:
    """What a worker counts, over all its runs.

    `executions` by queue and outcome: `succeeded`, `failed`, `retried`, `deferred`, `given-back` (this worker went),
    `ended-elsewhere` (by somebody else meanwhile), `too-late` (the same, seen when storing the end), `not-stored`.
    """

    def __init__(self) -> None:
        self.claims = 0
        self.claimed: defaultdict[str, int] = defaultdict(int)
        self.bells_heard = 0
        self.bells_missed = 0
        self.leases_lost = 0
        self.settle_retries = 0
        self.executions: defaultdict[tuple[str, str], Histogram] = defaultdict(_executions)


def _executions() -> Histogram:
    return Histogram(EXECUTION_BOUNDS_S)
