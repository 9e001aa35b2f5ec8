"""`broker bench` against instances that run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from click.testing import CliRunner

from broker_services.cli.exits import Exit
from broker_services.cli.main import cli
from tests.support.api import ApiProcess, WorkerProcess

DURATIONS_S: Final = (0.3, 1.0, 5.0)
"""A busy machine may not get round to anything in the first."""

Bench = Callable[..., tuple[int, Any]]


@pytest.fixture
def bench(instances: tuple[ApiProcess, ApiProcess]) -> Bench:
    """Runs it for a moment, third parties on the second instance; gives the exit code and what it printed as JSON."""
    first, second = instances

    def run(*arguments: str) -> tuple[int, Any]:
        command = ["bench", "--url", first.url, "--second-url", second.url, "--json", "--warm-up-s", "0"]
        for duration_s in DURATIONS_S:
            timed = [*command, "--duration-s", str(duration_s), *arguments]
            result = CliRunner().invoke(cli, timed, prog_name="broker")
            found = json.loads(result.stdout)
            if found["calls"] or found["errors"]:
                break
        return result.exit_code, found

    return run


def test_a_round_trip_is_measured_in_a_closed_loop(bench: Bench, worker: WorkerProcess) -> None:
    code, found = bench("--queue", "test-echo", "--concurrency", "4", "--payload", "[1.0]")
    assert (code, found["passed"], found["errors"], found["loop"]) == (Exit.OK, True, {}, "closed")
    assert found["calls"] == sum(bar["calls"] for bar in found["histogram"]) > 0
    assert 0 < found["latency_ms"]["least"] <= found["latency_ms"]["p50"] <= found["latency_ms"]["most"]


def test_at_a_fixed_rate_as_many_calls_are_made_as_are_due(bench: Bench, worker: WorkerProcess) -> None:
    code, found = bench("--queue", "test-echo", "--rate", "100", "--min-rate", "100", "--max-p99-ms", "60000")
    assert (code, found["loop"]) == (Exit.OK, "open")
    assert found["calls"] == found["rate_asked"] * found["duration_s"]


@pytest.mark.parametrize("scenario", ["callback", "hold", "watch", "claim"])
def test_every_other_scenario_runs(bench: Bench, scenario: str) -> None:
    code, found = bench("--scenario", scenario, "--concurrency", "20")
    assert (code, found["errors"]) == (Exit.OK, {})
    assert found["calls"] > 0


def test_a_limit_that_is_not_kept_is_a_failure(bench: Bench) -> None:
    code, found = bench("--scenario", "callback", "--concurrency", "2", "--max-p50-ms", "0", "--min-rate", "1000000")
    assert code == Exit.FAILED
    assert [limit["met"] for limit in found["limits"]] == [True, False, False]


def test_errors_are_counted_by_their_kind_and_are_a_failure(bench: Bench, worker: WorkerProcess) -> None:
    code, found = bench("--queue", "test-fails", "--concurrency", "2")
    assert (code, found["calls"]) == (Exit.FAILED, 0)
    assert set(found["errors"]) == {"the task ended as failed"}
