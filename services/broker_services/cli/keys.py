"""`broker keys …`: makes the keys with which programs call the API."""

from __future__ import annotations

from pathlib import Path

import click

from broker_services.api_keys import SCOPES, append_key, new_key


@click.group()
def keys() -> None:
    """Make API keys. The file of BROKER_API_KEYS_FILE holds their hashes and scopes, one JSON object a line."""


@keys.command()
@click.option("--name", required=True, show_envvar=True, help="Whose key it is; stands in the file and in logs.")
@click.option(
    "--scopes",
    required=True,
    show_envvar=True,
    metavar="SCOPE,…",
    help=f"What it may do, separated by commas: {', '.join(SCOPES)}.",
)
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    show_envvar=True,
    show_default="only print it",
    help="Add the line to this file.",
)
def new(*, name: str, scopes: str, file: Path | None) -> None:
    """Make a key. It is printed once and stored nowhere; its line for the file holds only its hash.

    \b
    broker keys new --name ci --scopes create,read --file api-keys
    """
    key, line = new_key(name, [scope.strip() for scope in scopes.split(",") if scope.strip()])
    if file is not None:
        append_key(file, line)
    click.echo(key)
    if file is None:
        click.echo(line.line())
        click.echo("The first line is the key, shown only now; the second one belongs into the file.", err=True)
    else:
        click.echo(f"That is the key, shown only now. {file} has its hash.", err=True)
