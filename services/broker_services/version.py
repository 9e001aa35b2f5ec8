"""Which version of the services runs."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def service_version() -> str:
    """Read once: it takes milliseconds, and leaves cycles that the collector is told to leave for long."""
    try:
        return version("createbranch-broker")
    except PackageNotFoundError:
        return "0+unknown"
