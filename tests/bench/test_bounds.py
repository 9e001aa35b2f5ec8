"""Runs are judged rightly: medians over the best reference, and nothing passes that was not measured."""

from __future__ import annotations

import importlib
import json

import pytest

from tests.bench import report
from tests.bench.__main__ import SCENARIOS
from tests.bench.bounds import BOUNDS, Bound, Verdict, judge
from tests.bench.figures import Figures, percentile
from tests.bench.report import Report


def _figures(**values: list[float]) -> Figures:
    figures = Figures()
    for name, rounds in values.items():
        for value in rounds:
            figures.add(name, value)
    return figures


def _judged(monkeypatch: pytest.MonkeyPatch, bound: Bound, figures: Figures) -> Verdict:
    monkeypatch.setattr("tests.bench.bounds.BOUNDS", (bound,))
    (verdict,) = judge(bound.scenario, figures.summaries())
    return verdict


def test_costs_are_compared_with_the_least_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound("s", "cost", "ours", at_most=0.5, of=("first", "second", "missing"))
    verdict = _judged(monkeypatch, bound, _figures(ours=[9, 4, 5], first=[10], second=[20]))
    assert (verdict.value, verdict.reference, verdict.is_met) == (0.5, "first", True)


def test_rates_are_compared_with_the_greatest_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound("s", "rate", "ours", at_least=2, of=("first", "second"))
    verdict = _judged(monkeypatch, bound, _figures(ours=[30], first=[10], second=[20]))
    assert (verdict.value, verdict.reference, verdict.is_met) == (1.5, "second", False)


@pytest.mark.parametrize("figures", [_figures(), _figures(ours=[1]), _figures(first=[1])])
def test_what_was_not_measured_is_not_met(monkeypatch: pytest.MonkeyPatch, figures: Figures) -> None:
    verdict = _judged(monkeypatch, Bound("s", "cost", "ours", at_most=9, of=("first",)), figures)
    assert (verdict.value, verdict.is_met) == (None, False)


def test_every_scenario_can_be_run_and_every_bound_is_of_one() -> None:
    for name in SCENARIOS:
        assert callable(importlib.import_module(f"tests.bench.scenarios.{name}").run)
    assert {bound.scenario for bound in BOUNDS} <= set(SCENARIOS)


def test_every_bound_has_one_limit() -> None:
    for bound in BOUNDS:
        assert (bound.at_most is None) != (bound.at_least is None), bound.name


def test_a_report_is_readable_by_both() -> None:
    figures = _figures(ours=[1, 2, 3]).summaries()
    verdict = Verdict(Bound("s", "cost", "ours", at_most=1), 2.0, "")
    found = Report({"cores": "2"}, "1 round", {"s": figures}, [verdict], {"t": "no server"}, 60.0)
    assert not found.is_passed
    assert "| ours | 2.00 | 1.00 | 3.00 |" in report.as_markdown(found)
    document = json.loads(report.as_json(found))
    assert document["scenarios"]["s"]["ours"] == {"median": 2, "least": 1, "most": 3, "rounds": 3}
    assert document["bounds"][0]["met"] is False


def test_percentiles() -> None:
    assert [percentile(range(1, 101), share) for share in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
