"""The exit codes of `broker`, and which one an error means."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """What a shell script may branch on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFLICT = 3
    UNREACHABLE = 4
    STILL_RUNNING = 5
    INTERRUPTED = 130


EXIT_CODES_HELP: Final = """\b
Exit codes:
  0  succeeded, or accepted where nothing was waited for
  1  the task failed, was cancelled or has expired
  2  the command or a value in it is not acceptable
  3  no such task, or in conflict with what it is already
  4  the broker cannot be reached, or cannot answer now
  5  the wait is over and the task goes on
"""


def exit_code(error: Exception) -> Exit | None:
    """The exit code for an error that is explained in one line; None for one that is a defect."""
    # Imported here: `broker` is needed only once something went wrong, and `broker --help` should be quick.
    from broker import errors

    match error:
        case TimeoutError():
            return Exit.STILL_RUNNING
        case errors.ApiError(status=status):
            return _of_status(status)
        case errors.StoreUnavailableError() | errors.QueueFullError() | errors.TooManyWaitersError():
            return Exit.UNREACHABLE
        case (
            errors.TaskNotFoundError()
            | errors.TaskConflictError()
            | errors.TaskAlreadyFinalError()
            | errors.WaiterExistsError()
            | errors.IdempotencyMismatchError()
            | errors.LeaseLostError()
        ):
            return Exit.CONFLICT
        case errors.BrokerError():
            return Exit.USAGE
        case _:
            return None


def _of_status(status: int | None) -> Exit:
    if status in (404, 409):
        return Exit.CONFLICT
    # Without a status nothing answered; below 400 it was something else than a broker.
    if status is None or status < 400 or status == 429 or status >= 500:
        return Exit.UNREACHABLE
    return Exit.USAGE
