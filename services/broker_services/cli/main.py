"""The command `broker`: one group, each command in a module of its own that is imported when it runs."""

from __future__ import annotations

from typing import Final

import click

from broker_services.cli.exits import EXIT_CODES_HELP
from broker_services.cli.lazy import LazyGroup

COMMANDS: Final = {
    "dev": ("broker_services.cli.processes:dev", "A whole deployment in this terminal, to try things out."),
    "api": ("broker_services.cli.processes:api", "One API instance."),
    "worker": ("broker_services.cli.processes:worker", "One worker process."),
    "task": ("broker_services.cli.task:task", "Create, follow, list, query, change, cancel or retry tasks."),
    "bench": ("broker_services.cli.bench.command:bench", "Load a running deployment, and tell how long answers take."),
    "watch": ("broker_services.cli.watch:watch", "Show what a namespace holds, and each change."),
    "publish": ("broker_services.cli.watch:publish", "Publish a value for whoever watches."),
    "keys": ("broker_services.cli.keys:keys", "Make API keys."),
    "doctor": ("broker_services.cli.doctor:doctor", "Check the Redis server, its settings and permissions."),
}

CONTEXT_SETTINGS: Final = {
    "auto_envvar_prefix": "BROKER",
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 120,
}

HELP: Final = f"""A task broker over Redis: a held HTTP call is finished from any instance.

Every flag has an environment variable, which the command's help names.

{EXIT_CODES_HELP}"""


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings=CONTEXT_SETTINGS, help=HELP)
@click.version_option(package_name="createbranch-broker")
def cli() -> None:
    """The root of all commands."""


def main() -> None:
    """What the installed command calls."""
    cli(prog_name="broker")


if __name__ == "__main__":
    main()
