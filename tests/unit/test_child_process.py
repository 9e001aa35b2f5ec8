"""A child ends with its parent, whatever ends the parent, and in the way it was asked to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.child_process import ChildProcess
from broker.errors import ConfigurationError
from tests.support.processes import is_running, wait_until_gone

SLEEP = ["sleep", "600"]
DEAF_TO_SIGTERM = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]

# Starts a child in a thread that ends at once, says which one, then waits for the end of its own input.
PARENT = """
import os, sys, threading
from broker.child_process import ChildProcess

def start():
    global child
    child = ChildProcess(sys.argv[2:], grace_s=float(sys.argv[1]))

thread = threading.Thread(target=start)
thread.start()
thread.join()
# In one write: the child writes into the same pipe.
os.write(1, f"{child.pid} {child.guard_pid}\\n".encode())
sys.stdin.read()
"""


@contextmanager
def parent_of(*command: str, grace_s: float = 5.0) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A parent in a process of its own, with the pids of its child and of the guard in between."""
    arguments = [sys.executable, "-c", PARENT, str(grace_s), *command]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        lines = iter(parent.stdout.readline, b"")
        announced = next(line for line in lines if line != b"ready\n")
        child, guard = map(int, announced.split())
        try:
            yield parent, child, guard
        finally:
            parent.kill()


def test_stop_sends_sigterm() -> None:
    child = ChildProcess(SLEEP)
    assert is_running(child.pid)
    assert child.stop() == -signal.SIGTERM
    assert not is_running(child.pid)


def test_stop_kills_what_does_not_listen() -> None:
    child = ChildProcess(DEAF_TO_SIGTERM, output=subprocess.PIPE)
    with child.stdout as output:
        assert output.readline() == b"ready\n"
        assert child.stop(deadline_s=0.1) == -signal.SIGKILL


def test_stop_wakes_a_stopped_child() -> None:
    child = ChildProcess(SLEEP)
    child.send_signal(signal.SIGSTOP)
    assert child.stop() == -signal.SIGTERM


def test_kill() -> None:
    child = ChildProcess(SLEEP)
    assert child.kill() == -signal.SIGKILL
    assert not is_running(child.pid)


def test_leaving_the_context_stops_the_child() -> None:
    with ChildProcess(SLEEP) as child:
        assert is_running(child.pid)
    assert not is_running(child.pid)


def test_the_exit_code_is_the_childs() -> None:
    child = ChildProcess(["sh", "-c", "exit 3"])
    assert child.wait() == 3
    assert not child.running


def test_wait_with_a_deadline_returns_none_while_it_runs() -> None:
    with ChildProcess(SLEEP) as child:
        assert child.wait(0.01) is None


def test_a_signal_after_the_end_does_nothing() -> None:
    child = ChildProcess(["true"])
    child.wait()
    child.send_signal(signal.SIGTERM)
    assert child.stop() == 0


def test_the_child_has_an_environment_a_folder_and_no_input(tmp_path: Path) -> None:
    script = "echo $GREETING; pwd -P; cat"
    child = ChildProcess(
        ["sh", "-c", script],
        environment={"GREETING": "hello", "PATH": os.environ["PATH"]},
        folder=tmp_path,
        output=subprocess.PIPE,
    )
    with child.stdout as output:
        assert output.read().decode().splitlines() == ["hello", str(tmp_path.resolve())]
    assert child.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM])
def test_signals_mean_to_the_child_what_they_mean_by_default(number: signal.Signals) -> None:
    assert ChildProcess(["sh", "-c", f"kill -{int(number)} $$"]).wait() == -number


def test_the_terminals_ctrl_c_does_not_reach_the_child() -> None:
    with ChildProcess(SLEEP) as child:
        assert os.getsid(child.pid) != os.getsid(0)


def test_the_child_inherits_what_it_is_to_keep_and_nothing_else(tmp_path: Path) -> None:
    script = "import os, sys; os.write(int(sys.argv[1]), b'here'); print(*os.listdir('/dev/fd'))"
    with (tmp_path / "kept").open("wb") as file:
        kept = file.fileno()
        command = [sys.executable, "-I", "-S", "-c", script, str(kept)]
        child = ChildProcess(command, keep=[kept], output=subprocess.PIPE)
    with child.stdout as output:
        inherited = {int(number) for number in output.read().split()}
    assert child.wait() == 0
    assert (tmp_path / "kept").read_bytes() == b"here"
    assert len(inherited - {0, 1, 2, kept}) == 1  # the folder that was listed


def test_what_the_child_left_behind_ends_too() -> None:
    child = ChildProcess(["sh", "-c", "sleep 600 & echo $!"], output=subprocess.PIPE)
    with child.stdout as output:
        grandchild = int(output.readline())
    assert child.wait() == 0
    wait_until_gone(grandchild)


def test_output_can_be_read_only_when_it_was_asked_for() -> None:
    with ChildProcess(SLEEP) as child, pytest.raises(ConfigurationError, match="output=PIPE"):
        _ = child.stdout


def test_a_missing_program_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no-such-program cannot be run: there is no such program"):
        ChildProcess(["no-such-program"])


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        ChildProcess(SLEEP, folder=tmp_path / "absent")


def test_a_program_that_cannot_be_executed_says_so(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x00\x01 no program at all")
    program.chmod(0o700)
    child = ChildProcess([str(program)], output=subprocess.PIPE)
    with child.stdout as output:
        assert b"cannot be started: Exec format error" in output.read()
    assert child.wait() == 127


def test_a_guard_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.child_process._guard_command", lambda: ["sh", "-c", "exit 9", "sh"])
    with pytest.raises(ConfigurationError, match="guard process ended at once, with exit code 9"):
        ChildProcess(SLEEP)


def test_the_child_outlives_the_thread_that_started_it() -> None:
    with parent_of(*SLEEP) as (_, child, _):
        assert is_running(child)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_child_ends_when_its_parent_is_ended(number: signal.Signals) -> None:
    with parent_of(*SLEEP) as (parent, child, guard):
        parent.send_signal(number)
        wait_until_gone(child, guard)


def test_the_child_ends_when_its_parent_exits_without_a_word() -> None:
    with parent_of(*SLEEP) as (parent, child, guard):
        assert parent.stdin is not None
        parent.stdin.close()
        wait_until_gone(child, guard)


def test_a_child_that_does_not_listen_is_killed_after_its_parents_death() -> None:
    with parent_of(*DEAF_TO_SIGTERM, grace_s=0.1) as (parent, child, guard):
        parent.kill()
        wait_until_gone(child, guard)


def test_a_stopped_child_ends_with_its_parent() -> None:
    with parent_of(*SLEEP) as (parent, child, guard):
        os.kill(child, signal.SIGSTOP)
        parent.kill()
        wait_until_gone(child, guard)


def test_ending_the_guard_politely_ends_the_child() -> None:
    child = ChildProcess(SLEEP)
    os.kill(child.guard_pid, signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM
    wait_until_gone(child.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_killing_the_guard_kills_the_child() -> None:
    child = ChildProcess(SLEEP)
    os.kill(child.guard_pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    wait_until_gone(child.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_killing_parent_and_guard_kills_the_child() -> None:
    with parent_of(*SLEEP) as (parent, child, guard):
        os.kill(guard, signal.SIGKILL)
        parent.kill()
        wait_until_gone(child)


def test_a_guard_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.child_process.KILL_DEADLINE_S", 0.05)
    child = ChildProcess(SLEEP)
    os.kill(child.guard_pid, signal.SIGSTOP)
    assert child.stop(deadline_s=0.05) == -signal.SIGKILL
