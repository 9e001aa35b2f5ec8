"""The peers: which there are, how each is started, and the environments that their packages live in.

Each has its requirements in a file of this folder and the same small program (`NAME_peer.py`): a FastAPI endpoint that
enqueues a task without work and awaits its result, with the settings that its documentation shows.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from broker.store.embedded import free_port
from tests.bench import processes
from tests.bench.accounting import ServerAccount, cpu_s, tree_cpu_s

WORKERS: Final = {
    "dramatiq": ("dramatiq", "tests.bench.peers.dramatiq_peer"),
    "taskiq": ("taskiq", "worker", "tests.bench.peers.taskiq_peer:queue"),
    "celery": ("celery", "-A", "tests.bench.peers.celery_peer:queue", "worker", "--loglevel", "WARNING"),
    "streaq": ("streaq", "run", "tests.bench.peers.streaq_peer:worker"),
    "arq": ("arq", "tests.bench.peers.arq_peer.WorkerSettings"),
    "saq": ("saq", "tests.bench.peers.saq_peer.settings"),
}
"""By name, the command that starts a worker."""
NAMES: Final = tuple(WORKERS)

_FOLDER: Final = Path(__file__).parent


class Peer(NamedTuple):
    """One that runs. `accounts`: what its processes have used so far."""

    name: str
    url: str
    accounts: dict[str, Callable[[], float]]


@contextmanager
def peer(name: str, cache: Path) -> Iterator[Peer]:
    """Its API, its worker, and a Redis of its own."""
    programs = environment(name, cache) / "bin"
    port = free_port()
    with processes.server() as redis:
        variables = {**os.environ, "PEER_REDIS_URL": redis.url}
        program, *arguments = WORKERS[name]
        serve = [str(programs / "python"), "-m", "uvicorn", f"tests.bench.peers.{name}_peer:app"]
        serve += ["--port", str(port), "--no-access-log", "--log-level", "warning"]
        account = ServerAccount(redis.url)
        with (
            processes.running([str(programs / program), *arguments], variables) as worker,
            processes.listening(serve, port, variables) as api,
        ):
            accounts = {
                "API": lambda: cpu_s(api.pid),
                "worker": lambda: tree_cpu_s(worker.pid),
                "Redis": account.cpu_s,
            }
            yield Peer(name, f"http://127.0.0.1:{port}/createTask", accounts)
        account.close()


def environment(name: str, cache: Path) -> Path:
    """The folder of its virtual environment, which is made when it is missing or its requirements have changed."""
    requirements = _FOLDER / f"{name}.txt"
    folder = cache / "peers" / name
    stamp = folder / "made-from"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"Installing {name} ...", file=sys.stderr, flush=True)
        _install(requirements, folder)
        stamp.write_text(wanted)
    return folder


def _install(requirements: Path, folder: Path) -> None:
    python = str(folder / "bin" / "python")
    if uv := shutil.which("uv"):
        commands = [
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", python, "--requirement", str(requirements)],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [python, "-m", "pip", "install", "--quiet", "--requirement", str(requirements)],
        ]
    for command in commands:
        subprocess.run(command, check=True)
