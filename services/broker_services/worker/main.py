"""One worker process: `broker worker`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

from broker import ConfigurationError, Settings, Worker, naming
from broker_services.loop import configure_log, loop_factory, tune_garbage_collector
from broker_services.worker.loading import load_worker_object

log = logging.getLogger("broker.worker")

LAST_TASKS_S = 1.0
"""How long the process waits for what still runs on its loop."""


def run(
    settings: Settings,
    *,
    target: str | None,
    concurrency: int | None,
    metrics_host: str = "127.0.0.1",
    metrics_port: int | None = None,
) -> int:
    """Works until SIGTERM or SIGINT, then drains.

    Args:
        settings: What to run with.
        target: `MODULE:OBJECT` of a `broker.Worker`; None for the built-in queues.
        concurrency: Tasks at a time for each handler; the handlers' own numbers when None.
        metrics_host: Where `/metrics` is served.
        metrics_port: The same; nothing is served when None.

    Returns:
        The exit status, 0.

    Raises:
        StoreUnavailableError, ConfigurationError: Redis, git or the target cannot be used at the start.
    """
    configure_log()
    worker = _load(target) if target else _built_in(settings)
    tune_garbage_collector()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(worker, settings, concurrency, metrics_host, metrics_port))
        if not runner.run(_end_others()):
            # The runner, and so the process, would wait for them for ever.
            log.warning("The process ends although handlers go on that take no notice of being cancelled.")
            logging.shutdown()
            os._exit(0)
    return 0


async def _serve(
    worker: Worker, settings: Settings, concurrency: int | None, metrics_host: str, metrics_port: int | None
) -> None:
    if metrics_port is None:
        await _work(worker, settings, concurrency)
        return
    from broker_services.metrics import Metrics
    from broker_services.worker.metrics import worker_metrics
    from broker_services.worker.metrics_server import MetricsServer

    async with MetricsServer(Metrics(lambda: worker_metrics(worker)), metrics_host, metrics_port):
        await _work(worker, settings, concurrency)


async def _work(worker: Worker, settings: Settings, concurrency: int | None) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    log.info("Working on %s.", ", ".join(worker.handlers))
    await worker.run(settings, stop=stop, concurrency=concurrency)


async def _end_others() -> bool:
    """Cancels what still runs on the loop; whether all of it ends."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if not others:
        return True
    for task in others:
        task.cancel()
    _, pending = await asyncio.wait(others, timeout=LAST_TASKS_S)
    return not pending


def _stop_on_signals(stop: asyncio.Event) -> None:
    """The first signal drains; a second one ends the process at once, and leaves its tasks to the sweep."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def take_first() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in numbers:
        loop.add_signal_handler(number, take_first)


def _load(target: str) -> Worker:
    loaded = load_worker_object(target)
    if not isinstance(loaded, Worker):
        raise ConfigurationError(f"{target} is {type(loaded).__name__}; it must be a broker.Worker.")
    return loaded


def _built_in(settings: Settings) -> Worker:
    from broker_services.files import FileStore
    from broker_services.worker.createbranch import BranchCreator
    from broker_services.worker.git_process import require_git
    from broker_services.worker.upload import PictureProcessor

    require_git()
    worker = Worker()
    worker.handler("createbranch", concurrency=32, timeout=60, max_attempts=3)(BranchCreator(Path(settings.git_root)))
    pictures = PictureProcessor(FileStore(settings.upload_url))
    worker.handler(naming.UPLOAD_QUEUE, concurrency=settings.upload_threads, timeout=60, max_attempts=3)(pictures)
    return worker
