"""What every answer carries, and how ETags are compared."""

from __future__ import annotations

import pytest

from broker_services.api.answers import Answer, etag_matches, etag_of, json_answer


def test_an_answer_is_not_kept() -> None:
    headers = dict(json_answer({"a": 1}).asgi_headers())

    assert headers == {
        b"vary": b"Accept-Language",
        b"cache-control": b"no-store",
        b"content-type": b"application/json",
        b"content-length": b"7",
    }


def test_an_answer_with_an_etag_is_kept_and_checked() -> None:
    headers = dict(Answer(200, b"{}", etag=b'"x"').asgi_headers())

    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"etag"] == b'"x"'


def test_not_modified_has_no_content_but_its_etag() -> None:
    headers = dict(Answer(304, b"", etag=b'"x"').asgi_headers())

    assert headers == {b"vary": b"Accept-Language", b"cache-control": b"no-cache", b"etag": b'"x"'}


def test_further_headers_come_along() -> None:
    assert (b"location", b"/x") in Answer(202, b"", [(b"location", b"/x")]).asgi_headers()


def test_etags_are_equal_exactly_when_bodies_are() -> None:
    assert etag_of(b"a") == etag_of(b"a")
    assert etag_of(b"a") != etag_of(b"b")


@pytest.mark.parametrize("header", ['"a"', 'W/"a"', '"b","a"', '"b", W/"a"', "*", " * "])
def test_an_etag_is_found(header: str) -> None:
    assert etag_matches(header, b'"a"')


@pytest.mark.parametrize("header", ["", "a", '"b"', 'W/"b"', '"a', 'w/"a"', '"a" "b"'])
def test_another_etag_is_not(header: str) -> None:
    assert not etag_matches(header, b'"a"')
