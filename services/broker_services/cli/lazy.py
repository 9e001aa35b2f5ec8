"""Command groups that import a command's module only when that command runs, so that `broker --help` is quick."""

from __future__ import annotations

import importlib
from typing import Any

import click

from broker_services.cli.exits import Exit, exit_code


class LazyGroup(click.Group):
    """A group whose commands are `module:object` strings with a line of help each.

    It also turns errors that are meant for people into one line on stderr and an exit code.

    Args:
        lazy: Name of a command → (`module:object`, its line of help).
        attributes: What `click.Group` takes.
    """

    def __init__(self, *, lazy: dict[str, tuple[str, str]], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order they were given."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, which imports its module."""
        if cmd_name not in self._lazy:
            return None
        module, _, name = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; what goes wrong for a reason is told in one line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(Exit.INTERRUPTED)
        except Exception as error:
            code = None if isinstance(error, (click.ClickException, click.exceptions.Exit)) else exit_code(error)
            if code is None:
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(code)
