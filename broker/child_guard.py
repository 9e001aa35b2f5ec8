"""The small process between a parent and its child, which ends the child as soon as the parent is gone.

`broker.child_process` runs this file as a script, in an isolated interpreter that imports nothing but the standard
library (about 15 ms, 9 MB): `child_guard.py STATUS_FD GRACE_S COMMAND…`.

- Its standard input is a pipe from the parent. Each byte is the number of a signal to pass on to the child. The end
  of the pipe means that the parent is gone, however it went: SIGTERM, then after GRACE_S seconds SIGKILL.
- STATUS_FD gets the child's pid, in decimal, and is closed.
- When the child has ended, what is left of its process group is killed, and this process ends as the child did.

A pipe, since it works on every system and with any number of threads in the parent. (A parent-death signal alone is
Linux only, and is sent when the *thread* that started the child ends.) On Linux the child gets one too, from here,
where there is one thread only, so that not even killing this process leaves the child behind.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from typing import Final, NoReturn

ORDERS_FD: Final = 0
COMMAND_NOT_STARTED: Final = 127  # what a shell answers
ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main(arguments: list[str]) -> NoReturn:  # pragma: no cover - a process of its own, which coverage does not see
    """Starts the command, guards it, ends as it ended."""
    status_fd, grace_s, *command = arguments
    os.set_inheritable(int(status_fd), False)
    wakeups = _wake_up_on((signal.SIGCHLD, *ENDING_SIGNALS))
    pid = _start(command)
    os.write(int(status_fd), b"%d" % pid)
    os.close(int(status_fd))
    exit_code = _guard(pid, wakeups, float(grace_s))
    _kill_group(pid)
    _end_like(exit_code)


def _wake_up_on(signals: Iterable[signal.Signals]) -> int:  # pragma: no cover
    """Returns a file descriptor from which each arriving signal's number can be read."""
    wakeups, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written)
    for number in signals:
        # A handler, not SIG_IGN: the command gets the default back when it is executed.
        signal.signal(number, lambda *_: None)
    return wakeups


def _start(command: list[str]) -> int:  # pragma: no cover
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(command, guard)
    return pid


def _become(command: list[str], guard: int) -> NoReturn:  # pragma: no cover
    """Turns the forked process into the command: its own group, no input, and dead when the guard is."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so in the command
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), ORDERS_FD)
        _die_with(guard)
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"{command[0]} cannot be started: {error.strerror}.\n".encode())
    finally:
        os._exit(COMMAND_NOT_STARTED)


def _die_with(guard: int) -> None:  # pragma: no cover
    """Linux: SIGKILL for this process when the guard ends. Elsewhere the guard's pipe alone has to do."""
    if sys.platform != "linux":
        return
    try:
        import ctypes  # here, since interpreters that were built without libffi have none

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != guard:  # it ended before it could be watched
        os._exit(COMMAND_NOT_STARTED)


def _guard(pid: int, wakeups: int, grace_s: float) -> int:  # pragma: no cover
    """Passes orders on until the child has ended. Returns its exit code, negative for a signal."""
    deadline: float | None = None
    sources = [wakeups, ORDERS_FD]
    while (exit_code := _exit_code(pid)) is None:
        timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(sources, [], [], timeout_s)
        if not ready:
            os.kill(pid, signal.SIGKILL)
            deadline = None
        abandoned = wakeups in ready and not set(ENDING_SIGNALS).isdisjoint(os.read(wakeups, 512))
        if ORDERS_FD in ready:
            orders = os.read(ORDERS_FD, 512)
            for number in orders:
                os.kill(pid, number)
            if not orders:
                sources.remove(ORDERS_FD)
                abandoned = True
        if abandoned:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)  # a stopped process would hear the first only when it is continued
            deadline = time.monotonic() + grace_s
    return exit_code


def _exit_code(pid: int) -> int | None:  # pragma: no cover
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _kill_group(pid: int) -> None:  # pragma: no cover
    """Ends what the child started and left behind."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS answers the second for a group of zombies
        return


def _end_like(exit_code: int) -> NoReturn:  # pragma: no cover
    if exit_code < 0:
        number = -exit_code
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(exit_code if exit_code >= 0 else 128 - exit_code)


if __name__ == "__main__":  # pragma: no cover
    main(sys.argv[1:])
