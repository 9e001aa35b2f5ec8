"""How long a person waits for `broker --help`, and a deployment for an instance.

CPU time is told beside the seconds, since other programs of the machine don't lengthen it, and so is what Python takes
that does nothing.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from broker.store.embedded import free_port
from tests.bench import processes, wire
from tests.bench.accounting import cpu_s
from tests.bench.budget import Budget
from tests.bench.figures import Figures
from tests.bench.wire import Wire

REPEATS: Final = 4
"""Starts a round."""
POLL_S: Final = 0.005
DEADLINE_S: Final = 20.0
_HELP: Final = (*processes.BROKER, "--help")
_NOTHING: Final = (sys.executable, "-c", "")


class Start(NamedTuple):
    """What one took: seconds, and seconds of CPU time."""

    passed_s: float
    cpu_s: float


def run(budget: Budget) -> Figures:
    """All rounds."""
    figures = Figures()
    with processes.server() as redis:
        # Compiles what was not compiled yet.
        _ended(_HELP)
        _ready(redis.url)
        for _ in range(budget.rounds * REPEATS):
            _add(figures, "broker --help", _ended(_HELP))
            _add(figures, "broker api until it is ready", _ready(redis.url))
            _add(figures, "python that does nothing", _ended(_NOTHING))
    return figures


def _add(figures: Figures, name: str, start: Start) -> None:
    figures.add(f"{name}, s", start.passed_s)
    figures.add(f"{name}: CPU, s", start.cpu_s)


def _ended(command: Sequence[str]) -> Start:
    """A command from its start to its end."""
    began, used = time.perf_counter(), _cpu_s_of_children()
    subprocess.run(command, stdout=subprocess.DEVNULL, env=processes.environment(), check=True)
    return Start(time.perf_counter() - began, _cpu_s_of_children() - used)


def _ready(redis_url: str) -> Start:
    """An instance from its start until /readyz says 200."""
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
            return Start(time.perf_counter() - began, cpu_s(process.pid))
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


def _cpu_s_of_children() -> float:
    """Of all that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
