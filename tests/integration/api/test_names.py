"""Which uuids and queues there may be."""

from __future__ import annotations

from typing import Final

import pytest

from tests.support.caller import Caller, code_of

FORMS = pytest.mark.parametrize("by", ["POST", "GET"])

GOOD_UUIDS: Final = ["0", "a", "Z", "084Tkjfh", "a-b_c-", "A" * 128, "x-request-y", "x-response-y"]
BAD_UUIDS: Final = {
    "empty": "",
    "129": "A" * 129,
    "leading-dash": "-a",
    "leading-underscore": "_a",
    "dot": "a.b",
    "blank": "a b",
    "trailing-newline": "a\n",
    "newline": "a\nb",
    "trailing-blank": "a ",
    "slash": "a/b",
    "colon": "a:b",
    "star": "a*",
    "brace": "a{b}",
    "not-ascii": "é",
    "wide-digit": "１",
    "nul": "a\0",
    "quote": 'a"b',
    "percent": "a%62",
}
GOOD_QUEUES: Final = ["0", "a", "a.b_c-d", "a" * 64, "request", "response", "requests-a", "a-requests", "a-request.x"]
BAD_QUEUES: Final = {
    "empty": "",
    "65": "a" * 65,
    "upper-case": "Queue",
    "leading-dash": "-a",
    "trailing-dash": "a-",
    "trailing-dot": "a.",
    "leading-dot": ".a",
    "request-suffix": "a-request",
    "response-suffix": "a-response",
    "request-inside": "a-request-b",
    "response-inside": "a-response-b",
    "request-twice": "a-request-request",
    "trailing-newline": "a\n",
    "newline": "a\nb",
    "blank": "a b",
    "star": "a*",
    "colon": "a:b",
    "not-ascii": "é",
    "dotless-i": "ı",
    "nul": "a\0",
}


@FORMS
@pytest.mark.parametrize("name", GOOD_UUIDS)
def test_a_uuid_of_these_letters_is_taken(a: Caller, b: Caller, queue: str, by: str, name: str) -> None:
    # 409 where a fuzzer has had the same idea: the name is taken in both senses.
    assert a.create(by=by, uuid=name, queue="names").status_code in (200, 202, 409)
    assert b.query(name).json()["uuid"] == name


@FORMS
@pytest.mark.parametrize("name", BAD_UUIDS.values(), ids=BAD_UUIDS.keys())
def test_any_other_uuid_is_refused(a: Caller, by: str, name: str) -> None:
    for answer in (a.create(by=by, uuid=name), a.query(name), a.change(name, by=by), a.cancel(name)):
        assert code_of(answer) == (422, "invalid-request")
        assert answer.json()["field"] == "uuid"


@FORMS
@pytest.mark.parametrize("name", GOOD_QUEUES)
def test_a_queue_of_these_letters_is_taken(a: Caller, by: str, name: str) -> None:
    assert a.create(by=by, queue=name).json()["queue"] == name


@FORMS
@pytest.mark.parametrize("name", BAD_QUEUES.values(), ids=BAD_QUEUES.keys())
def test_any_other_queue_is_refused(a: Caller, by: str, name: str) -> None:
    answer = a.create(by=by, queue=name)

    assert code_of(answer) == (422, "invalid-request")
    assert answer.json()["field"] == "queue"
