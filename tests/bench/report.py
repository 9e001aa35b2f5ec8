"""A run for people, as tables in Markdown, and for machines, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.bench.bounds import Verdict
from tests.bench.figures import Summary


class Report(NamedTuple):
    """What a run found.

    `budget`: how much it took, in words. `scenarios`: by name, the figures. `notes`: by name, what their reader has to
    know. `failures`: by name, why one could not be run.
    """

    machine: Mapping[str, str]
    budget: str
    scenarios: Mapping[str, Mapping[str, Summary]]
    notes: Mapping[str, Sequence[str]]
    verdicts: Sequence[Verdict]
    failures: Mapping[str, str]
    seconds: float

    @property
    def is_passed(self) -> bool:
        """Whether everything ran and every bound was kept."""
        return not self.failures and all(verdict.is_met for verdict in self.verdicts)


def as_json(report: Report) -> str:
    """For machines."""
    document = {
        "machine": report.machine,
        "budget": report.budget,
        "seconds": round(report.seconds, 1),
        "scenarios": {
            scenario: {name: summary._asdict() for name, summary in figures.items()}
            for scenario, figures in report.scenarios.items()
        },
        "bounds": [
            {
                **verdict.bound._asdict(),
                "value": verdict.value,
                "spread": verdict.spread,
                "reference": verdict.reference,
                "met": verdict.is_met,
            }
            for verdict in report.verdicts
        ],
        "notes": report.notes,
        "failures": report.failures,
        "passed": report.is_passed,
    }
    return json.dumps(document, ensure_ascii=False, indent=2)


def as_markdown(report: Report) -> str:
    """For people."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from ("# Results", "")
    took = f"{report.seconds / 60:.0f} minutes"
    yield f"Made by `python -m tests.bench` in {took}: {report.budget}. Medians and spread of the rounds."
    yield from ("", "## Bounds", "")
    yield from _table(
        ("scenario", "bound", "limit", "measured", "single rounds", "compared with", ""),
        map(_verdict_row, report.verdicts),
    )
    for scenario, figures in report.scenarios.items():
        yield from ("", f"## {scenario}", "")
        yield from _table(("figure", "median", "least", "most"), (_figure_row(*item) for item in figures.items()))
        if report.notes.get(scenario):
            yield from ("", *(f"- {note}" for note in report.notes[scenario]))
    if report.failures:
        yield from ("", "## Not run", "")
        yield from _table(
            ("scenario", "why"), ((name, why.replace("\n", " ")) for name, why in report.failures.items())
        )
    yield from ("", "## Machine and versions", "")
    yield from _table(("", ""), report.machine.items())


def _verdict_row(verdict: Verdict) -> tuple[str, ...]:
    bound = verdict.bound
    measured = "not measured" if verdict.value is None else number(verdict.value)
    return (
        bound.scenario,
        bound.name,
        bound.limit,
        measured,
        "" if verdict.spread is None else " to ".join(map(number, verdict.spread)),
        verdict.reference,
        "met" if verdict.is_met else "**not met**",
    )


def _figure_row(name: str, summary: Summary) -> tuple[str, ...]:
    return name, number(summary.median), number(summary.least), number(summary.most)


def number(value: float) -> str:
    """With three digits that count, and commas between thousands."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
