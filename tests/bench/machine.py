"""What a run was made on: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from broker.store.embedded import find_binary
from tests.bench.peers.deployment import NAMES as PEERS

_PACKAGES: Final = ("uvicorn", "uvloop", "httptools", "hiredis", "msgspec", "fastapi")
_REQUIREMENTS: Final = Path(__file__).parent / "peers"


def description() -> Mapping[str, str]:
    """By what it is about."""
    return {
        "cores": f"{os.cpu_count()}, {_processor()}",
        "system": f"{platform.system()} {platform.release().split('-')[0]}, {platform.libc_ver()[0]} "
        f"{platform.libc_ver()[1]}",
        "load before the run": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
        "Redis": _version([str(find_binary()), "--version"]),
        "nginx": _version(["nginx", "-v"]),
        "wrk": _version(["wrk", "-v"]),
        "packages": ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES),
        "peers": ", ".join(f"{name} {_pinned(name)}" for name in PEERS),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _version(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return "none"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)*", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def _pinned(peer: str) -> str:
    found = re.search(rf"^{peer}(?:\[.*\])?==(.+)$", (_REQUIREMENTS / f"{peer}.txt").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"
