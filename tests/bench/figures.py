"""What a benchmark measured: by name, one value a round, and what is told of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Summary(NamedTuple):
    """The values of one figure."""

    median: float
    least: float
    most: float
    rounds: int


class Figures:
    """Values by name, in the order in which the names first came. A name ends with its unit."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        """One more round's value."""
        self._values.setdefault(name, []).append(value)

    def add_all(self, values: Mapping[str, float], *, prefix: str = "") -> None:
        """One more round's values."""
        for name, value in values.items():
            self.add(prefix + name, value)

    def summaries(self) -> Mapping[str, Summary]:
        """Median and spread of each."""
        return {
            name: Summary(statistics.median(values), min(values), max(values), len(values))
            for name, values in self._values.items()
        }


def percentile(values: Iterable[float], share: float) -> float:
    """The least value that at least this share (0 to 1) of all values do not exceed.

    Raises:
        ValueError: There are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("No values: nothing was answered.")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
