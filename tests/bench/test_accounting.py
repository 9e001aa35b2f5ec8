"""What processes have used is told finely, and no less when a thread or a child has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

import pytest

from tests.bench import accounting
from tests.bench.accounting import cpu_s, tree_cpu_s

WORK_S: Final = 0.1
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
PARENT: Final = """
import subprocess, sys
work = "import time\\nwhile time.process_time() < 0.2: pass"
subprocess.run([sys.executable, "-c", work])
print("done", flush=True)
sys.stdin.read()
"""


def work() -> None:
    """Uses the processor for a while."""
    end = time.thread_time() + WORK_S
    while time.thread_time() < end:
        pass


def test_a_process_is_told_in_less_than_ticks() -> None:
    before = cpu_s(os.getpid())
    end = time.process_time() + TICK_S / 4
    while time.process_time() < end:
        pass
    assert cpu_s(os.getpid()) - before >= TICK_S / 4


def test_an_ended_thread_still_counts() -> None:
    before = cpu_s(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert cpu_s(os.getpid()) - before >= WORK_S


def test_where_there_is_no_such_clock_ticks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    by_clock = cpu_s(os.getpid())
    monkeypatch.setattr(accounting, "_cpu_clock", lambda _pid: None)
    assert cpu_s(os.getpid()) == pytest.approx(by_clock, abs=0.5)


@pytest.fixture
def parent() -> Iterator[int]:
    """A process whose child has worked for 0.2 s and has ended."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        yield process.pid
        process.communicate()


def test_an_ended_child_counts_for_its_tree(parent: int) -> None:
    assert tree_cpu_s(parent) - cpu_s(parent) >= 0.2 - 2 * TICK_S


def test_a_process_that_is_gone_is_an_error() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(OSError, match="No such"):
        cpu_s(process.pid)
