"""A child process that never outlives its parent: not on Ctrl-C, not after a crash, not after `kill -9`.

Between the two runs a small guard (see `broker.child_guard` for how and why). The child has a session of its own, so
that a terminal's Ctrl-C reaches only the parent, which stops its children in the order it wants.

Everything here blocks, for milliseconds; a program with an event loop calls it through a thread. Which thread does not
matter, and it may end before the child.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, overload

from broker import child_guard
from broker.errors import ConfigurationError

STOP_DEADLINE_S: Final = 5.0
KILL_DEADLINE_S: Final = 5.0  # after SIGKILL: only a process that hangs inside the kernel takes longer than some ms


class ChildProcess:
    """One running command. Ends with this process at the latest.

    Args:
        command: The program and its arguments; no shell is involved.
        environment: The child's whole environment; None for this process's own.
        folder: Its current folder; None for this process's own.
        output: Where its output and errors go, as for `subprocess.Popen`; None for where this process's go.
        keep: File descriptors that the child inherits.
        grace_s: Seconds between SIGTERM and SIGKILL when this process is gone and nobody calls `stop`.

    Raises:
        ConfigurationError: There is no such program or folder, or they may not be used.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        output: int | IO[bytes] | None = None,
        keep: Iterable[int] = (),
        grace_s: float = STOP_DEADLINE_S,
    ) -> None:
        if shutil.which(command[0]) is None:
            raise ConfigurationError(f"{command[0]} cannot be run: there is no such program. Is it installed?")
        status, status_of_guard = os.pipe()
        with os.fdopen(status, "rb") as reader:
            try:
                self._guard = subprocess.Popen(  # noqa: S603 - the caller's own command, and no shell
                    [*_guard_command(), str(status_of_guard), str(grace_s), *command],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=None if output is None else subprocess.STDOUT,
                    env=environment,
                    cwd=folder,
                    pass_fds=(status_of_guard, *keep),
                    start_new_session=True,
                    bufsize=0,
                )
            except OSError as error:
                raise ConfigurationError(
                    f"{command[0]} cannot be started: {error.strerror} ({error.filename})."
                ) from None
            finally:
                os.close(status_of_guard)
            self._orders_lock = threading.Lock()
            self._pid = self._announced_pid(reader.read(), command)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The child's own process id, not the guard's."""
        return self._pid

    @property
    def guard_pid(self) -> int:
        """The process id of the guard in between."""
        return self._guard.pid

    @property
    def stdout(self) -> IO[bytes]:
        """What the child writes. Only with `output=subprocess.PIPE`; whoever reads it closes it."""
        if self._guard.stdout is None:
            raise ConfigurationError("This child's output can only be read when it was started with output=PIPE.")
        return self._guard.stdout

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.wait(0) is None

    @overload
    def wait(self) -> int: ...

    @overload
    def wait(self, timeout_s: float) -> int | None: ...

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Waits until it has ended, for ever when `timeout_s` is None.

        Returns:
            Its exit code, negative for the signal that ended it, as in `subprocess`; None while it runs.
        """
        try:
            exit_code = self._guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._close_orders()
        return exit_code

    def send_signal(self, *numbers: signal.Signals) -> None:
        """Sends it signals, in this order. Nothing happens when it has ended."""
        orders = self._guard.stdin
        with self._orders_lock:
            if orders is None or orders.closed:
                return
            try:
                orders.write(bytes(numbers))
            except BrokenPipeError:
                return

    def stop(self, deadline_s: float = STOP_DEADLINE_S) -> int:
        """SIGTERM, and SIGKILL when it still runs after `deadline_s` seconds. Returns its exit code."""
        # A stopped process would hear SIGTERM only when it is continued.
        self.send_signal(signal.SIGTERM, signal.SIGCONT)
        exit_code = self.wait(deadline_s)
        return self.kill() if exit_code is None else exit_code

    def kill(self) -> int:
        """SIGKILL. Returns its exit code, once it is gone."""
        self.send_signal(signal.SIGKILL)
        exit_code = self.wait(KILL_DEADLINE_S)
        if exit_code is None:
            self._guard.kill()
            exit_code = self._guard.wait()
            self._close_orders()
        return exit_code

    def _announced_pid(self, announced: bytes, command: Sequence[str]) -> int:
        if announced:
            return int(announced)
        exit_code = self.kill()
        raise ConfigurationError(
            f"{command[0]} cannot be started: its guard process ended at once, with exit code {exit_code}."
        )

    def _close_orders(self) -> None:
        with self._orders_lock:
            if self._guard.stdin is not None:
                self._guard.stdin.close()


def _guard_command() -> list[str]:
    # -I -S: whatever PYTHON… variables and site-packages say is for the child, and would only slow the guard down.
    return [sys.executable, "-I", "-S", child_guard.__file__]
