"""A deployment of a test's own: processes to kill, on a server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from broker.store.embedded import EmbeddedServer
from tests.support.api import ApiProcess, ServiceProcess, WorkerProcess


class OwnDeployment:
    """Starts instances and workers; all end with the test."""

    def __init__(self, server: EmbeddedServer, folder: Path, stack: ExitStack) -> None:
        self.server = server
        self.store = stack.enter_context(redis.Redis.from_url(server.url))
        self._folder = folder
        self._stack = stack
        self._count = 0

    def api(self, url: str | None = None, **settings: str) -> ApiProcess:
        """One more instance, ready. `url`: another way to the server."""
        return self._stack.enter_context(ApiProcess(url or self.server.url, log=self._log("api"), **settings))

    def worker(self, url: str | None = None, **settings: str) -> WorkerProcess:
        """One more worker. `url`: another way to the server."""
        return self._stack.enter_context(WorkerProcess(url or self.server.url, log=self._log("worker"), **settings))

    def command(self, *arguments: str, folder: Path) -> ServiceProcess:
        """Any other `broker` command that runs on, in a folder of the test's choice."""
        return self._stack.enter_context(ServiceProcess(*arguments, log=self._log("command"), folder=folder))

    def response_channels(self) -> list[bytes]:
        """What anybody still waits for."""
        found: list[bytes] = self.store.pubsub_channels("*-response-*")
        return found

    def _log(self, kind: str) -> Path:
        self._count += 1
        return self._folder / f"{kind}-{self._count}.log"


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[OwnDeployment]:
    """A deployment whose server keeps what it has acknowledged."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with EmbeddedServer(tmp_path / "data", options={"appendfsync": "always"}) as server, ExitStack() as stack:
        yield OwnDeployment(server, logs, stack)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnDeployment]:
    logs = tmp_path / "logs"
    logs.mkdir()
    with EmbeddedServer() as server, ExitStack() as stack:
        yield OwnDeployment(server, logs, stack)
