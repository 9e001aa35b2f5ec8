"""`broker api`, `broker worker`, `broker dev`: flags become `Settings`, and the service's own `run` does the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from broker.settings import Settings
from broker_services.cli.flags import settings_flags

host_option = click.option(
    "--host",
    default="127.0.0.1",
    envvar="BROKER_HOST",
    show_envvar=True,
    help="The address to listen on; 0.0.0.0 for every one.",
)
port_option = click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8080,
    envvar="BROKER_PORT",
    show_envvar=True,
    help="The port to listen on; 0 for a free one.",
)


@click.command()
@host_option
@port_option
@settings_flags("api")
@click.pass_context
def api(ctx: click.Context, /, host: str, port: int, **flags: Any) -> None:
    """One API instance: stateless, so run as many as you like behind a balancer."""
    settings = Settings.from_environment(**flags)
    from broker_services.api.main import run

    ctx.exit(run(settings, host=host, port=port))


@click.command()
@click.argument("target", metavar="[MODULE:OBJECT]", required=False)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    envvar="BROKER_CONCURRENCY",
    show_envvar=True,
    help="The most tasks at the same time in this process, instead of each handler's own.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    envvar="BROKER_METRICS_PORT",
    show_envvar=True,
    show_default="not served",
    help="The port on which /metrics is served.",
)
@click.option(
    "--metrics-host",
    default="127.0.0.1",
    envvar="BROKER_METRICS_HOST",
    show_envvar=True,
    help="The address on which /metrics is served.",
)
@settings_flags("worker")
@click.pass_context
def worker(
    ctx: click.Context,
    /,
    target: str | None,
    concurrency: int | None,
    metrics_port: int | None,
    metrics_host: str,
    **flags: Any,
) -> None:
    """One worker process, with the handlers of MODULE:OBJECT.

    The object is a `broker.Worker`; the current folder is importable. Without it, the built-in queues are served.
    """
    settings = Settings.from_environment(**flags)
    from broker_services.worker.main import run

    ctx.exit(
        run(settings, target=target, concurrency=concurrency, metrics_host=metrics_host, metrics_port=metrics_port)
    )


@click.command()
@host_option
@port_option
@click.option(
    "--data-folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".broker-dev"),
    envvar="BROKER_DATA_FOLDER",
    show_envvar=True,
    help="Where the embedded server and the git repositories keep their files between two runs.",
)
@settings_flags("dev")
@click.pass_context
def dev(ctx: click.Context, /, host: str, port: int, data_folder: Path, **flags: Any) -> None:
    """A whole deployment in this terminal: an embedded server, two API instances, one worker."""
    settings = Settings.from_environment(**flags)
    from broker_services.cli.dev import run

    ctx.exit(run(settings, host=host, port=port, data_folder=data_folder))
