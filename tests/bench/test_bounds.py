"""Runs are judged rightly: medians over the best reference, and nothing passes that was not measured."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence

import pytest

from tests.bench import report
from tests.bench.__main__ import SCENARIOS
from tests.bench.bounds import BOUNDS, Bound, Verdict, judge
from tests.bench.figures import Figures, percentile
from tests.bench.report import Report


def _figures(**values: Sequence[float | None]) -> Figures:
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


def test_single_rounds_are_compared_with_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound("s", "cost", "ours", at_most=9, of=("first",))
    verdict = _judged(monkeypatch, bound, _figures(ours=[2, 9, 40], first=[1, 3, 10]))
    assert (verdict.value, verdict.spread) == (3, (2, 4))


def test_a_round_without_an_answer_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound("s", "rate", "ours", at_least=2, of=("first", "silent"))
    verdict = _judged(monkeypatch, bound, _figures(ours=[30, 60, 90], first=[10, None, 20], silent=[None, None, None]))
    assert (verdict.value, verdict.reference, verdict.spread) == (4, "first", (3, 4.5))


def test_the_spread_of_a_figure_without_a_reference_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = _judged(monkeypatch, Bound("s", "seconds", "ours", at_most=1), _figures(ours=[2, 1, 4]))
    assert (verdict.value, verdict.spread) == (2, (1, 4))


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
    figures = _figures(ours=[1, None, 2, 3])
    for text in ("a peer: no answer", "a peer: no answer", "another: no answer"):
        figures.note(text)
    verdict = Verdict(Bound("s", "cost", "ours", at_most=1), 2.0, spread=(1.0, 3.0))
    scenarios, notes = {"s": figures.summaries()}, {"s": figures.notes()}
    found = Report({"cores": "2"}, "1 round", scenarios, notes, [verdict], {"t": "no server"}, 60.0)
    assert not found.is_passed
    text = report.as_markdown(found)
    assert "| s | cost | ≤ 1 | 2.00 | 1.00 to 3.00 |  | **not met** |" in text
    assert "| ours | 2.00 | 1.00 | 3.00 |" in text
    assert "\n- a peer: no answer (2 times)\n- another: no answer\n" in text
    document = json.loads(report.as_json(found))
    assert document["scenarios"]["s"]["ours"] == {"median": 2, "least": 1, "most": 3, "values": [1, None, 2, 3]}
    assert (document["bounds"][0]["met"], document["bounds"][0]["spread"]) == (False, [1, 3])
    assert document["notes"] == {"s": ["a peer: no answer (2 times)", "another: no answer"]}


def test_percentiles() -> None:
    assert [percentile(range(1, 101), share) for share in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
