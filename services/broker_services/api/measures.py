"""What one API instance counts of its calls. Plain numbers: `metrics.py` shows them when it is asked."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from broker.measures import ANSWER_BOUNDS_S, HOLD_BOUNDS_S, BoundedNames, Histogram
from broker.task import TaskState

MOST_QUEUES: Final = 100
"""Callers choose the names of queues: the first so many are labels of their own, for the others there is one."""
DOCUMENTS: Final = "documents"
"""Stands for all that is no operation: `/docs`, `/openapi.json` and unknown paths."""


class ApiMeasures:
    """The counters of one instance."""

    def __init__(self) -> None:
        self.calls: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.problems: defaultdict[str, int] = defaultdict(int)
        self.callers_gone: defaultdict[str, int] = defaultdict(int)
        self.outcomes: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.events_sent = 0
        self.answers: defaultdict[str, Histogram] = defaultdict(_answers)
        self.holds: defaultdict[str, Histogram] = defaultdict(_holds)
        self._queues = BoundedNames(MOST_QUEUES)

    def answered(self, operation: str, status: int, seconds: float, *, was_held: bool) -> None:
        """A call was answered; held ones are apart, since their callers chose how long they take."""
        self.calls[operation, status] += 1
        (self.holds if was_held else self.answers)[operation].observe(seconds)

    def refused(self, code: str) -> None:
        """A request was refused before its head was read to the end."""
        self.problems[code] += 1

    def told(self, operation: str, queue: str, state: TaskState) -> None:
        """An answer told the state of a task; ends are counted."""
        if state.is_terminal:
            self.outcomes[operation, self._queues.label(queue), state] += 1


def _answers() -> Histogram:
    return Histogram(ANSWER_BOUNDS_S)


def _holds() -> Histogram:
    return Histogram(HOLD_BOUNDS_S)
