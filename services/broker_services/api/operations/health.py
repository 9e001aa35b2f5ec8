"""The operations that tell how an instance does."""

from __future__ import annotations

from typing import Final

from broker_services.api import schemas
from broker_services.api.calls import health
from broker_services.api.operations.operation import Operation, Outcome
from broker_services.media_types import OPENMETRICS, TEXT

OPERATIONS: Final = (
    Operation(
        path="/healthz",
        name="healthz",
        summary="Whether this process lives.",
        methods=("GET", "HEAD"),
        call=health.healthz,
        scope=None,
        outcomes={200: Outcome("It lives.", schemas.Health)},
        problems=("method-not-allowed", "headers-too-large"),
    ),
    Operation(
        path="/readyz",
        name="readyz",
        summary="Whether outcomes reach this instance now: its subscription has delivered a message of its own.",
        methods=("GET", "HEAD"),
        call=health.readyz,
        scope=None,
        outcomes={200: Outcome("They do.", schemas.Health)},
        problems=("draining", "store-unavailable", "method-not-allowed", "headers-too-large"),
    ),
    Operation(
        path="/metrics",
        name="metrics",
        summary="What this instance counts, for Prometheus: its text format, or OpenMetrics by `Accept`.",
        methods=("GET", "HEAD"),
        call=health.show_metrics,
        scope="read",
        outcomes={200: Outcome("The numbers as they are now.", str, media_types=(TEXT, OPENMETRICS))},
        problems=("method-not-allowed",),
    ),
)
