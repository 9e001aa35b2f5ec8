"""The command line of `broker bench`."""

from __future__ import annotations

import pytest

from broker.store.embedded import free_port
from broker_services.cli.bench.command import SCENARIO_NAMES
from broker_services.cli.bench.scenarios import SCENARIOS
from broker_services.cli.exits import Exit
from tests.unit.cli.conftest import Invoke


def test_every_scenario_can_be_asked_for() -> None:
    assert tuple(SCENARIOS) == SCENARIO_NAMES


def test_help_tells_of_coordinated_omission(broker: Invoke) -> None:
    assert "coordinated omission" in " ".join(broker("bench", "--help").stdout.split())


def test_where_nothing_answers_the_run_does_not_begin(broker: Invoke) -> None:
    result = broker("bench", "--url", f"http://127.0.0.1:{free_port()}")
    assert result.exit_code == Exit.UNREACHABLE
    assert "Is --url right?" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--scenario", "hold", "--rate", "5"], "--rate has no meaning for hold"),
        (["--url", "localhost:8080"], "must begin with http:// or https://"),
        (["--rate", "0"], "0 is not in the range"),
        (["--concurrency", "1000"], "--concurrency 1000 is more than the 1000 files"),
    ],
)
def test_what_cannot_be_run_is_a_usage_error(
    broker: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.setattr("broker_services.cli.bench.run.raised_limit", lambda: 1000)
    result = broker("bench", *arguments)
    assert result.exit_code == Exit.USAGE
    assert sentence in result.stderr
