"""`python -m tests.bench [SCENARIO ...]`: measures the broker against its references, and says which bounds are kept.

Exit status 0 when every bound of the scenarios that ran is kept, else 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from broker_services.api.descriptors import raised_limit
from tests.bench import budget as budgets
from tests.bench import machine, report
from tests.bench.bounds import Verdict, judge
from tests.bench.budget import Budget
from tests.bench.figures import Figures, Summary
from tests.bench.report import Report

SCENARIOS: Final = (
    "roundtrip",
    "callback",
    "hold",
    "fleet",
    "backlog",
    "scale",
    "watch",
    "values",
    "memory",
    "uploads",
    "durability",
    "startup",
)
RESULTS: Final = Path(__file__).parent / "results.md"


def main() -> int:
    """Runs what was asked for and prints it."""
    # Held calls are sockets here, too.
    raised_limit()
    parser = _parser()
    options = parser.parse_args()
    if options.write and (options.scenario or options.quick):
        parser.error("--write keeps whole runs only: leave out --quick and the names of scenarios.")
    budget = _budget(options)
    found = measure(options.scenario or SCENARIOS, budget)
    text = report.as_json(found) if options.json else report.as_markdown(found)
    sys.stdout.write(text.rstrip() + "\n")
    if options.write:
        RESULTS.write_text(report.as_markdown(found))
        RESULTS.with_suffix(".json").write_text(report.as_json(found) + "\n")
    return 0 if found.is_passed else 1


def measure(names: tuple[str, ...] | list[str], budget: Budget) -> Report:
    """Runs scenarios, one after the other. One that breaks down does not stop the others."""
    began = time.monotonic()
    described = machine.description()
    scenarios: dict[str, Mapping[str, Summary]] = {}
    notes: dict[str, Sequence[str]] = {}
    verdicts: list[Verdict] = []
    failures: dict[str, str] = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            figures = _run(name, budget)
            scenarios[name], notes[name] = figures.summaries(), figures.notes()
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"
        verdicts += judge(name, scenarios.get(name, {}))
    return Report(described, budget.in_words, scenarios, notes, verdicts, failures, time.monotonic() - began)


def _run(name: str, budget: Budget) -> Figures:
    figures: Figures = importlib.import_module(f"tests.bench.scenarios.{name}").run(budget)
    return figures


def _budget(options: argparse.Namespace) -> Budget:
    budget = budgets.quick(options.cache) if options.quick else budgets.full(options.cache)
    return budget._replace(rounds=options.rounds or budget.rounds, seconds=options.seconds or budget.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "scenario", nargs="*", metavar="SCENARIO", help=f"all when none is named: {', '.join(SCENARIOS)}"
    )
    parser.add_argument("--quick", action="store_true", help="short and small: does it work? The figures mean little")
    parser.add_argument("--rounds", type=int, help="how often each measurement is repeated")
    parser.add_argument("--seconds", type=int, help="how long each load lasts")
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="keep the run in tests/bench/results.md and results.json")
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "createbranch-broker-bench")
    parser.add_argument("--cache", type=Path, default=default, help="where the peers are installed (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
