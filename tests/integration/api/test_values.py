"""JSON values travel as the bytes that were received, and what some reader could not read is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx
import pytest

from broker import Broker, Settings
from broker.store.claims import ClaimWish
from tests.integration.api.conftest import Deployment
from tests.support.caller import Caller, code_of, value_bytes
from tests.support.channels import Channels

FORMS = pytest.mark.parametrize("by", ["POST", "GET"])

KEPT: Final = {
    "empty-array": "[]",
    "empty-object": "{}",
    "empty-text": '""',
    "null": "null",
    "true": "true",
    "false": "false",
    "zero": "0",
    "negative-zero": "-0",
    "float": "1.0",
    "exponent": "1e5",
    "Exponent": "1E+5",
    "many-decimals": "0.1000000000000000055511151231257827",
    "beyond-2-to-53": "9007199254740993",
    "largest-unsigned": "18446744073709551615",
    "smallest-signed": "-9223372036854775808",
    "emoji": '"🎉 中文"',
    "escaped": r'"\u4e2d\ud83c\udf89\/\n\u0000"',
    "whitespace": '{ "a" :\t[ 1 ,\n 2 ] }',
    "duplicate-keys": '{"a":1,"a":2}',
    "key-order": '{"b":1,"a":2}',
    "nested-128": "[" * 128 + "]" * 128,
    "brackets-in-text": '"' + "[{" * 500 + '"',
    "line-separators": '"\u2028\u2029\u007f"',
}
REFUSED: Final = {
    "beyond-unsigned": "18446744073709551616",
    "below-signed": "-9223372036854775809",
    "23-digits": "12345678901234567890123",
    "5000-digits": "1" * 5_000,
    "inside": '{"a":[12345678901234567890123]}',
    "NaN": "NaN",
    "Infinity": "[-Infinity]",
    "beyond-double": "1e999",
    "lone-surrogate": r'"\ud800"',
    "lone-low-surrogate": r'{"\udc00x":1}',
    "nested-129": "[" * 129 + "]" * 129,
    "nested-129-mixed": '{"a":[' * 64 + "{}" + "]}" * 64,
    "nested-5000": "[" * 5_000 + "]" * 5_000,
}
MALFORMED: Final = {
    "open-array": "[1,",
    "open-text": '"x',
    "word": "text",
    "single-quotes": "{'a':1}",
    "trailing-comma": "[1,]",
    "leading-zero": "01",
    "plus": "+1",
    "raw-newline-in-text": '"a\nb"',
    "bad-escape": r'"\x41"',
    "two-values": "1 2",
}

values_kept = pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
values_refused = pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
values_malformed = pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())


@FORMS
@values_kept
def test_a_result_comes_back_byte_for_byte(a: Caller, b: Caller, uuid: str, queue: str, by: str, text: str) -> None:
    a.create(uuid=uuid, queue=queue)

    answers = [a.change(uuid, by=by, result=text), b.query(uuid), a.create(uuid=uuid, queue=queue, wait=1)]

    assert [value_bytes(answer, "result") for answer in answers] == [text.encode()] * 3


@values_kept
def test_a_held_call_gets_the_same_bytes(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str, text: str
) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    b.change(uuid, result=text)

    assert value_bytes(held.result(), "result") == text.encode()


@values_kept
def test_a_raw_body_comes_back_byte_for_byte(a: Caller, b: Caller, uuid: str, queue: str, text: str) -> None:
    a.create(uuid=uuid, queue=queue)
    a.change_raw(uuid, text.encode(), "application/json")

    assert value_bytes(b.query(uuid), "result") == text.encode()


@FORMS
@values_kept
async def test_a_payload_reaches_its_worker_byte_for_byte(
    a: Caller, deployment: Deployment, queue: str, by: str, text: str
) -> None:
    a.create(by=by, queue=queue, payload=text)

    async with Broker.from_url(deployment.server.url, Settings()) as broker:
        claimed = (await broker.transitions.claim("test", 30_000, [ClaimWish(queue, 1)])).tasks

    assert claimed[0].payload == text.encode()


@FORMS
@values_kept
def test_error_details_come_back_byte_for_byte(a: Caller, b: Caller, uuid: str, queue: str, by: str, text: str) -> None:
    a.create(uuid=uuid, queue=queue)
    a.change(uuid, by=by, state="failed", error=f'{{"details":{text}}}')

    assert value_bytes(b.query(uuid), "error") == f'{{"code":"failed","details":{text}}}'.encode()


def test_a_value_of_the_longest_kind_comes_back_whole(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    text = '"' + "x" * 250_000 + '"'
    a.create(uuid=uuid, queue=queue)
    a.change(uuid, result=text)

    assert value_bytes(b.query(uuid), "result") == text.encode()


# Refused

Send = Callable[[Caller, str, str, str], httpx.Response]


def _as_payload(a: Caller, uuid: str, by: str, text: str) -> httpx.Response:
    return a.create(by=by, uuid=uuid, queue="q", payload=text)


def _as_result(a: Caller, uuid: str, by: str, text: str) -> httpx.Response:
    return a.change(uuid, by=by, result=text)


def _as_details(a: Caller, uuid: str, by: str, text: str) -> httpx.Response:
    return a.change(uuid, by=by, state="failed", error=f'{{"details":{text}}}')


def _as_raw_body(a: Caller, uuid: str, by: str, text: str) -> httpx.Response:
    return a.change_raw(uuid, text.encode(), "application/json")


SENDS = pytest.mark.parametrize(
    ("send", "by"),
    [
        (_as_payload, "POST"),
        (_as_payload, "GET"),
        (_as_result, "POST"),
        (_as_result, "GET"),
        (_as_details, "POST"),
        (_as_details, "GET"),
        (_as_raw_body, "POST"),
    ],
    ids=["payload", "payload-by-get", "result", "result-by-get", "details", "details-by-get", "raw"],
)


@SENDS
@values_refused
def test_what_some_reader_cannot_read_is_refused(a: Caller, uuid: str, send: Send, by: str, text: str) -> None:
    assert code_of(send(a, uuid, by, text)) == (422, "invalid-request")


@SENDS
@values_malformed
def test_what_is_not_json_is_malformed(a: Caller, uuid: str, send: Send, by: str, text: str) -> None:
    assert code_of(send(a, uuid, by, text)) == (400, "malformed-json")


@pytest.mark.parametrize("where", ['"payload":"\xff"', '"queue":"\xff"', '"payload":{"\xff":1}', '"\xff":1'])
def test_invalid_utf8_is_malformed(a: Caller, where: str) -> None:
    body = b"{" + where.encode("latin-1") + b"}"

    assert code_of(a.call("POST", "/createTask", content=body)) == (400, "malformed-json")


@pytest.mark.parametrize("member", ['"message":"\\ud800"', '"code":"\\udc00"', '"message":"\x00"'])
def test_texts_of_an_error_are_no_defect(a: Caller, uuid: str, queue: str, member: str) -> None:
    a.create(uuid=uuid, queue=queue)

    assert a.change(uuid, state="failed", error="{" + member + "}").status_code in (400, 422)


def test_an_errors_message_may_hold_any_text(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)
    a.change(uuid, state="failed", error=r'{"message":"\"\\ \u0000 \n 中 🎉 </script>"}')

    assert b.query(uuid).json()["error"]["message"] == '"\\ \0 \n 中 🎉 </script>'


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"\x00", b"{}{}"])
def test_a_body_of_another_encoding_is_malformed(a: Caller, body: bytes) -> None:
    assert code_of(a.call("POST", "/createTask", content=body)) == (400, "malformed-json")


def test_a_body_nested_beyond_any_reader_is_refused(a: Caller) -> None:
    assert a.call("POST", "/createTask", content=b"[" * 200_000).status_code in (400, 422)
    assert a.call("POST", "/createTask", content=b'{"x":' * 40_000).status_code in (400, 422)
