"""JSON values as bytes: what is refused, what counts as the same, and that nothing is rewritten."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import values
from broker.errors import BrokerError, InvalidRequestError, MalformedJsonError, PayloadTooLargeError

MOST = 100_000

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


def written(value: Any, **style: Any) -> bytes:
    return json.dumps(value, **style).encode()


def fingerprint(raw: bytes) -> str:
    return values.fingerprint(raw, "payload", max_bytes=MOST)


def shuffled(value: Any) -> Any:
    """The same value with the members of its objects in another order."""
    if isinstance(value, dict):
        return {name: shuffled(member) for name, member in reversed(value.items())}
    return [shuffled(member) for member in value] if isinstance(value, list) else value


# Acceptable values


@given(JSON)
def test_every_json_value_is_accepted_in_any_style(value: Any) -> None:
    for raw in (written(value), written(value, indent=2), written(value, ensure_ascii=False)):
        assert values.check(raw, "payload", max_bytes=MOST) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"-9223372036854775808",
        b"18446744073709551615",
        b"0.12345678901234567890123456789",
        b"1234567890123456789.5",
        b'"12345678901234567890123456789"',
        b'{"12345678901234567890123456789":1}',
        b"1e308",
        b"[" * 128 + b"]" * 128,
        b'"' + b"[" * 500 + b'"',
        b'"\\"' + b"[{" * 500 + b'"',
        b'"\\ud83d\\ude00"',
        b" \t\r\n1 ",
    ],
)
def test_what_is_unusual_and_fine(raw: bytes) -> None:
    values.check(raw, "payload", max_bytes=MOST)


# Refusals


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b" ", b"{", b"[1,]", b"{'a':1}", b"01", b"+1", b".5", b"1.", b"tru", b"1 2"),
        *(b'"\n"', b"\xff", b'"\xff"', b"\xef\xbb\xbf1", b'{"a"}', b"{1:2}", b"[1]]", b'"\\x"', b"\x00"),
    ],
)
def test_what_is_no_json(raw: bytes) -> None:
    with pytest.raises(MalformedJsonError, match="`payload`"):
        values.check(raw, "payload", max_bytes=MOST)


@pytest.mark.parametrize(
    "raw",
    [
        *(b"NaN", b"Infinity", b"-Infinity", b"[NaN]", b"1e400", b"-1e999", b'"\\ud800"', b'{"\\udc00":1}'),
        *(b"18446744073709551616", b"-9223372036854775809", b"1" * 50, b"[[1" + b"0" * 4_400 + b"]]"),
        *(b"[" * 129 + b"]" * 129, b'{"a":' * 129 + b"1" + b"}" * 129, b"[" * 50_000),
    ],
)
def test_json_that_not_every_reader_takes(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="`payload`") as refused:
        values.check(raw, "payload", max_bytes=MOST)
    assert not isinstance(refused.value, MalformedJsonError)
    assert refused.value.field == "payload"


def test_what_is_too_long() -> None:
    values.check(b'"' + b"x" * 8 + b'"', "result", max_bytes=10)
    with pytest.raises(PayloadTooLargeError, match=r"`result` has 11 bytes; at most 10"):
        values.check(b'"' + b"x" * 9 + b'"', "result", max_bytes=10)


@given(st.binary(max_size=60))
def test_any_bytes_are_accepted_or_refused_and_never_crash(raw: bytes) -> None:
    try:
        values.check(raw, "payload", max_bytes=MOST)
    except BrokerError:
        return
    json.loads(raw)


@given(st.text(st.sampled_from('[]{}":,\\0123456789.eE+-truefalsn \n'), max_size=40))
def test_any_text_that_looks_like_json_is_accepted_or_refused(text: str) -> None:
    try:
        values.check(text.encode(), "payload", max_bytes=MOST)
    except BrokerError:
        return
    json.loads(text)


# Sameness


@given(JSON)
def test_the_order_of_members_and_the_style_do_not_count(value: Any) -> None:
    one, other = written(value), written(shuffled(value), indent=1, ensure_ascii=False)
    assert fingerprint(one) == fingerprint(other)
    assert values.are_same(one, other)


@given(JSON, JSON)
def test_values_are_the_same_when_their_sorted_key_json_is(one: Any, other: Any) -> None:
    same = written(one, sort_keys=True) == written(other, sort_keys=True)
    assert values.are_same(written(one), written(other)) is same
    assert (fingerprint(written(one)) == fingerprint(written(other))) is same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *((b"1", b"1.0"), (b"[]", b"{}"), (b'""', b"null"), (b"0", b"false"), (b"[1,2]", b"[2,1]"), (b'"1"', b"1")),
        *((b'{"a":null}', b"{}"), (b"9007199254740993", b"9007199254740992"), (b"1.0", b"1.0000000000000002")),
    ],
)
def test_what_differs(one: bytes, other: bytes) -> None:
    assert fingerprint(one) != fingerprint(other)
    assert not values.are_same(one, other)


def test_absent_and_null_are_the_same() -> None:
    assert fingerprint(values.ABSENT) == fingerprint(b"null") == fingerprint(b" null ")
    assert values.are_same(values.ABSENT, b"null")


def test_a_fingerprint_is_short_enough_for_a_record() -> None:
    assert len(fingerprint(b"[1]")) <= 64


# Python values


@given(JSON)
def test_what_python_holds_is_written_as_json(value: Any) -> None:
    assert json.loads(values.dump(value, "result", max_bytes=MOST)) == value


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", 2**64, -(2**63) - 1, "\ud800", {(1,): 2}, [{"a": object}], orjson.Fragment(b'"\0"')],
)
def test_what_json_has_no_word_for(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="result") as refused:
        values.dump(value, "result", max_bytes=MOST)
    assert refused.value.field == "result"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_that_json_has_no_word_for(value: Any) -> None:
    """Stored as `null`, they would be another value than the handler's."""
    with pytest.raises(InvalidRequestError):
        values.dump(value, "result", max_bytes=MOST)


@pytest.mark.parametrize("depth", [129, 200, 300, 100_000])
def test_what_is_nested_too_deep(depth: int) -> None:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    with pytest.raises(InvalidRequestError):
        values.dump(value, "result", max_bytes=MOST * 10)


def test_what_holds_itself() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidRequestError):
        values.dump(value, "result", max_bytes=MOST)


def test_what_is_too_long_to_write() -> None:
    with pytest.raises(PayloadTooLargeError):
        values.dump("x" * 100, "result", max_bytes=100)
