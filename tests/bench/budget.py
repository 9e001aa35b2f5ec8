"""How much a run may take, which every scenario asks for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Budget(NamedTuple):
    """How long and how large.

    `rounds`: how often each measurement is repeated. `seconds`: how long one lasts, where it is a load over time.
    `size`: the share of the full number of calls, tasks, watchers or workers, at most 1. `cache`: the folder that
    keeps what is made once.
    """

    rounds: int
    seconds: int
    size: float
    cache: Path

    @property
    def in_words(self) -> str:
        """For reports."""
        size = "" if self.size == 1 else f", sizes × {self.size:g}"
        return f"{self.rounds} rounds of {self.seconds} s{size}"

    def sized(self, full: int, *, at_least: int = 1) -> int:
        """A number of things, scaled."""
        return max(at_least, round(full * self.size))


def full(cache: Path) -> Budget:
    """What results.md is made with."""
    return Budget(rounds=5, seconds=4, size=1.0, cache=cache)


def quick(cache: Path) -> Budget:
    """A look at whether everything works; its figures mean little."""
    return Budget(rounds=1, seconds=1, size=0.02, cache=cache)
