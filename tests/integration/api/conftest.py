"""A deployment for all API tests of this process: two instances, one with tight limits, and a worker, each when needed.

Its server is its own: `redis_url` empties the shared one for every test. Tests keep apart by uuid and queue.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx
import pytest
import redis

from broker.store.embedded import EmbeddedServer
from broker_services.api_keys import SCOPES, append_key, new_key
from tests.support.api import ApiProcess, ServiceProcess, WorkerProcess, stop_together
from tests.support.caller import TIMEOUT_S, Caller
from tests.support.channels import Channels

MOST_HELD_CALLS: Final = 64
TIGHT_SETTINGS: Final = {
    "wait_default_s": "0.2",
    "wait_max_s": "0.4",
    "body_timeout_s": "0.3",
    "max_body_bytes": "2048",
    "max_header_bytes": "4096",
    "get_writes": "off",
}


class Deployment:
    """Its processes are started when first asked for."""

    def __init__(self, server: EmbeddedServer, folder: Path) -> None:
        self.server = server
        self._folder = folder
        self.processes: list[ServiceProcess] = []

    def start_instances(self, count: int, **settings: str) -> list[ApiProcess]:
        """Starts instances side by side and waits until all are ready."""
        instances = [ApiProcess(self.server.url, log=self._log(), **settings) for _ in range(count)]
        for instance in instances:
            self._start(instance)
        for instance in instances:
            instance.wait_until_ready()
        return instances

    def start_worker(self) -> WorkerProcess:
        """Starts a worker; a task that comes before it listens is found by it nevertheless."""
        worker = WorkerProcess(self.server.url, log=self._log())
        self._start(worker)
        return worker

    @property
    def uploads(self) -> Path:
        """What all its processes share."""
        return self._folder / "uploads"

    def start_built_in_worker(self) -> ServiceProcess:
        """Starts a worker of the built-in queues."""
        worker = ServiceProcess("worker", "--redis-url", self.server.url, log=self._log())
        self._start(worker)
        return worker

    def _start(self, process: ServiceProcess) -> None:
        process.start()
        self.processes.append(process)

    def _log(self) -> Path:
        return self._folder / f"{secrets.token_hex(8)}.log"


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=8)
    with httpx.Client(trust_env=False, timeout=TIMEOUT_S, limits=limits) as client:
        yield client


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with EmbeddedServer() as server:
        running = Deployment(server, tmp_path_factory.mktemp("logs"))
        try:
            yield running
        finally:
            stop_together(running.processes)


@pytest.fixture(scope="session")
def instances(deployment: Deployment) -> tuple[ApiProcess, ApiProcess]:
    first, second = deployment.start_instances(2)
    return first, second


@pytest.fixture(scope="session")
def tight_instance(deployment: Deployment) -> ApiProcess:
    return deployment.start_instances(1, **TIGHT_SETTINGS)[0]


class Keys:
    """A file of keys, and the keys themselves by their names: one a scope, and `all`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.by_name: dict[str, str] = {scope: self.add(scope, scope) for scope in SCOPES}
        self.by_name["all"] = self.add("all", *SCOPES)

    def add(self, name: str, *scopes: str) -> str:
        """One more key."""
        key, line = new_key(name, scopes)
        append_key(self.file, line)
        return key

    def header(self, name: str) -> dict[str, str]:
        """What a caller with this key sends."""
        return {"authorization": f"Bearer {self.by_name[name]}"}


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "api-keys")


@pytest.fixture(scope="session")
def keyed_instance(deployment: Deployment, keys: Keys) -> ApiProcess:
    """An instance that only lets in whoever has a key."""
    return deployment.start_instances(1, api_keys_file=str(keys.file), body_timeout_s="0.3")[0]


@pytest.fixture(scope="session")
def worker(deployment: Deployment) -> WorkerProcess:
    """A worker with the handlers of `tests.support.handlers`."""
    return deployment.start_worker()


@pytest.fixture(autouse=True)
def _no_defect(deployment: Deployment) -> Iterator[None]:
    """No test may make a process log an exception."""
    yield
    for process in deployment.processes:
        process.assert_log_has_no_defect()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Where held calls wait; leaving waits for all of them."""
    with ThreadPoolExecutor(MOST_HELD_CALLS) as pool:
        yield pool


@pytest.fixture
def a(instances: tuple[ApiProcess, ApiProcess], http: httpx.Client, threads: ThreadPoolExecutor) -> Caller:
    """A caller of one instance."""
    return Caller(instances[0].url, http, threads)


@pytest.fixture
def b(instances: tuple[ApiProcess, ApiProcess], http: httpx.Client, threads: ThreadPoolExecutor) -> Caller:
    """A caller of the other instance."""
    return Caller(instances[1].url, http, threads)


@pytest.fixture
def tight(tight_instance: ApiProcess, http: httpx.Client, threads: ThreadPoolExecutor) -> Caller:
    """A caller of an instance with `TIGHT_SETTINGS`."""
    return Caller(tight_instance.url, http, threads)


@pytest.fixture
def keyed(keyed_instance: ApiProcess, http: httpx.Client, threads: ThreadPoolExecutor) -> Caller:
    """A caller of an instance with keys."""
    return Caller(keyed_instance.url, http, threads)


@pytest.fixture
def store(deployment: Deployment) -> Iterator[redis.Redis]:
    """The deployment's server, as an onlooker sees it."""
    with redis.Redis.from_url(deployment.server.url) as client:
        yield client


@pytest.fixture
def channels(store: redis.Redis) -> Iterator[Channels]:
    """What is published and who listens."""
    with ExitStack() as stack:
        yield Channels(store, stack)


@pytest.fixture
def uuid() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def queue() -> str:
    """A queue that no worker works on."""
    return "q" + secrets.token_hex(8)


@pytest.fixture
def own_log(tmp_path: Path) -> Path:
    """The log of an instance that belongs to one test."""
    return tmp_path / "instance.log"
