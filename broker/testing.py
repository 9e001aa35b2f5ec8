"""pytest fixtures for tests of programs that use the broker.

    pytest_plugins = ["broker.testing"]

in a test module or in the topmost `conftest.py`. Each test process has a real server of its own (a Redis or Valkey
that is installed, or the one of the extra `testing`), so tests may run in parallel with pytest-xdist; each test that
asks for `broker_url`, directly or not, finds it empty. The async fixtures need pytest-asyncio, or anyio's plugin
without it. (PYTEST_DONT_REWRITE: tests may also import the types from here.)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar, cast

import httpx
import msgspec
import pytest

from broker.broker import Broker
from broker.settings import ENVIRONMENT_PREFIX, Settings
from broker.store.embedded import EmbeddedServer
from broker.worker import Worker

DRAIN_S: Final = 1.0
"""How long a worker's handlers may take to end with their test."""

AsgiApp = Callable[..., Coroutine[Any, Any, None]]
RunWorker = Callable[[Worker], Awaitable[None]]
OpenApp = Callable[[AsgiApp], Awaitable[httpx.AsyncClient]]
F = TypeVar("F", bound=Callable[..., object])


def _async_fixture(function: F) -> F:
    try:
        import pytest_asyncio
    except ImportError:  # then anyio's plugin runs it
        return cast(F, pytest.fixture(function))
    return cast(F, pytest_asyncio.fixture(function))


@pytest.fixture(scope="session")
def broker_server() -> Iterator[EmbeddedServer]:
    """The server of this test process; it keeps nothing."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def broker_url(broker_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the server, which is empty; `BROKER_REDIS_URL` says so, too, while the test runs."""
    broker_server.clear()
    monkeypatch.setenv(ENVIRONMENT_PREFIX + "REDIS_URL", broker_server.url)
    return broker_server.url


@_async_fixture
async def broker(broker_url: str) -> AsyncIterator[Broker]:
    """An open `Broker`, with the settings of the environment."""
    async with Broker(_settings(broker_url)) as broker:
        yield broker


@_async_fixture
async def run_worker(broker_url: str) -> AsyncIterator[RunWorker]:
    """`await run_worker(worker)` starts a worker, which ends with the test."""
    async with AsyncExitStack() as stack:

        async def start(worker: Worker) -> None:
            await stack.enter_async_context(_running(worker, _settings(broker_url, drain_s=DRAIN_S)))

        yield start


@_async_fixture
async def open_app(broker_url: str) -> AsyncIterator[OpenApp]:
    """`client = await open_app(app)`: an httpx client of an ASGI application, which is started with its lifespan and
    ends with the test. For two instances of one application, call what makes it twice."""
    async with AsyncExitStack() as stack:

        async def start(app: AsgiApp) -> httpx.AsyncClient:
            started = await stack.enter_async_context(_started(app))
            transport = httpx.ASGITransport(started)
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://test"))

        yield start


def _settings(url: str, **overrides: Any) -> Settings:
    return msgspec.structs.replace(Settings.from_environment(os.environ), redis_url=url, **overrides)


@asynccontextmanager
async def _running(worker: Worker, settings: Settings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(settings, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await running


@asynccontextmanager
async def _started(app: AsgiApp) -> AsyncIterator[AsgiApp]:
    """The application between its startup and its shutdown, which run in one task, as ASGI servers have it."""
    state: dict[str, Any] = {}
    stop = asyncio.Event()
    answers: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    asked = iter(("lifespan.startup", "lifespan.shutdown"))

    async def receive() -> dict[str, Any]:
        kind = next(asked)
        if kind == "lifespan.shutdown":
            await stop.wait()
        return {"type": kind}

    async def with_state(scope: MutableMapping[str, Any], *rest: Any) -> None:
        await app({**scope, "state": state.copy()}, *rest)

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    lifespan = asyncio.create_task(app(scope, receive, answers.put))
    try:
        await _said(answers, lifespan)
        yield with_state
    finally:
        stop.set()
        await lifespan


async def _said(answers: asyncio.Queue[MutableMapping[str, Any]], lifespan: asyncio.Task[None]) -> None:
    """Returns when the application has started. Raises what kept it from it."""
    answer = asyncio.ensure_future(answers.get())
    await asyncio.wait({answer, lifespan}, return_when=asyncio.FIRST_COMPLETED)
    if not answer.done() or answer.result()["type"] != "lifespan.startup.complete":
        answer.cancel()
        await lifespan
        raise RuntimeError("The application did not start; its log has the reason.")
