"""Metrics as a scraper reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS: Final = "application/openmetrics-text"


class Numbers:
    """One scrape.

    Args:
        page: What was answered.
        content_type: Which format it is.
    """

    def __init__(self, page: str, content_type: str) -> None:
        parse: Callable[..., object] = parse_openmetrics if content_type.startswith(OPENMETRICS) else parse_text
        self.families = {family.name: family for family in parse(page)}  # type: ignore[attr-defined]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with these labels; 0 where there is none."""
        samples = [
            float(sample.value)
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(samples)

    def labels(self, name: str, label: str) -> set[str]:
        """The values of a label."""
        return {
            sample.labels[label]
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name
        }
