"""One run from its options to what it found."""

from __future__ import annotations

import asyncio
import math
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import click
import msgspec

from broker.errors import ApiError, ConfigurationError
from broker_services.api.descriptors import raised_limit
from broker_services.cli.bench.http import HttpClient
from broker_services.cli.bench.latencies import PERCENTILES, Latencies
from broker_services.cli.bench.pace import Pace
from broker_services.cli.bench.report import Found, Limit
from broker_services.cli.bench.scenario import Options, Scenario, UnexpectedError, describe, ended, run_lanes
from broker_services.cli.bench.scenarios import SCENARIOS
from broker_services.loop import loop_factory

PROGRESS_EVERY_S: Final = 0.2
PROGRESS_STEPS: Final = 1000
RESERVED_FILES: Final = 64
"""For everything but the connections that carry the load."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for. The limits are None where nothing is to be kept."""

    scenario: str
    url: str
    second_url: str | None
    api_key: str | None
    duration_s: float
    warm_up_s: float
    concurrency: int
    rate: float | None
    timeout_s: float
    queue: str | None
    payload: bytes | None
    max_p50_ms: float | None
    max_p99_ms: float | None
    min_rate: float | None
    max_errors: int
    shows_progress: bool


class Outcome(msgspec.Struct, frozen=True):
    """What was found, and whether somebody ended the run before its time."""

    found: Found
    is_interrupted: bool


def run(wanted: Wanted) -> Outcome:
    """Loads the deployment.

    Raises:
        ApiError: Nothing answers at the URL.
        InvalidRequestError: The URL cannot be called.
        ConfigurationError: This process may not open so many connections.
    """
    _check_room(wanted.concurrency)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_run(wanted))


def _check_room(concurrency: int) -> None:
    allowed = raised_limit()
    if allowed != resource.RLIM_INFINITY and concurrency + RESERVED_FILES > allowed:
        raise ConfigurationError(
            f"--concurrency {concurrency} is more than the {allowed} files that this process may open: "
            "raise that limit (ulimit -n), or run several."
        )


async def _run(wanted: Wanted) -> Outcome:
    headers = {} if wanted.api_key is None else {"Authorization": f"Bearer {wanted.api_key}"}
    async with (
        HttpClient(wanted.url, headers) as client,
        HttpClient(wanted.second_url or wanted.url, headers) as second,
    ):
        for one in (client, second):
            await _knock(one, wanted)
        scenario = SCENARIOS[wanted.scenario](_options(wanted, client, second))
        await _prepare(scenario)
        pace = Pace(rate=wanted.rate, warm_up_s=wanted.warm_up_s, duration_s=wanted.duration_s)
        interrupted = _stop_on_interrupt(pace)
        began, cpu_began = time.perf_counter(), time.process_time()
        async with _progress_shown(pace, wanted.shows_progress):
            await run_lanes(scenario, pace)
        cpu = (time.process_time() - cpu_began) / (time.perf_counter() - began)
        pace.close()
        return Outcome(_found(wanted, pace, scenario.calls, cpu), interrupted.is_set())


def _options(wanted: Wanted, client: HttpClient, second: HttpClient) -> Options:
    return Options(
        client=client,
        second=second,
        concurrency=wanted.concurrency,
        timeout_s=wanted.timeout_s,
        run_s=wanted.warm_up_s + wanted.duration_s,
        queue=wanted.queue,
        payload=wanted.payload,
    )


async def _knock(client: HttpClient, wanted: Wanted) -> None:
    """Nobody should wait for a whole run to learn that the URL is wrong."""
    try:
        async with asyncio.timeout(wanted.timeout_s):
            await client.call(client.get("/healthz"))
    except OSError as error:
        message = f"Nothing answers at {client.url}: {describe(error)}. Is --url right?"
        raise ApiError(message, status=None, code="unreachable") from None


async def _prepare(scenario: Scenario) -> None:
    try:
        await scenario.prepare()
    except (UnexpectedError, OSError) as error:
        raise ApiError(f"The run cannot begin: {describe(error)}.", status=None) from None


def _stop_on_interrupt(pace: Pace) -> asyncio.Event:
    """Ctrl-C ends the run early, and what was measured until then is shown."""
    interrupted = asyncio.Event()

    def stop() -> None:
        interrupted.set()
        pace.stop()
        loop.remove_signal_handler(signal.SIGINT)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop)
    return interrupted


@asynccontextmanager
async def _progress_shown(pace: Pace, is_wanted: bool) -> AsyncIterator[None]:
    if not is_wanted:
        yield
        return
    showing = asyncio.create_task(_show_progress(pace))
    try:
        yield
    finally:
        await ended(showing)


async def _show_progress(pace: Pace) -> None:
    drawn: Any = click.progressbar(length=PROGRESS_STEPS, file=sys.stderr, item_show_func=lambda _: _so_far(pace))
    with drawn as bar:
        try:
            while True:
                bar.update(round(pace.progress * PROGRESS_STEPS) - bar.pos)
                await asyncio.sleep(PROGRESS_EVERY_S)
        except asyncio.CancelledError:
            bar.update(PROGRESS_STEPS - bar.pos)


def _so_far(pace: Pace) -> str:
    return f"{len(pace.latencies):,} done, {sum(pace.errors.values()):,} errors"


def _found(wanted: Wanted, pace: Pace, counted: str, cpu: float) -> Found:
    latencies = pace.latencies
    limits = list(_limits(wanted, pace))
    return Found(
        scenario=wanted.scenario,
        url=wanted.url,
        loop="closed" if wanted.rate is None else "open",
        concurrency=wanted.concurrency,
        rate_asked=wanted.rate,
        duration_s=wanted.duration_s,
        counted=counted,
        calls=len(latencies),
        rate=pace.achieved,
        errors=dict(pace.errors),
        latency_ms=_told(latencies) if len(latencies) else {},
        histogram=latencies.histogram(),
        client_cpu=cpu,
        limits=limits,
        passed=len(latencies) > 0 and all(limit.met for limit in limits),
    )


def _told(latencies: Latencies) -> Mapping[str, float]:
    shown = {f"p{percent:g}": latencies.percentile(percent) for percent in PERCENTILES}
    return {"least": latencies.percentile(0), "mean": latencies.mean, **shown, "most": latencies.percentile(100)}


def _limits(wanted: Wanted, pace: Pace) -> list[Limit]:
    limits = [_at_most("--max-errors", wanted.max_errors, sum(pace.errors.values()))]
    if wanted.max_p50_ms is not None:
        limits.append(_at_most("--max-p50-ms", wanted.max_p50_ms, pace.latencies.percentile(50)))
    if wanted.max_p99_ms is not None:
        limits.append(_at_most("--max-p99-ms", wanted.max_p99_ms, pace.latencies.percentile(99)))
    if wanted.min_rate is not None:
        limits.append(Limit("--min-rate", wanted.min_rate, pace.achieved, pace.achieved >= wanted.min_rate))
    return limits


def _at_most(name: str, limit: float, value: float) -> Limit:
    return Limit(name, limit, None if math.isnan(value) else value, value <= limit)
