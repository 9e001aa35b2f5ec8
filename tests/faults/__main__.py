"""`python -m tests.faults`: the fault suite from a shell."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

import msgspec

from tests.faults.load import STORIES
from tests.faults.plan import KINDS
from tests.faults.run import Options, run, table, write_history

MOST_SHOWN = 20


def main() -> int:
    """Runs it; 0 when no promise was broken, else 1."""
    flags = _parser().parse_args()
    seed = random.randrange(10**6) if flags.seed is None else flags.seed
    print(f"seed {seed}", flush=True)
    options = Options(
        seed=seed,
        seconds=flags.seconds,
        apis=flags.apis,
        workers=flags.workers,
        clients=flags.clients,
        lease_s=flags.lease_s,
        kinds=flags.kinds,
        stories=flags.stories,
        wait_replicas=flags.wait_replicas,
    )
    report, history = asyncio.run(run(options, flags.folder))
    if flags.history is not None:
        write_history(history, flags.history)
    print(msgspec.json.format(msgspec.json.encode(report)).decode() if flags.json else table(report))
    for violation in report.violations[:MOST_SHOWN]:
        print(f"VIOLATION {violation.rule}: {violation.text}", file=sys.stderr)
    if report.violations:
        print(f"{len(report.violations)} violations; run it again with --seed {seed}.", file=sys.stderr)
    return 1 if report.violations else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Runs a deployment under load and faults, and checks that it keeps its promises.",
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long faults go on")
    parser.add_argument("--seed", type=int, help="replays the faults and the load of an earlier run")
    parser.add_argument("--apis", type=int, default=3, help="API instances")
    parser.add_argument("--workers", type=int, default=3, help="worker processes")
    parser.add_argument("--clients", type=int, default=32, help="clients at a time")
    parser.add_argument("--lease-s", type=float, default=2.0, help="the workers' lease")
    parser.add_argument("--wait-replicas", type=int, default=0, help="replicas, all of which have to confirm")
    parser.add_argument("--kinds", nargs="*", choices=[kind.name for kind in KINDS], help="only these faults")
    parser.add_argument("--stories", nargs="*", choices=list(STORIES), help="only this load")
    parser.add_argument("--folder", type=Path, help="keeps data and logs; must not exist")
    parser.add_argument("--history", type=Path, help="writes everything that happened into this file")
    parser.add_argument("--json", action="store_true", help="the report as JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
