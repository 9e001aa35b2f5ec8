"""The processes of a benchmark: the broker's own, bare uvicorn, and whatever else is compared."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from broker.child_process import ChildProcess
from broker.store.embedded import EmbeddedServer, free_port

START_DEADLINE_S: Final = 20.0
ROOT: Final = Path(__file__).parents[2]
BROKER: Final = (sys.executable, "-m", "broker_services.cli.main")
HANDLERS: Final = "tests.bench.handlers:worker"


@contextmanager
def server(**options: str) -> Iterator[EmbeddedServer]:
    """A Redis that keeps nothing on disk. `options`: its settings."""
    with EmbeddedServer(options=options) as running:
        yield running


@contextmanager
def api(redis_url: str, **settings: str) -> Iterator[tuple[ChildProcess, str]]:
    """One API instance, and its URL. `settings`: those of the broker, in small letters."""
    port = free_port()
    command = [*BROKER, "api", "--host", "127.0.0.1", "--port", str(port), "--redis-url", redis_url]
    with listening(command, port, environment(**settings)) as child:
        yield child, f"http://127.0.0.1:{port}"


@contextmanager
def worker(redis_url: str, **settings: str) -> Iterator[ChildProcess]:
    """One worker with the handlers of `tests.bench.handlers`."""
    with running([*BROKER, "worker", HANDLERS, "--redis-url", redis_url], environment(**settings)) as child:
        yield child


@contextmanager
def bare_uvicorn() -> Iterator[tuple[ChildProcess, str]]:
    """uvicorn that answers a constant: what the server itself costs."""
    port = free_port()
    with listening([sys.executable, "-m", "tests.bench.bare", str(port)], port, environment()) as child:
        yield child, f"http://127.0.0.1:{port}"


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], *, is_quiet: bool = True) -> Iterator[ChildProcess]:
    """A command from the project's folder, until the block is left."""
    output = subprocess.DEVNULL if is_quiet else None
    child = ChildProcess(command, environment=environment, folder=ROOT, output=output)
    try:
        yield child
    finally:
        child.stop()


@contextmanager
def listening(command: Sequence[str], port: int, environment: Mapping[str, str]) -> Iterator[ChildProcess]:
    """The same, once it listens on `port`."""
    with running(command, environment) as child:
        wait_for_port(port, child)
        yield child


def wait_for_port(port: int, child: ChildProcess) -> None:
    """Returns once somebody listens. Raises RuntimeError when nobody does for long, or `child` has ended."""
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and child.running:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"Nothing listens on port {port}.")


def environment(**settings: str) -> Mapping[str, str]:
    """This process's own without any settings of the broker but these, in small letters.

    Bytecode is kept, whatever is set elsewhere: an installed package has it.
    """
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BROKER_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**own, **{f"BROKER_{name.upper()}": value for name, value in settings.items()}}
