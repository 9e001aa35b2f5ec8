"""`broker bench`: a load generator for a deployment that runs."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, Final

import click

from broker_services.cli import show
from broker_services.cli.connection import Connection, connected
from broker_services.cli.exits import Exit
from broker_services.cli.json_text import JSON

SCENARIO_NAMES: Final = ("roundtrip", "callback", "hold", "watch", "claim")
option = partial(click.option, show_envvar=True)

HELP: Final = """Load a running deployment, and tell how long its answers took.

\b
Scenarios, and what is measured in each:
  roundtrip  createTask until its worker has ended it. Needs a worker of the queue:
             broker worker broker_services.worker.bench:worker
  callback   changeTaskState by a third party (at --second-url, if given) until the held
             createTask call of that task is answered
  hold       as many calls as --concurrency, all held for the whole run; then each task is
             ended, until its caller is answered
  watch      one publish until each of --concurrency watchers has the value
  claim      claimTask by a worker over HTTP, until it has a task

Without --rate the loop is closed: each connection asks again once it was answered. A deployment that stalls is then
asked less often, so the calls that would have met the stall are missing from the percentiles (coordinated omission).
Take closed loops to learn how much a deployment can do. With --rate the loop is open: calls are due at fixed times,
and each is measured from the time at which it was due, whether or not it could leave then. So a stall counts for every
call that it kept waiting, and calls that could not leave at all are errors. Take open loops to learn how long callers
wait. Timers have a resolution of 1 ms, of which an open loop's latencies have up to one more.

The client is one process, and one core at most; the result says when that was the limit.

\b
Exit codes:
  0  every limit was kept
  1  a limit was not kept: --max-errors (0), --max-p50-ms, --max-p99-ms, --min-rate
  2  the command or a value in it is not acceptable
  4  nothing answers at the URL
"""


@click.command(help=HELP)
@option("--scenario", type=click.Choice(SCENARIO_NAMES), default="roundtrip", help="What to load it with.")
@option("--duration-s", type=click.FloatRange(min=0.1), default=10.0, help="How long calls are begun and counted.")
@option("--warm-up-s", type=click.FloatRange(min=0), default=1.0, help="How long calls are made before they count.")
@option("--concurrency", type=click.IntRange(1, 60_000), default=64, help="Connections, each with one call at a time.")
@option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    show_default="closed loop",
    help="Calls a second, due at fixed times. Not for hold.",
)
@option("--timeout-s", type=click.FloatRange(min=0.1), default=30.0, help="After which a call counts as an error.")
@option("--queue", show_default="one of the scenario's own", help="Where tasks are created.")
@option("--payload", type=JSON, help="Of each task, or of each publish: JSON, @FILE, or @- for the standard input.")
@option("--second-url", show_default="--url", help="Where third parties and publishers call: another instance.")
@option("--max-p50-ms", type=click.FloatRange(min=0), help="Fail when half of the calls took longer.")
@option("--max-p99-ms", type=click.FloatRange(min=0), help="Fail when a hundredth of the calls took longer.")
@option("--min-rate", type=click.FloatRange(min=0), help="Fail when fewer calls a second were answered.")
@option("--max-errors", type=click.IntRange(min=0), default=0, help="Fail when there were more errors.")
@connected
@click.pass_context
def bench(ctx: click.Context, /, connection: Connection, *, scenario: str, rate: float | None, **options: Any) -> None:
    if scenario == "hold" and rate is not None:
        raise click.UsageError("--rate has no meaning for hold, whose calls are all held at the same time.")
    from broker_services.cli.bench import report
    from broker_services.cli.bench.run import Wanted, run

    outcome = run(
        Wanted(
            scenario=scenario,
            rate=rate,
            url=connection.url,
            api_key=connection.api_key,
            shows_progress=sys.stderr.isatty(),
            **options,
        )
    )
    if connection.as_json:
        show.document(report.as_json(outcome.found))
    else:
        show.echo(report.as_text(outcome.found))
    if outcome.is_interrupted:
        ctx.exit(Exit.INTERRUPTED)
    ctx.exit(Exit.OK if outcome.found.passed else Exit.FAILED)
