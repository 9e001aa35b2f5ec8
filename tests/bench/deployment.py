"""A deployment of the broker to be measured: a Redis, some API instances and workers, and what they have used."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from broker.child_process import ChildProcess
from broker.store.embedded import EmbeddedServer
from tests.bench import processes, wire
from tests.bench.accounting import ServerAccount, cpu_s
from tests.bench.load import Accounts
from tests.bench.wire import Wire

HELD_DEADLINE_S: Final = 60.0
POLL_S: Final = 0.02
"""Showing its metrics costs an instance 2 ms."""


class Deployment(NamedTuple):
    """One that runs."""

    redis_url: str
    redis: ServerAccount
    apis: tuple[ChildProcess, ...]
    urls: tuple[str, ...]
    workers: tuple[ChildProcess, ...]

    @property
    def accounts(self) -> Accounts:
        """CPU seconds used so far by kind of process."""
        return {
            "API": lambda: sum(cpu_s(api.pid) for api in self.apis),
            "worker": lambda: sum(cpu_s(worker.pid) for worker in self.workers),
            "Redis": self.redis.cpu_s,
        }

    def cpu_s(self) -> float:
        """Of all processes."""
        return sum(spent() for spent in self.accounts.values())


@contextmanager
def deployed(*, apis: int = 1, workers: int = 0, **settings: str) -> Iterator[Deployment]:
    """One with so many processes. `settings`: those of the broker's processes, in small letters."""
    with processes.server() as server, deployed_on(server, apis=apis, workers=workers, **settings) as running:
        yield running


@contextmanager
def deployed_on(server: EmbeddedServer, *, apis: int = 1, workers: int = 0, **settings: str) -> Iterator[Deployment]:
    """The same on a server that runs already."""
    with ExitStack() as stack:
        account = ServerAccount(server.url)
        stack.callback(account.close)
        running_workers = [stack.enter_context(processes.worker(server.url, **settings)) for _ in range(workers)]
        running_apis = [stack.enter_context(processes.api(server.url, **settings)) for _ in range(apis)]
        yield Deployment(
            server.url,
            account,
            tuple(child for child, _ in running_apis),
            tuple(url for _, url in running_apis),
            tuple(running_workers),
        )


def held(urls: Iterable[str], gauge: str) -> int:
    """How many calls some instances hold, by a gauge of their metrics."""
    return sum(_shown(url, gauge) for url in urls)


def until_held(urls: Iterable[str], gauge: str, count: int) -> None:
    """Returns once so many are held. Raises TimeoutError."""
    urls, end = list(urls), time.monotonic() + HELD_DEADLINE_S
    while (found := held(urls, gauge)) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"{found} of {count} calls were held after {HELD_DEADLINE_S:g} s.")
        time.sleep(POLL_S)


def _shown(url: str, gauge: str) -> int:
    with Wire() as client:
        (connection,) = client.open(url, 1)
        page = client.call(connection, wire.get("/metrics")).body.decode()
    found = re.search(rf"^{gauge} ([\d.]+)", page, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{url} shows no {gauge}.")
    return int(float(found[1]))
