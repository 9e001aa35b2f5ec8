"""The processes of a benchmark, and the CPU time that each has used by the system's own accounting."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from broker.child_process import ChildProcess
from broker.store.embedded import EmbeddedServer, free_port

START_DEADLINE_S: Final = 20.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_CLI: Final = (sys.executable, "-m", "broker_services.cli.main")


def cpu_s(pid: int) -> float:
    """User and system time of a process and its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@contextmanager
def server() -> Iterator[EmbeddedServer]:
    """A Redis that keeps nothing on disk."""
    with EmbeddedServer() as running:
        yield running


@contextmanager
def api(redis_url: str) -> Iterator[tuple[ChildProcess, str]]:
    """One API instance, and its URL."""
    port = free_port()
    with _running([*_CLI, "api", "--host", "127.0.0.1", "--port", str(port), "--redis-url", redis_url], port) as child:
        yield child, f"http://127.0.0.1:{port}"


@contextmanager
def worker(redis_url: str) -> Iterator[ChildProcess]:
    """One worker with the handlers of `tests.bench.handlers`."""
    with _running([*_CLI, "worker", "tests.bench.handlers:worker", "--redis-url", redis_url]) as child:
        yield child


@contextmanager
def bare_uvicorn() -> Iterator[tuple[ChildProcess, str]]:
    """uvicorn that answers a constant: what the server itself costs."""
    port = free_port()
    with _running([sys.executable, "-m", "tests.bench.bare", str(port)], port) as child:
        yield child, f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: list[str], port: int | None = None) -> Iterator[ChildProcess]:
    environment: Mapping[str, str] = {k: v for k, v in os.environ.items() if not k.startswith("BROKER_")}
    child = ChildProcess(command, environment=environment, folder=Path(__file__).parents[2])
    try:
        if port is not None:
            _wait_for(port, child)
        yield child
    finally:
        child.stop()


def _wait_for(port: int, child: ChildProcess) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and child.running:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"Nothing listens on port {port}.")
