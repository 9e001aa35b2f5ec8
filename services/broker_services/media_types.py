"""The media types of `/metrics`, apart from what writes them: Prometheus's library is imported at the first scrape."""

from __future__ import annotations

from typing import Final

TEXT: Final = "text/plain"
OPENMETRICS: Final = "application/openmetrics-text"
TEXT_TYPE: Final = f"{TEXT}; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
