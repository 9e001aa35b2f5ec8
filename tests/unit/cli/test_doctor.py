"""`broker doctor`: what it asks for, prints and exits with."""

from __future__ import annotations

import pytest

from broker.store.findings import Finding, Status
from broker_services.cli import show
from broker_services.cli.exits import Exit
from tests.unit.cli.conftest import Invoke


class Examined:
    """Stands in for the examination: remembers what was asked for, finds what it was told."""

    def __init__(self, worst: Status) -> None:
        self.asked: list[tuple[object, ...]] = []
        self._findings = [Finding("connection", "ok", "Good."), Finding("version", worst, "A sentence.")]

    def __call__(self, *arguments: object) -> list[Finding]:
        self.asked.append(arguments)
        return self._findings


@pytest.mark.parametrize(("worst", "exit_code"), [("ok", Exit.OK), ("warn", Exit.OK), ("fail", Exit.FAILED)])
def test_the_worst_finding_decides(
    broker: Invoke, monkeypatch: pytest.MonkeyPatch, worst: Status, exit_code: Exit
) -> None:
    monkeypatch.setattr("broker.store.doctor.examine", Examined(worst))
    result = broker("doctor")
    assert result.exit_code == exit_code
    assert f'{{"name":"version","status":"{worst}","message":"A sentence."}}' in result.stdout


def test_flags_and_environment(broker: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    examined = Examined("ok")
    monkeypatch.setattr("broker.store.doctor.examine", examined)
    flags = ("--queue", "a", "--queue", "b", "--role", "api", "--wait-replicas", "1")
    broker("doctor", *flags, BROKER_REDIS_URL="redis://r.test")
    broker("doctor")
    assert examined.asked == [
        ("redis://r.test", ("a", "b"), "api", 1),
        ("redis://127.0.0.1:6379/0", ("createbranch",), None, 0),
    ]


def test_people_get_a_line_a_finding(broker: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.doctor.examine", Examined("fail"))
    monkeypatch.setattr(show, "for_people", lambda as_json: not as_json)
    assert "fail     version     A sentence.\n" in broker("doctor").stdout
    assert broker("doctor", "--json").stdout.startswith("[{")
