"""Percentiles are exact, and bars hold every call once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_services.cli.bench.latencies import Latencies


def _of(*milliseconds: float) -> Latencies:
    latencies = Latencies()
    for value in milliseconds:
        latencies.add(value / 1e3)
    return latencies


def test_percentiles_are_values_that_were_measured() -> None:
    latencies = _of(*range(100, 0, -1))
    assert [latencies.percentile(percent) for percent in (0, 50, 99, 99.9, 100)] == pytest.approx([1, 50, 99, 100, 100])
    assert latencies.mean == pytest.approx(50.5)


def test_without_calls_there_is_nothing_to_tell() -> None:
    assert math.isnan(_of().percentile(50))
    assert math.isnan(_of().mean)
    assert _of().histogram() == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_each_call_is_in_the_bar_whose_bounds_are_around_it(values: list[float]) -> None:
    latencies = _of(*values)
    bars = latencies.histogram()
    assert sum(bar.calls for bar in bars) == len(values)
    assert bars[-1].calls > 0
    for bar in bars:
        assert bar.calls == sum(bar.above_ms < value / 1e3 * 1e3 <= bar.to_ms for value in values) or not bar.above_ms
