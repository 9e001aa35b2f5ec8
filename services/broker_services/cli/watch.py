"""`broker watch` and `broker publish`: published values, from a shell."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import click
import msgspec

from broker.published import NOTHING, Published
from broker_services.cli import show
from broker_services.cli.connection import Connection, connected
from broker_services.cli.exits import EXIT_CODES_HELP, Exit
from broker_services.cli.json_text import JSON

if TYPE_CHECKING:
    from broker.client import BrokerClient

option: Final = partial(click.option, show_envvar=True)


@click.command(epilog=EXIT_CODES_HELP)
@click.argument("namespace")
@option("--version", default=NOTHING, help="Begin after this version; 0 begins with the present value.")
@option("--once", is_flag=True, help="End after the first value.")
@option(
    "--wait", type=click.FloatRange(min=0), show_default="for ever", help="Seconds without a change after which to end."
)
@connected
@click.pass_context
def watch(
    ctx: click.Context, /, connection: Connection, *, namespace: str, version: str, once: bool, wait: float | None
) -> None:
    """Show what a namespace holds, and then each change, one a line.

    \b
    broker watch prices
    """

    async def followed() -> Exit:
        async with connection.client() as client:
            return await _follow(client, namespace, version, wait, once=once, for_people=connection.is_for_people)

    ctx.exit(asyncio.run(followed()))


async def _follow(
    client: BrokerClient, namespace: str, version: str, wait: float | None, *, once: bool, for_people: bool
) -> Exit:
    while (published := await client.watch(namespace, version, timeout=wait)) is not None:
        _print_line(published, for_people=for_people)
        if once:
            return Exit.OK
        version = published.version
    return Exit.STILL_RUNNING


@click.command(epilog=EXIT_CODES_HELP)
@click.argument("namespace")
@click.argument("value", type=JSON, required=False)
@option("--delete", is_flag=True, help="Delete the namespace instead; whoever watches it is told.")
@connected
def publish(connection: Connection, *, namespace: str, value: bytes | None, delete: bool) -> None:
    """Publish a value, JSON, @FILE, or @- for the standard input, and answer whoever watches.

    \b
    broker publish prices '{"EUR": 1.1}'
    """
    if delete == (value is not None):
        raise click.UsageError("Give either a value or --delete.")
    if value is None:
        connection.ask(lambda client: client.unpublish(namespace))
        return
    made = connection.ask(lambda client: client.publish(namespace, value_json=value))
    show.document(msgspec.json.encode({"namespace": namespace, "version": made}))


def _print_line(published: Published, *, for_people: bool) -> None:
    if for_people:
        show.published_line(published.raw)
    else:
        show.document(published.raw)
