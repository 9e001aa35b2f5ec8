"""How long a person waits for `broker --help`, and a deployment for an instance."""

from __future__ import annotations

import subprocess
import time
from typing import Final

from broker.store.embedded import free_port
from tests.bench import processes, wire
from tests.bench.budget import Budget
from tests.bench.figures import Figures
from tests.bench.wire import Wire

REPEATS: Final = 4
"""Starts a round."""
POLL_S: Final = 0.005
DEADLINE_S: Final = 20.0


def run(budget: Budget) -> Figures:
    """All rounds."""
    figures = Figures()
    with processes.server() as redis:
        _help_s()  # compiles what was not compiled yet
        for _ in range(budget.rounds * REPEATS):
            figures.add("broker --help, s", _help_s())
            figures.add("broker api until it is ready, s", _ready_s(redis.url))
            figures.add("python that does nothing, s", _timed([processes.BROKER[0], "-c", ""]))
    return figures


def _help_s() -> float:
    return _timed([*processes.BROKER, "--help"])


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _ready_s(redis_url: str) -> float:
    port = free_port()
    command = [*processes.BROKER, "api", "--port", str(port), "--redis-url", redis_url]
    began = time.perf_counter()
    # Without the guard process that `processes` puts in between, which would be timed, too.
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=processes.environment()) as process:
        try:
            while not _is_ready(port):
                if time.perf_counter() > began + DEADLINE_S:
                    raise TimeoutError(f"`broker api` was not ready within {DEADLINE_S:g} s.")
                time.sleep(POLL_S)
            return time.perf_counter() - began
        finally:
            process.terminate()


def _is_ready(port: int) -> bool:
    with Wire() as client:
        try:
            (connection,) = client.open(f"http://127.0.0.1:{port}", 1)
        except ConnectionRefusedError:
            return False
        client.send(connection, wire.get("/readyz"))
        return client.receive(1)[0].status == 200
