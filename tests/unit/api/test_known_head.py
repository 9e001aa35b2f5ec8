"""Which requests are told by their bytes to have the head of the one before, and which heads are never remembered."""

from __future__ import annotations

import pytest

from broker.errors import InvalidRequestError
from broker.requests import CreateRequest
from broker_services.api.known_head import MOST_LINE_BYTES, KnownHead, known_head, read_line

GET = b"GET /createTask?queue=a HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n"
POST = b"POST /createTask HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
HEADERS = {b"host": b"x"}


def of_get() -> KnownHead:
    known = known_head(GET, HEADERS, b"")
    assert known is not None
    return known


def of_post() -> KnownHead:
    known = known_head(POST, HEADERS, b"{}")
    assert known is not None
    return known


def test_the_same_head_behind_another_line_and_with_another_body() -> None:
    other = of_get().request(GET.replace(b"/createTask?queue=a", b"/queryTaskState?uuid=t&wait=1.5"), 10_000)
    assert other is not None
    assert (other.method, other.path, other.query) == ("GET", "/queryTaskState", b"uuid=t&wait=1.5")
    assert (other.headers, other.body) == (HEADERS, b"")
    with_body = of_post().request(POST.replace(b"{}", b"[]"), 10_000)
    assert with_body is not None
    assert (with_body.method, with_body.path, with_body.query, with_body.body) == ("POST", "/createTask", b"", b"[]")


@pytest.mark.parametrize(
    "other",
    [
        GET.replace(b"Host: x", b"Host: y"),
        GET.replace(b"Accept: */*\r\n", b""),
        GET.replace(b"Accept", b"accept"),
        GET[:-1],
        GET + b"x",
        GET * 2,
        GET.replace(b"\r\n", b"\n"),
        b"\r\n" + GET,
        b"",
    ],
)
def test_any_other_byte_is_another_head(other: bytes) -> None:
    assert of_get().request(other, 10_000) is None


def test_a_head_has_as_many_bytes_as_it_may() -> None:
    assert of_get().request(GET, len(GET)) is not None
    assert of_get().request(GET, len(GET) - 1) is None
    assert of_post().request(POST, len(POST) - 2) is not None


@pytest.mark.parametrize("body", [b"", b"{", b"{}}", b"{}" + POST])
def test_a_body_of_another_length_is_not_told(body: bytes) -> None:
    assert of_post().request(POST[:-2] + body, 10_000) is None


@pytest.mark.parametrize("size", [400, 401])
def test_a_part_of_a_request_is_not_told(size: int) -> None:
    """Of two equal parts, what is missing of the head is as long as what there is of it, counted from the other end."""
    whole = POST.replace(b"Length: 2", b"Length: %d" % size)[:-2] + b"1" * size
    known = known_head(whole, HEADERS, b"1" * size)
    assert known is not None
    assert known.request(whole, 10_000) is not None
    for length in range(len(whole)):
        assert known.request(whole[:length], 10_000) is None


@pytest.mark.parametrize(("value", "is_known"), [(b"Keep-Alive", True), (b"close", False), (b"keep-alive, te", False)])
def test_a_connection_that_is_kept_is_what_every_connection_is(value: bytes, is_known: bool) -> None:
    assert (known_head(GET, {**HEADERS, b"connection": value}, b"") is not None) == is_known


@pytest.mark.parametrize("name", [b"connection", b"expect", b"te", b"transfer-encoding", b"upgrade"])
def test_heads_that_mean_more_than_themselves_are_not_remembered(name: bytes) -> None:
    assert known_head(GET, {**HEADERS, name: b"x"}, b"") is None


@pytest.mark.parametrize(
    "data", [GET + GET, b"Host: x\r\n\r\n", b"", b"\r\n" + GET, GET.replace(b"/createTask", b"/create%54ask")]
)
def test_what_is_not_one_whole_plain_request_is_not_remembered(data: bytes) -> None:
    assert known_head(data, HEADERS, b"") is None


def test_a_body_that_did_not_come_behind_its_head_is_not_remembered() -> None:
    assert known_head(POST[:-2], HEADERS, b"{}") is None


@pytest.mark.parametrize(
    "line",
    [
        b"PUT /a HTTP/1.1",
        b"HEAD /a HTTP/1.1",
        b"get /a HTTP/1.1",
        b"GET /a HTTP/1.0",
        b"GET /a HTTP/1.1 ",
        b"GET  /a HTTP/1.1",
        b"GET /a#f HTTP/1.1",
        b"GET /a?q#f HTTP/1.1",
        b"GET /a/b HTTP/1.1",
        b"GET //a HTTP/1.1",
        b"GET /%61 HTTP/1.1",
        b"GET /a?q r HTTP/1.1",
        b"GET /a?q\xff HTTP/1.1",
        b"GET http://x/a HTTP/1.1",
        b"GET * HTTP/1.1",
    ],
)
def test_only_plain_lines_are_read_here(line: bytes) -> None:
    assert read_line(line) is None


def test_a_query_comes_as_it_was_sent() -> None:
    line = read_line(b"GET /a?x=%22y%22&z=/?:@!$'()*+,;[] HTTP/1.1")
    assert line is not None
    assert (line.method, line.path, line.query) == ("GET", "/a", b"x=%22y%22&z=/?:@!$'()*+,;[]")


# What a query asks for


def asked(known: KnownHead, data: bytes) -> CreateRequest:
    request = known.request(data, 10_000)
    assert request is not None
    return request.read_line(CreateRequest)


def test_a_query_that_comes_again_is_read_once() -> None:
    known = of_get()
    first = asked(known, GET)
    assert first.queue == "a"
    assert asked(known, GET) is first


def test_another_query_is_read_anew() -> None:
    known = of_get()
    for queue in ("a", "b", "a", "c", "c"):
        assert asked(known, GET.replace(b"queue=a", b"queue=%s" % queue.encode())).queue == queue


def test_a_query_that_cannot_be_read_is_refused_each_time() -> None:
    known = of_get()
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="`queue`"):
            asked(known, GET.replace(b"queue=a", b"queue=-"))


def test_a_long_line_is_not_kept() -> None:
    known = of_get()
    data = GET.replace(b"queue=a", b"queue=a&payload=%s" % (b"1" * MOST_LINE_BYTES))
    first = asked(known, data)
    assert first == asked(known, data)
    assert asked(known, data) is not first
    assert known.line_text == GET.partition(b"\r\n")[0]


@pytest.mark.parametrize("size", [1, MOST_LINE_BYTES])
def test_the_line_before_does_not_stand_for_none(size: int) -> None:
    data = GET.replace(b"queue=a", b"queue=a&payload=%s" % (b"1" * size))
    known = known_head(data, HEADERS, b"")
    assert known is not None
    assert known.request(known.tail, 10_000) is None
