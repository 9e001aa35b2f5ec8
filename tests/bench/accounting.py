"""What processes have used, by the system's own accounting: CPU time and memory."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import redis

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")
# Of /proc/PID/stat, counted behind the program's name.
_PARENT: Final = 1
_OWN: Final = slice(11, 13)
_ENDED_CHILDREN: Final = slice(13, 15)
_LIBC: Final = ctypes.CDLL(None)


def cpu_s(pid: int) -> float:
    """User and system time of a process and its threads, ended ones too, in seconds.

    By the process's own clock, which counts nanoseconds; /proc counts ticks of 10 ms.
    """
    clock = _cpu_clock(pid)
    return _ticks_s(_stat(pid)[_OWN]) if clock is None else time.clock_gettime(clock)


def tree_cpu_s(pid: int) -> float:
    """The same of a process, all below it, and those of them that have ended, which are told in ticks."""
    return sum(cpu_s(each) + _ticks_s(fields[_ENDED_CHILDREN]) for each, fields in _tree(pid))


def private_bytes(pid: int) -> int:
    """What ending the process would give back: memory that it shares with nobody."""
    lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


class ServerAccount:
    """The accounting of a Redis server, from INFO.

    Args:
        url: The server.
    """

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)

    def cpu_s(self) -> float:
        """User and system time in seconds."""
        info = self._info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def used_bytes(self) -> int:
        """Memory that its allocator has given out."""
        return int(self._info("memory")["used_memory"])

    def network_bytes(self) -> tuple[int, int]:
        """What came in and went out by the network so far."""
        info = self._info("stats")
        return int(info["total_net_input_bytes"]), int(info["total_net_output_bytes"])

    def channels(self, pattern: str) -> int:
        """How many channels of this pattern have subscribers."""
        return len(cast("list[bytes]", self._client.pubsub_channels(pattern)))

    def has_replica(self) -> bool:
        """Whether a replica is in step with it."""
        replica = self._info("replication").get("slave0", {})
        return bool(replica.get("state") == "online")

    def clear(self) -> None:
        """Forgets all data."""
        self._client.flushall()

    def close(self) -> None:
        """Disconnects."""
        self._client.close()

    def _info(self, section: str) -> dict[str, Any]:
        return self._client.info(section)


def _cpu_clock(pid: int) -> int | None:
    """What `time.clock_gettime` takes; None where the system gives nobody another process's clock."""
    clock = ctypes.c_int()
    error = _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock))
    return None if error else clock.value


def _ticks_s(fields: list[str]) -> float:
    return sum(map(int, fields)) / _TICKS_PER_S


def _tree(root: int) -> Iterator[tuple[int, list[str]]]:
    """Each process with its line of /proc/PID/stat."""
    known = {root}
    yield root, _stat(root)
    # A child's id may be lower than its parent's once ids start again, so until nothing is new.
    found = True
    while found:
        found = False
        for pid in (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()):
            if pid in known:
                continue
            try:
                fields = _stat(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[_PARENT]) in known:
                known.add(pid)
                found = True
                yield pid, fields


def _stat(pid: int) -> list[str]:
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
