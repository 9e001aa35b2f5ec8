"""JSON values as the bytes that were received: checked, compared by a digest, and never rewritten.

A value travels as raw bytes from the caller to the store and back, so `[]`, `1.0` and `9007199254740993` come out as
they went in. Parsing happens only to refuse what some reader could not read, and to compare.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any, Final

import orjson

from broker.errors import InvalidRequestError, MalformedJsonError, PayloadTooLargeError

ABSENT: Final = b""
"""No value at all; a JSON value is never empty, so the store can tell the two apart."""

MAX_NESTING: Final = 128

_OPENING: Final = frozenset({b"[", b"{"})
_CLOSING: Final = frozenset({b"]", b"}"})
# 2^63 has 19 digits: a number with fewer cannot leave 64 bits.
_long_number = re.compile(rb"[0-9]{19}")
# Strings, ended or not, are skipped as a whole and possessively: a quote that never ends must not cost quadratic time.
_string_or_bracket = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def check(raw: bytes, field: str, *, max_bytes: int) -> Any:
    """Refuses what isn't acceptable JSON, and returns the parsed value.

    Args:
        raw: The received bytes of one value.
        field: The name to use in an error.
        max_bytes: The longest acceptable value.

    Raises:
        PayloadTooLargeError: Longer than `max_bytes`.
        MalformedJsonError: Not JSON.
        InvalidRequestError: JSON that not every reader could take: integers beyond 64 bits, NaN and Infinity, lone
            surrogates, nesting deeper than `MAX_NESTING`.
    """
    check_length(raw, field, max_bytes=max_bytes)
    check_nesting(raw, field)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise refusal(raw, field, str(error)) from None
    if _long_number.search(raw):
        _refuse_long_integers(raw, field)
    return value


def fingerprint(raw: bytes, field: str, *, max_bytes: int) -> str:
    """Checks a value as `check` does and returns a digest that equal values share (absent equals `null`)."""
    if raw == ABSENT:
        return NULL_FINGERPRINT
    return _digest(check(raw, field, max_bytes=max_bytes))


def are_same(one: bytes, other: bytes) -> bool:
    """Whether two acceptable values have the same sorted-key JSON; absent and `null` are equal."""
    return one == other or _canonical(one) == _canonical(other)


def dump(value: Any, what: str, *, max_bytes: int) -> bytes:
    """A Python value as JSON bytes.

    Raises:
        InvalidRequestError: `value` holds something that JSON has no word for.
        PayloadTooLargeError: Its JSON is longer than `max_bytes`.
    """
    try:
        raw = orjson.dumps(value)
        # Each result comes by here. `in` makes and drops an error inside: 2,000 instructions more; `find` takes 600.
        if raw.partition(b"null")[1]:
            # What orjson writes for NaN and Infinity, too.
            json.dumps(value, allow_nan=False, default=str)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{what} cannot be written as JSON: {error}.", field=what) from None
    if raw.partition(b"\0")[1]:
        # Only an `orjson.Fragment` is written unread, and texts are joined by this byte on their way.
        raise InvalidRequestError(f"{what} cannot be written as JSON: it holds a zero byte.", field=what)
    if len(raw) > MAX_NESTING or len(raw) > max_bytes:
        check_length(raw, what, max_bytes=max_bytes)
        check_nesting(raw, what)
    return raw


def check_length(raw: bytes, field: str, *, max_bytes: int) -> None:
    """Raises PayloadTooLargeError for a value longer than `max_bytes`."""
    if len(raw) > max_bytes:
        raise PayloadTooLargeError(f"`{field}` has {len(raw)} bytes; at most {max_bytes} are accepted.")


def check_nesting(raw: bytes, field: str, *, most: int = MAX_NESTING) -> None:
    """Refuses JSON that is nested deeper than `most` before any parser has to recurse into it."""
    if raw.count(b"[") + raw.count(b"{") <= most:
        return
    depth = 0
    for token in _string_or_bracket.finditer(raw):
        if token.group() in _OPENING:
            depth += 1
        elif token.group() in _CLOSING:
            depth -= 1
        if depth > most:
            raise InvalidRequestError(f"`{field}` is nested deeper than {most} levels.", field=field)


def refusal(raw: bytes, field: str, reason: str) -> InvalidRequestError:
    """The error for bytes that a strict parser refused: readable by a lenient one (422), or not JSON at all (400)."""
    try:
        json.loads(raw.decode("utf-8"), parse_int=str)
    except (ValueError, RecursionError):
        return MalformedJsonError(f"`{field}` is not valid JSON: {reason}.", field=field)
    return InvalidRequestError(
        f"`{field}` holds NaN, Infinity, a number beyond double precision or a lone surrogate, which readers refuse.",
        field=field,
    )


def _refuse_long_integers(raw: bytes, field: str) -> None:
    def check_integer(digits: str) -> int:
        if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
            raise InvalidRequestError(
                f"`{field}` holds the integer {digits[:24]}, which is beyond 64 bits; send it as a string.", field=field
            )
        return 0

    json.loads(raw, parse_int=check_integer)


def _canonical(raw: bytes) -> bytes:
    return b"null" if raw == ABSENT else orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS)


def _digest(value: Any) -> str:
    canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return base64.urlsafe_b64encode(hashlib.blake2b(canonical, digest_size=15).digest()).decode()


NULL_FINGERPRINT: Final = _digest(None)
