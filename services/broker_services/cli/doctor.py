"""`broker doctor`: looks at the Redis server and says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from broker.naming import DEFAULT_QUEUE
from broker.settings import Settings
from broker_services.cli import show
from broker_services.cli.exits import Exit

if TYPE_CHECKING:
    from broker.store.findings import Finding, Role


@click.command()
@click.option(
    "--redis-url",
    envvar="BROKER_REDIS_URL",
    show_envvar=True,
    show_default=Settings().redis_url,
    help="The server, with the user that the processes log in as.",
)
@click.option(
    "--queue",
    "queues",
    multiple=True,
    default=(DEFAULT_QUEUE,),
    show_envvar=True,
    help="A queue whose channels the user must have; may be repeated.",
)
@click.option(
    "--role",
    type=click.Choice(["api", "worker"]),
    show_envvar=True,
    show_default="either",
    help="Whose rights the user must have.",
)
@click.option(
    "--wait-replicas",
    type=click.IntRange(min=0),
    envvar="BROKER_WAIT_REPLICAS",
    show_envvar=True,
    help="How many replicas have to confirm.",
)
@click.option("--json", "as_json", is_flag=True, envvar="BROKER_JSON", show_envvar=True, help="JSON on a terminal too.")
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    redis_url: str | None,
    queues: tuple[str, ...],
    role: Role | None,
    wait_replicas: int | None,
    as_json: bool,
) -> None:
    """Check the Redis server's version and settings, its replicas, this user's rights, and that messages really arrive.

    Nothing is changed on the server. Exit code 0 when nothing failed, 1 otherwise.
    """
    # Imported here, redis-py with it: help needs neither.
    from broker.store.doctor import examine

    settings = Settings.from_environment(redis_url=redis_url, wait_replicas=wait_replicas)
    findings = examine(settings.redis_url, queues, role, settings.wait_replicas)
    if show.for_people(as_json):
        _print(findings)
    else:
        show.document(msgspec.json.encode(findings))
    ctx.exit(Exit.FAILED if any(finding.status == "fail" for finding in findings) else Exit.OK)


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        status = show.coloured(finding.status, finding.status.ljust(len("skipped")))
        show.echo(f"{status}  {finding.name.ljust(width)}  {show.harmless(finding.message)}")
