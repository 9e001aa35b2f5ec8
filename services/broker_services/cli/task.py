"""`broker task …`: the calls that create, read and settle tasks, from a shell."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from broker.task import TaskState
from broker.task_event import EventKind
from broker_services.cli.connection import Connection, connected
from broker_services.cli.exits import EXIT_CODES_HELP, Exit
from broker_services.cli.json_text import JSON

if TYPE_CHECKING:
    from broker.client import BrokerClient, RemoteTask

MOST_PER_PAGE: Final = 500
option = partial(click.option, show_envvar=True)


@click.group(help="Create, follow, list, query, change, cancel or retry tasks over HTTP.\n\n" + EXIT_CODES_HELP)
def task() -> None:
    """The group."""


@task.command(epilog=EXIT_CODES_HELP)
@option("--queue", default="createbranch", help="Whose workers may claim the task.")
@option("--payload", type=JSON, help="JSON, @FILE, or @- for the standard input.")
@option("--uuid", help="The task's name; the same one again attaches to it.")
@option(
    "--wait", type=click.FloatRange(min=0), show_default="until it ends", help="Seconds to wait for the task's end."
)
@option("--no-wait", is_flag=True, help="Only create it; the same as --wait 0.")
@option("--idempotency-key", help="Names the task within its queue, instead of a uuid.")
@option("--priority", type=click.IntRange(0, 9), help="9 first.")
@option("--delay", type=float, help="Seconds until the task may be claimed.")
@option("--expires-in", type=float, help="Seconds until the unfinished task expires.")
@option("--retention", type=float, help="Seconds for which the record is kept after the end.")
@option("--max-attempts", type=int, help="How often a failing task is tried.")
@option("--exclusive", is_flag=True, help="Refuse when somebody already waits for the task.")
@connected
@click.pass_context
def create(
    ctx: click.Context,
    /,
    connection: Connection,
    *,
    payload: bytes | None,
    wait: float | None,
    no_wait: bool,
    **options: Any,
) -> None:
    """Create a task, or attach to it, and wait for its end.

    \b
    broker task create --payload '{"repository": "demo", "branch": "x"}' --wait 30
    """
    hold = 0.0 if no_wait else wait
    created = connection.ask(lambda client: client.create(payload_json=payload, wait=hold, **options))
    connection.print(created)
    ctx.exit(Exit.OK if hold == 0 else _outcome(created))


@task.command(epilog=EXIT_CODES_HELP)
@click.argument("uuid")
@option("--wait", type=click.FloatRange(min=0), show_default="don't", help="Seconds to wait for the task's end.")
@connected
@click.pass_context
def query(ctx: click.Context, /, connection: Connection, *, uuid: str, wait: float | None) -> None:
    """Show a task as it stands, or with --wait as soon as it has ended."""
    found = connection.ask(lambda client: client.query(uuid, wait=wait))
    connection.print(found)
    ctx.exit(_outcome(found) if wait else Exit.OK)


@task.command(epilog=EXIT_CODES_HELP)
@click.argument("uuid")
@click.argument("state", type=click.Choice(["succeeded", "failed", "cancelled"]))
@option("--result", type=JSON, help="JSON, @FILE, or @- for the standard input.")
@option("--error", type=JSON, help="The whole error as JSON, instead of its code and message.")
@option("--error-code", help="A stable word for programs.")
@option("--error-message", help="A sentence for people.")
@option("--lease", help="Refuse when the lease was replaced.")
@connected
def change(
    connection: Connection,
    *,
    uuid: str,
    state: str,
    result: bytes | None,
    error: bytes | None,
    error_code: str | None,
    error_message: str | None,
    lease: str | None,
) -> None:
    """End a task from outside, as a third party does.

    \b
    broker task change 084Tkjfh succeeded --result '{"commit": "9f1c"}'
    """
    failure = _failure(error_code, error_message)
    change = connection.ask(
        lambda client: client.change(uuid, state, result_json=result, error=failure, error_json=error, lease=lease)
    )
    connection.print(change.task)


@task.command(epilog=EXIT_CODES_HELP)
@click.argument("uuid")
@connected
def cancel(connection: Connection, *, uuid: str) -> None:
    """End a task as cancelled; its handler is told."""
    connection.print(connection.ask(lambda client: client.cancel(uuid)).task)


@task.command(epilog=EXIT_CODES_HELP)
@click.argument("uuid")
@connected
def retry(connection: Connection, *, uuid: str) -> None:
    """Make a new task of a failed or expired one, and show it."""
    connection.print(connection.ask(lambda client: client.retry(uuid)))


@task.command(epilog=EXIT_CODES_HELP)
@click.argument("uuid")
@option("--after", metavar="ID", help="Go on behind the event of this id.")
@connected
@click.pass_context
def events(ctx: click.Context, /, connection: Connection, *, uuid: str, after: str | None) -> None:
    """Follow a task: what it reports as it comes, until it has ended.

    \b
    broker task events 084Tkjfh
    """
    last = connection.follow(uuid, after)
    ctx.exit(Exit.OK if last is None or last.kind is EventKind.PROGRESS else _outcome(last.data))


@task.command("list", epilog=EXIT_CODES_HELP)
@option("--queue", help="Only this queue's.")
@option("--state", type=click.Choice([state.value for state in TaskState]), help="Only those in this state now.")
@option("--limit", type=click.IntRange(min=1), default=50, help="Tasks at most.")
@option("--all", "everything", is_flag=True, help="All of them, however many.")
@connected
def list_(connection: Connection, *, queue: str | None, state: str | None, limit: int, everything: bool) -> None:
    """Show tasks, newest created first, one a line.

    \b
    broker task list --queue createbranch --state failed
    """
    most = None if everything else limit
    connection.stream(lambda client: _listed(client, most, queue=queue, state=state))


async def _listed(client: BrokerClient, most: int | None, **filters: str | None) -> AsyncIterator[RemoteTask]:
    """Follows the pages: one may be short while more follow."""
    left = math.inf if most is None else most
    cursor: str | None = None
    while left > 0:
        page = await client.list(cursor=cursor, limit=int(min(left, MOST_PER_PAGE)), **filters)
        for found in page.items:
            yield found
        left -= len(page.items)
        cursor = page.cursor
        if cursor is None:
            return


def _failure(code: str | None, message: str | None) -> dict[str, str] | None:
    members = {"code": code, "message": message}
    return {name: text for name, text in members.items() if text is not None} or None


def _outcome(task: RemoteTask) -> Exit:
    if not task.state.is_terminal:
        return Exit.STILL_RUNNING
    return Exit.OK if task.state is TaskState.SUCCEEDED else Exit.FAILED
