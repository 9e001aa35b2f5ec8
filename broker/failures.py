"""What a handler's exception is as its task's error: bounded, and storable whatever it holds."""

from __future__ import annotations

import traceback
from typing import Any, Final

import msgspec

from broker import values
from broker.errors import InvalidRequestError, PayloadTooLargeError
from broker.handlers import Handler
from broker.task import TaskFailure

ERROR_CODE_MAX_CHARS: Final = 128
ERROR_MESSAGE_MAX_CHARS: Final = 8_192
ERROR_MAX_BYTES: Final = 65_536
"""With details; longer ones are left out."""


class Failure(msgspec.Struct, frozen=True):
    """An attempt that did not work out."""

    error: bytes
    may_retry: bool


def failure_of(error: BaseException, handler: Handler) -> Failure:
    """The failure that a handler's exception is, under its own code or its class name."""
    try:
        code = getattr(error, "code", None)
        return failure(
            code if isinstance(code, str) and code else type(error).__name__,
            _text_of(error),
            details=getattr(error, "details", None),
            may_retry=handler.may_retry(error),
        )
    except Exception:
        # Its members may be code that fails, too.
        kind = type(error)
        return failure(kind.__name__, "The error cannot be described.", may_retry=handler.retries(kind))


def failure(code: str, message: str, *, may_retry: bool, details: Any = None) -> Failure:
    """A failure with an error that can be stored."""
    told = TaskFailure(code[:ERROR_CODE_MAX_CHARS], message[:ERROR_MESSAGE_MAX_CHARS], details)
    try:
        text = values.dump(_members(told), "error", max_bytes=ERROR_MAX_BYTES)
    except (InvalidRequestError, PayloadTooLargeError):
        # Better an error without its details than none.
        plain = TaskFailure(_printable(told.code), _printable(told.message))
        text = values.dump(_members(plain), "error", max_bytes=ERROR_MAX_BYTES)
    return Failure(text, may_retry)


def trace_of(error: BaseException) -> str:
    """The way to an exception, for the log."""
    try:
        return _printable("".join(traceback.format_exception(error)))
    except Exception:
        return f"{type(error).__name__}, whose trace cannot be written."


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "The error has no text."


def _members(failure: TaskFailure) -> dict[str, Any]:
    members: dict[str, Any] = {"code": failure.code, "message": failure.message}
    if failure.details is not None:
        members["details"] = failure.details
    return members


def _printable(message: str | None) -> str:
    """Without the lone surrogates that a file name in a message may bring."""
    return (message or "").encode("utf-8", "replace").decode()
