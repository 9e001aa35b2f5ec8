"""Processes as tests see them."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from broker.child_process import ChildProcess

DEADLINE_S: Final = 20.0
POLL_S: Final = 0.01

_PROC: Final = Path("/proc/self/stat")


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Returns as soon as `condition()` is true; fails the test when that takes longer than `deadline_s` seconds."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"Not within {deadline_s:g} s: {what}")
        time.sleep(POLL_S)


def is_running(pid: int) -> bool:
    """Whether that process does anything still. One that ended, and that nobody has waited for, does not."""
    return _state(pid) not in ("", "Z", "X")


def wait_until_gone(*pids: int) -> None:
    """Waits until none of them runs."""
    for pid in pids:
        wait_until(lambda pid=pid: not is_running(pid), f"process {pid} is gone")  # type: ignore[misc]


def freeze(process: ChildProcess, pid: int) -> None:
    """Stops a process until it gets SIGCONT; returns once it stands still, since its guard passes signals on."""
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: _state(pid) == "T", f"process {pid} stands still")


def _state(pid: int) -> str:
    if not _PROC.exists():
        return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()[:1]
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]
