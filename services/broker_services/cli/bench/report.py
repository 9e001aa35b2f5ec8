"""What a run found: for people, for machines, and judged by the limits that it was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from broker_services.cli.bench.latencies import Bar

BAR_WIDTH: Final = 50
BUSY_CLIENT: Final = 0.9
"""The share of a core from which on it may be this client that is measured."""


class Limit(msgspec.Struct, frozen=True):
    """What a run had to keep."""

    name: str
    limit: float
    value: float | None
    met: bool


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run; times in milliseconds."""

    scenario: str
    url: str
    loop: str
    concurrency: int
    rate_asked: float | None
    duration_s: float
    counted: str
    calls: int
    rate: float
    errors: Mapping[str, int]
    latency_ms: Mapping[str, float | None]
    histogram: list[Bar]
    client_cpu: float
    limits: list[Limit]
    passed: bool


def as_json(found: Found) -> bytes:
    """For machines; on one line."""
    document: dict[str, Any] = msgspec.to_builtins(found)
    document["histogram"] = [bar._asdict() for bar in found.histogram]
    return msgspec.json.encode(document)


def as_text(found: Found) -> str:
    """For people."""
    return "\n".join(_lines(found))


def _lines(found: Found) -> Iterator[str]:
    yield f"{found.scenario} at {found.url}, {found.concurrency} connections, {found.duration_s:g} s"
    yield _about_the_loop(found)
    yield ""
    yield f"{found.calls:,} {found.counted}, {found.rate:,.1f} a second; {sum(found.errors.values()):,} errors"
    for what, count in sorted(found.errors.items(), key=lambda item: -item[1]):
        yield f"  {count:>9,} × {what}"
    if found.calls:
        yield ""
        yield from _latencies(found)
    if found.client_cpu >= BUSY_CLIENT:
        yield ""
        yield f"This client used {found.client_cpu:.0%} of a core: it may be what is measured. Run several, and add up."
    if found.limits:
        yield ""
        yield from (_judged(limit) for limit in found.limits)


def _about_the_loop(found: Found) -> str:
    if found.scenario == "hold":
        return "all are held for that long, then their tasks are ended, some at a time"
    if found.rate_asked is not None:
        return f"open loop: {found.rate_asked:g} a second, measured from the time at which each was due"
    return "closed loop: each connection waits for its answer before it asks again, so a slow deployment is asked less"


def _latencies(found: Found) -> Iterator[str]:
    width = max(len(name) for name in found.latency_ms)
    for name, value in found.latency_ms.items():
        yield f"  {name:<{width}} {value:>12,.3f} ms"
    yield ""
    most = max(bar.calls for bar in found.histogram)
    for bar in found.histogram:
        filled = "█" * round(bar.calls / most * BAR_WIDTH) or ("▏" if bar.calls else "")
        yield f"  ≤ {bar.to_ms:>10,g} ms {bar.calls:>10,}  {filled}".rstrip()


def _judged(limit: Limit) -> str:
    value = "nothing was measured" if limit.value is None else f"{limit.value:,.6g}"
    return f"{'ok  ' if limit.met else 'FAIL'} {limit.name} {limit.limit:g}: {value}"
