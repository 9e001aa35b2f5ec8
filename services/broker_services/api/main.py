"""One API process: `broker api`."""

from __future__ import annotations

import asyncio

import uvicorn

from broker import Broker, Settings
from broker.background import Background
from broker_services.api.access import access_of
from broker_services.api.app import build_app
from broker_services.api.calls.shared import Api
from broker_services.api.descriptors import fit_waiters
from broker_services.api.direct_protocol import DirectPaths, protocol_factory
from broker_services.api.dispatcher import Dispatcher
from broker_services.api.operations import DIRECT_PATHS, UNREAD_PATHS
from broker_services.api.protocol import HeadBounds
from broker_services.api.server import BACKLOG, KEEP_ALIVE_S, DrainingServer
from broker_services.api.upload_cleaning import GRACE_S, UploadCleaning
from broker_services.loop import configure_log, loop_factory, tune_garbage_collector


def run(settings: Settings, *, host: str, port: int) -> int:
    """Serves until SIGTERM or SIGINT.

    Args:
        settings: What to run with.
        host: Address to listen on.
        port: Port to listen on.

    Returns:
        The exit status: 0 after a signal, 1 when the port cannot be had.

    Raises:
        StoreUnavailableError, ConfigurationError: Redis cannot be used at the start.
    """
    configure_log()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(settings, host, port))


async def _serve(settings: Settings, host: str, port: int) -> int:
    access = access_of(settings.api_keys_file, host)
    background = Background()
    async with Broker(fit_waiters(settings)) as broker:
        app, api = build_app(broker, access)
        if access is not None:
            background.keep(access.reload_forever, "API keys")
        background.keep(_cleaning(api).run_forever, "cleaning of uploads")
        tune_garbage_collector()
        server = DrainingServer(_config(app, api, host, port), api.drain)
        try:
            await server.serve()
        except SystemExit:
            # uvicorn's word for a port that is taken; it has logged why.
            return 1
        finally:
            await background.cancel()
            api.uploads.close()
    return 0


def _cleaning(api: Api) -> UploadCleaning:
    broker = api.broker
    grace_s = GRACE_S + api.settings.body_timeout_s
    return UploadCleaning(api.uploads, broker.housekeeping, broker.queries, broker.name, grace_s=grace_s)


def _config(app: Dispatcher, api: Api, host: str, port: int) -> uvicorn.Config:
    settings = api.settings
    bounds = HeadBounds(settings.max_header_bytes, settings.body_timeout_s, api.measures.refused, UNREAD_PATHS)
    direct = DirectPaths(DIRECT_PATHS, app.begin)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol_factory(bounds, direct),  # type: ignore[arg-type]  # whatever makes one does
        ws="none",
        lifespan="off",
        log_config=None,
        # A line per request costs a third of the throughput (measured); metrics tell more.
        access_log=False,
        server_header=False,
        # Nothing here looks at the client's address.
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
