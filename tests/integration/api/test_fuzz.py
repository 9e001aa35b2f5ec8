"""No input of any kind gives a 500. Each answer is checked by the caller for the promises that all answers make."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.caller import Caller, request_head

PATHS: Final = ("/createTask", "/changeTaskState", "/cancelTask")
RAW_TYPES: Final = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
HEADERS: Final = (
    "Idempotency-Key",
    "Prefer",
    "Accept-Language",
    "If-None-Match",
    "Last-Event-ID",
    "Accept",
    "Content-Type",
    "Content-Length",
    "Host",
    "Expect",
)
FIELDS: Final = (
    "uuid",
    "queue",
    "payload",
    "wait",
    "expires_in",
    "retention",
    "priority",
    "delay",
    "max_attempts",
    "exclusive",
    "state",
    "result",
    "error",
    "lease",
    "raw",
)

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    # The instance is the same for all examples, on purpose.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("a")
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
objects = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)
paths = st.sampled_from(PATHS)


def _not_held(fields: dict[str, Any]) -> dict[str, Any]:
    """A wait that is valid would only cost time."""
    wait = fields.get("wait", 0)
    return {**fields, "wait": 0} if isinstance(wait, int | float) else fields


@quick
@given(path=paths, fields=objects)
def test_any_json_object(a: Caller, path: str, fields: dict[str, Any]) -> None:
    a.call("POST", path, content=json.dumps(_not_held(fields)))


@quick
@given(path=paths, body=st.binary(max_size=60))
def test_any_bytes_as_a_body(a: Caller, path: str, body: bytes) -> None:
    a.call("POST", path, content=body or b"[]")


@quick
@given(
    body=st.binary(max_size=60),
    media_type=st.sampled_from(RAW_TYPES),
)
def test_any_bytes_as_a_raw_body(a: Caller, body: bytes, media_type: str) -> None:
    a.change_raw("a", body, media_type)
    a.change_raw("a", b"--x\r\n" + body + b"\r\n--x--", media_type)


@quick
@given(path=st.sampled_from([*PATHS, "/queryTaskState"]), fields=objects)
def test_any_query(a: Caller, path: str, fields: dict[str, Any]) -> None:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in _not_held(fields).items()}

    a.call("GET", f"{path}?wait=0&{urlencode(texts, quote_via=quote, errors='replace')}")


@quick
@given(
    name=st.sampled_from(HEADERS),
    value=st.binary(max_size=30).filter(lambda value: not set(value) & set(range(32)) and b"\x7f" not in value),
)
def test_any_header(a: Caller, name: str, value: bytes) -> None:
    for path in ("/queryTaskState", "/taskEvents"):
        head = request_head("GET", f"{path}?uuid=a", name.encode() + b": " + value, b"Connection: close")
        with a.connection(head) as connection:
            assert not connection.recv(100).startswith(b"HTTP/1.1 5")


@pytest.mark.parametrize("path", PATHS)
def test_null_for_every_field(a: Caller, path: str) -> None:
    for field in FIELDS:
        # A null wait would be the default, which is long.
        a.call("POST", path, json={"uuid": "a", field: None, "wait": 0})
