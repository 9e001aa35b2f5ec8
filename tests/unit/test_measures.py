"""Counters: buckets as Prometheus wants them, and labels that cannot grow for ever."""

from __future__ import annotations

import pytest

from broker.measures import OTHER, BoundedNames, Histogram
from broker.naming import is_queue


@pytest.mark.parametrize(("seconds", "bucket"), [(0, 0), (0.5, 0), (1, 0), (1.1, 1), (2, 1), (2.1, 2), (1e9, 2)])
def test_a_duration_is_counted_in_its_bucket(seconds: float, bucket: int) -> None:
    histogram = Histogram((1, 2))

    histogram.observe(seconds)

    assert [number for number, count in enumerate(histogram.counts) if count] == [bucket]
    assert histogram.sum_s == seconds


def test_buckets_add_up() -> None:
    histogram = Histogram((1, 2))
    for seconds in (0.5, 0.6, 1.5, 9):
        histogram.observe(seconds)

    assert list(histogram.cumulative()) == [(1, 2), (2, 3), (float("inf"), 4)]


def test_names_beyond_the_bound_share_one() -> None:
    names = BoundedNames(2)

    assert [names.label(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]


def test_no_queue_is_called_as_the_others_together() -> None:
    assert not is_queue(OTHER)
