"""What a benchmark measured: by name, one value a round, and what is told of them."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Summary(NamedTuple):
    """One figure: what its values say, and the values, one a round; None for a round that has none."""

    median: float
    least: float
    most: float
    values: Sequence[float | None]


class Figures:
    """Values by name, in the order in which the names first came. A name ends with its unit."""

    def __init__(self) -> None:
        self._values: dict[str, list[float | None]] = {}
        self._notes: Counter[str] = Counter()

    def add(self, name: str, value: float | None) -> None:
        """One more round's value; None where there was nothing to measure."""
        self._values.setdefault(name, []).append(value)

    def add_all(self, values: Mapping[str, float | None], *, prefix: str = "") -> None:
        """One more round's values."""
        for name, value in values.items():
            self.add(prefix + name, value)

    def note(self, text: str) -> None:
        """Something that a reader of the figures has to know. Of the same text more than once, it is told how often."""
        self._notes[text] += 1

    def summaries(self) -> Mapping[str, Summary]:
        """Median and spread of each that has a value."""
        return {name: found for name, values in self._values.items() if (found := _summary(values)) is not None}

    def notes(self) -> Sequence[str]:
        """All of them."""
        return [text if count == 1 else f"{text} ({count} times)" for text, count in self._notes.items()]


def _summary(values: Sequence[float | None]) -> Summary | None:
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    return Summary(statistics.median(measured), min(measured), max(measured), tuple(values))


def percentile(values: Iterable[float], share: float) -> float:
    """The least value that at least this share (0 to 1) of all values do not exceed.

    Raises:
        ValueError: There are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("No values: nothing was answered.")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
