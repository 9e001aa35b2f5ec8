"""What people and machines are told."""

from __future__ import annotations

import json
from typing import Any

from broker_services.cli.bench.latencies import Bar
from broker_services.cli.bench.report import Found, Limit, as_json, as_text


def _found(**changes: Any) -> Found:
    fields: dict[str, Any] = {
        "scenario": "roundtrip",
        "url": "http://h",
        "loop": "closed",
        "concurrency": 2,
        "rate_asked": None,
        "duration_s": 1.5,
        "counted": "tasks",
        "calls": 1234,
        "rate": 822.7,
        "errors": {"503 draining": 2, "not answered in time": 3},
        "latency_ms": {"p50": 1.25, "p99.9": 20.0},
        "histogram": [Bar(0, 1, 1000), Bar(1, 2, 0), Bar(2, 5, 1)],
        "client_cpu": 0.5,
        "limits": [Limit("--max-errors", 0, 5, False), Limit("--max-p99-ms", 10, None, False)],
        "passed": False,
    }
    return Found(**{**fields, **changes})


def test_people_see_errors_percentiles_bars_and_limits() -> None:
    text = as_text(_found())
    assert (
        "1,234 tasks, 822.7 a second; 5 errors\n          3 × not answered in time\n          2 × 503 draining" in text
    )
    assert "p99.9       20.000 ms" in text
    assert "≤          1 ms      1,000  " + "█" * 50 in text
    assert "≤          2 ms          0\n" in text
    assert "≤          5 ms          1  ▏" in text
    assert "FAIL --max-errors 0: 5" in text
    assert "nothing was measured" in text


def test_the_loop_is_told() -> None:
    assert "closed loop" in as_text(_found())
    assert "open loop: 20 a second, measured from the time at which each was due" in as_text(_found(rate_asked=20.0))


def test_a_busy_client_says_so() -> None:
    assert "This client used" not in as_text(_found())
    assert "This client used 97% of a core" in as_text(_found(client_cpu=0.97))


def test_machines_get_all_of_it() -> None:
    document = json.loads(as_json(_found()))
    assert document["histogram"][0] == {"above_ms": 0, "to_ms": 1, "calls": 1000}
    assert document["limits"][1]["value"] is None
    assert document["errors"] == {"503 draining": 2, "not answered in time": 3}
