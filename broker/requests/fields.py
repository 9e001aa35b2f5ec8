"""The fields that requests are made of: each typed and bounded once, and refused with a sentence that names it."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Raw, UnsetType

from broker import naming, values
from broker.errors import InvalidRequestError

T = TypeVar("T")

MOST_SECONDS: Final = 10 * 365 * 86_400

CURSOR_PATTERN: Final = r"^[0-9a-f]{1,13}$(?!\n)"

# What may stand in an ETag.
VERSION_PATTERN: Final = r"^[!#-~]{1,128}$(?!\n)"
NAMESPACE_AND_VERSION_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}(:[!#-~]{1,128})?$(?!\n)"

_PATTERNS_IN_WORDS: Final = {
    VERSION_PATTERN: "a version as a publish or a watch gave it",
    NAMESPACE_AND_VERSION_PATTERN: "NAME:VERSION, or NAME alone",
    naming.NAMESPACE_PATTERN: "1 to 128 letters, digits, `_`, `.` or `-`, the first a letter or digit",
    CURSOR_PATTERN: "a cursor as the page before gave it",
    naming.UUID_PATTERN: "1 to 128 letters, digits, `_` or `-`, the first a letter or digit",
    naming.QUEUE_PATTERN: "1 to 64 of a-z, 0-9, `_`, `.` or `-`, a letter or digit at both ends, and neither "
    "`-request-` nor `-response-` inside or at the end",
}

Uuid = Annotated[str, Meta(pattern=naming.UUID_PATTERN, description="Names one task.", examples=["084Tkjfh"])]
Queue = Annotated[
    str, Meta(pattern=naming.QUEUE_PATTERN, description="Shared by tasks and workers.", examples=["createbranch"])
]
Namespace = Annotated[
    str, Meta(pattern=naming.NAMESPACE_PATTERN, description="Where a value is published.", examples=["prices"])
]
Version = Annotated[
    str,
    Meta(pattern=VERSION_PATTERN, description="Of the last answer; `0` for none. Without it: the next publish."),
]
Wait = Annotated[
    float, Meta(ge=0, le=1e12, description="Seconds to hold; clamped to BROKER_WAIT_MAX_S.", examples=[30])
]
Duration = Annotated[float, Meta(gt=0, le=MOST_SECONDS)]
Delay = Annotated[float, Meta(ge=0, le=MOST_SECONDS, description="Seconds until the task may be claimed.")]
JsonValue = Annotated[Raw, Meta(description="Any JSON value; it comes back byte for byte.")]
Lease = Annotated[str, Meta(min_length=1, max_length=128, description="As a claim gave it.")]


def convert(fields: dict[str, Any], request_type: type[T], *, from_text: bool = False) -> T:
    """Checks keyword or query fields against a request type.

    Args:
        fields: By name; JSON values as `msgspec.Raw`.
        request_type: One of the requests above.
        from_text: Whether numbers and booleans come as text.

    Raises:
        InvalidRequestError: A field is unknown, missing, of the wrong type or out of bounds.
    """
    try:
        return msgspec.convert(fields, request_type, strict=not from_text)
    except msgspec.ValidationError as error:
        raise invalid(error) from None


def invalid(error: msgspec.ValidationError) -> InvalidRequestError:
    """msgspec's finding as a sentence that names the field and what would be right."""
    reason, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    reason = reason[0].lower() + reason[1:]
    for pattern, words in _PATTERNS_IN_WORDS.items():
        reason = reason.replace(f"`str` matching regex {pattern!r}", words)
    if not field:
        return InvalidRequestError(f"The request cannot be used: {reason}.")
    return InvalidRequestError(f"`{field}` cannot be used: {reason}.", field=field)


def invalid_field(field: str, reason: str) -> InvalidRequestError:
    """The error for a field that only some combination forbids."""
    return InvalidRequestError(f"`{field}` cannot be used: {reason}.", field=field)


def received(value: Raw | UnsetType) -> bytes:
    """The bytes of a value as they came; `values.ABSENT` when there was none."""
    return bytes(value) if isinstance(value, Raw) else values.ABSENT


def checked_timeout(timeout: float | None, default_s: float) -> float:
    """How many seconds a Python caller waits; infinity is a number, too.

    Raises:
        InvalidRequestError: It is none.
    """
    if timeout is None:
        return default_s
    if not timeout >= 0:
        raise InvalidRequestError(f"`timeout` must be a number of seconds from 0 on, not {timeout:g}.", field="timeout")
    return timeout


@lru_cache(maxsize=256)
def milliseconds(seconds: float) -> int:
    """Rounded to the store's unit of time."""
    return round(seconds * 1_000)
