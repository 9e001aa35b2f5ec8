"""A minute of the fault suite. `python -m tests.faults --seconds 600` is the ten minutes by hand."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from tests.faults.run import Options, run, table

SECONDS: Final = 40.0


async def test_nothing_acknowledged_is_lost_whatever_dies(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    report, _ = await run(Options(seed=seed, seconds=SECONDS, clients=12), tmp_path / "run")
    told = "\n".join(f"{violation.rule}: {violation.text}" for violation in report.violations)
    assert not report.violations, f"python -m tests.faults --clients 12 --seconds {SECONDS:g} --seed {seed}\n{told}"
    assert report.tasks > 50, table(report)
    assert sum(report.faults.values()) >= SECONDS / 6, table(report)
