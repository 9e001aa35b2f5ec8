"""What wrk prints is read rightly, and a run without figures is told from one with bad ones."""

from __future__ import annotations

import pytest

from tests.bench import load
from tests.bench.figures import Figures
from tests.bench.load import Load, LoadError
from tests.bench.scenarios import roundtrip
from tests.bench.scenarios.roundtrip import System

PRINTED = """Running 4s test @ http://127.0.0.1:1/createTask
  1 threads and 64 connections
  Latency Distribution
     50%    {median}
     99%    9.99ms
  {count} requests in {seconds}, 1.00MB read
{more}Requests/sec:   1
"""


def printed(median: str = "1.50ms", count: int = 400, seconds: str = "4.00s", more: str = "") -> str:
    return PRINTED.format(median=median, count=count, seconds=seconds, more=more)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (printed(), Load(400, 4.0, 1.5)),
        (printed(median="250.00us", seconds="1.50m"), Load(400, 90.0, 0.25)),
        (printed(more="  Socket errors: connect 0, read 0, write 0, timeout 5\n"), Load(400, 4.0, 1.5)),
    ],
)
def test_a_run_is_read(monkeypatch: pytest.MonkeyPatch, text: str, found: Load) -> None:
    assert ran(monkeypatch, text) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (printed(median="0.00us", count=0), "no answer"),
        (printed(more="  Non-2xx or 3xx responses: 7\n"), "7 of 400 answers were no success"),
        (printed(more="  Socket errors: connect 0, read 3, write 0, timeout 0\n"), "connect 0, read 3, write 0"),
        (
            printed(more="  Socket errors: connect 0, read 0, write 0, timeout 5\n  Non-2xx or 3xx responses: 7\n"),
            "7 of 400 answers were no success",
        ),
        ("unable to connect", "unable to connect"),
        ("", "printed nothing"),
    ],
)
def test_a_run_that_gives_no_figures_says_why(monkeypatch: pytest.MonkeyPatch, text: str, reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        ran(monkeypatch, text)


def ran(monkeypatch: pytest.MonkeyPatch, text: str) -> Load:
    """A run of a load generator that prints this."""
    monkeypatch.setattr(load, "_command", lambda *_: ["printf", "%s", text])
    return load.run("http://x.test", connections=1, seconds=1)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers any load."""

    def run(*_: str, **__: int) -> Load:
        raise LoadError("no answer")

    monkeypatch.setattr(load, "run", run)


@pytest.mark.usefixtures("silent")
def test_a_silent_peer_gives_a_note_and_no_figures() -> None:
    figures = Figures()
    for _ in range(2):
        roundtrip.measure(figures, System("slow", "http://x.test", {"API": lambda: 0.0}, is_peer=True), seconds=1)
    assert figures.summaries() == {}
    assert figures.notes() == [
        "slow, 64 connections: no answer (2 times)",
        "slow, 1 connections: no answer (2 times)",
    ]


@pytest.mark.usefixtures("silent")
def test_the_broker_has_to_answer() -> None:
    with pytest.raises(RuntimeError, match="broker, 64 connections: no answer"):
        roundtrip.measure(Figures(), System("broker", "http://x.test", {}), seconds=1)
