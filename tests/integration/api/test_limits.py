"""What HTTP itself can get wrong: methods, sizes, types, slow bodies, calls that nobody meant."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

import pytest

from tests.support.caller import Caller, code_of, json_object, request_head

WRITES: Final = ("/createTask", "/changeTaskState")
BODIES: Final = (*WRITES, "/cancelTask", "/retryTask")
EVERY: Final = (*BODIES, "/queryTaskState", "/tasks", "/queues", "/healthz", "/readyz", "/metrics")

JSON_LINE: Final = b"Content-Type: application/json"


# Methods


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_writing_calls_take_post_and_get(a: Caller, path: str, method: str) -> None:
    answer = a.call(method, path)

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST, GET"


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/cancelTask", "POST"),
        ("/queryTaskState", "GET, HEAD"),
        ("/retryTask", "POST"),
        ("/tasks", "GET, HEAD"),
        ("/queues", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
    ],
)
def test_other_calls_say_what_they_take(a: Caller, path: str, allow: str) -> None:
    answer = a.call("DELETE", path)

    assert code_of(answer) == (405, "method-not-allowed")
    assert answer.headers["allow"] == allow


def test_get_does_not_cancel(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)

    assert a.call("GET", f"/cancelTask?uuid={uuid}").status_code == 405
    assert a.query(uuid).json()["state"] == "pending"


def test_head_creates_nothing(a: Caller, uuid: str, queue: str) -> None:
    assert a.call("HEAD", f"/createTask?uuid={uuid}&queue={queue}&wait=0").status_code == 405
    assert a.query(uuid).status_code == 404


@pytest.mark.parametrize("path", WRITES)
def test_writing_by_get_can_be_switched_off(tight: Caller, path: str) -> None:
    answer = tight.call("GET", f"{path}?uuid=a")

    assert code_of(answer) == (405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


def test_reading_by_get_cannot_be_switched_off(tight: Caller, uuid: str, queue: str) -> None:
    tight.create(uuid=uuid, queue=queue)

    assert tight.query(uuid).status_code == 200


# Unknown paths


@pytest.mark.parametrize(
    "path", ["/", "/createtask", "/createTask/", "/createTask/x", "/..", "/%00", "/%C3%A4", "/%ff", "//", "/a%2Fb"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_told(a: Caller, path: str, method: str) -> None:
    assert code_of(a.exchange(method, path)) == (404, "not-found")


@pytest.mark.parametrize("host", ["[", "a:b:c", "", "a b", "%", "\xff"])
def test_a_host_that_is_none_is_no_defect(a: Caller, host: str) -> None:
    head = b"GET /nothing HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode("latin-1")

    with a.connection(head) as connection:
        assert a.read_answer(connection, "GET", "/nothing").status_code == 404


# Calls that nobody meant


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize(
    "header",
    [
        ("Sec-Purpose", "prefetch"),
        ("Sec-Purpose", "prefetch;prerender"),
        ("Purpose", "prefetch"),
        ("Sec-Fetch-Site", "cross-site"),
    ],
    ids=": ".join,
)
def test_a_get_that_nobody_meant_is_forbidden(
    a: Caller, uuid: str, queue: str, path: str, header: tuple[str, str]
) -> None:
    a.create(uuid=uuid, queue=queue)

    answer = a.call("GET", f"{path}?uuid={uuid}&queue={queue}", headers=dict([header]))

    assert code_of(answer) == (403, "forbidden")
    assert a.query(uuid).json()["state"] == "pending"


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
def test_a_get_that_somebody_meant_is_served(a: Caller, uuid: str, queue: str, site: str) -> None:
    assert a.create(by="GET", uuid=uuid, queue=queue, headers={"sec-fetch-site": site}).status_code == 202


def test_a_cross_site_read_is_served(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)

    assert a.query(uuid, headers={"sec-fetch-site": "cross-site", "sec-purpose": "prefetch"}).status_code == 200


# Types


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"]
)
def test_a_body_of_another_type_is_refused(a: Caller, path: str, media_type: str) -> None:
    answer = a.call("POST", path, content=b'{"uuid":"a"}', headers={"content-type": media_type})

    assert code_of(answer) == (415, "unsupported-media-type")


@pytest.mark.parametrize("media_type", [None, "APPLICATION/JSON", "application/vnd.acme+json", "application/json;x=y"])
def test_a_json_body_by_any_of_its_names_is_read(a: Caller, uuid: str, queue: str, media_type: str | None) -> None:
    headers = {} if media_type is None else {"content-type": media_type}
    body = json_object({"uuid": uuid, "queue": queue, "wait": 0})

    assert a.call("POST", "/createTask", content=body, headers=headers).json()["uuid"] == uuid


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("body", [b"{", b"x", b'{"uuid"}', b'{"uuid":"a"', b"{'uuid':1}"])
def test_a_body_that_is_not_json_is_malformed(a: Caller, path: str, body: bytes) -> None:
    assert code_of(a.call("POST", path, content=body)) == (400, "malformed-json")


# Sizes


@pytest.mark.parametrize("path", [*BODIES, "/changeTaskState?uuid=a&raw=1"])
def test_a_body_that_is_too_long_is_refused(tight: Caller, path: str) -> None:
    body = b'{"uuid":"a"%s}' % (b" " * 2_048)

    answer = tight.call("POST", path, content=body, headers={"content-type": "application/json"})

    assert code_of(answer) == (413, "payload-too-large")


def test_a_body_that_just_fits_is_read(tight: Caller, uuid: str, queue: str) -> None:
    body = json_object({"uuid": uuid, "queue": queue, "wait": 0}).ljust(2_048)

    assert tight.call("POST", "/createTask", content=body).status_code == 202


def test_a_body_that_says_it_is_too_long_is_refused_before_it_comes(tight: Caller) -> None:
    answer = tight.exchange("POST", "/createTask", JSON_LINE, b"Content-Length: 1000000000")

    assert code_of(answer) == (413, "payload-too-large")


def test_a_body_that_does_not_say_its_length_is_refused_when_it_is_too_long(tight: Caller) -> None:
    chunks = b"".join(b"400\r\n%s\r\n" % (b" " * 0x400) for _ in range(3))

    answer = tight.exchange("POST", "/createTask", JSON_LINE, b"Transfer-Encoding: chunked", body=chunks)

    assert code_of(answer) == (413, "payload-too-large")


def test_a_sender_that_asks_first_is_refused_without_sending(tight: Caller) -> None:
    lines = (JSON_LINE, b"Content-Length: 5000", b"Expect: 100-continue")

    assert code_of(tight.exchange("POST", "/createTask", *lines)) == (413, "payload-too-large")


def test_a_body_in_chunks_is_read(a: Caller, uuid: str, queue: str) -> None:
    body = json_object({"uuid": uuid, "queue": queue, "wait": 0})
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"

    answer = a.exchange("POST", "/createTask", JSON_LINE, b"Transfer-Encoding: chunked", body=chunks)

    assert answer.json()["uuid"] == uuid


@pytest.mark.parametrize("path", EVERY)
def test_headers_that_are_too_long_are_refused(tight: Caller, path: str) -> None:
    method = "POST" if path in BODIES else "GET"

    assert code_of(tight.exchange(method, path, b"X-Long: " + b"x" * 5_000)) == (431, "headers-too-large")


def test_many_short_headers_are_refused(tight: Caller) -> None:
    assert code_of(tight.exchange("GET", "/healthz", *[b"X-A: xxxxxxxx"] * 500)) == (431, "headers-too-large")


def test_a_url_that_is_too_long_is_refused(tight: Caller) -> None:
    target = "/queryTaskState?uuid=" + "a" * 5_000

    assert code_of(tight.exchange("GET", target)) == (431, "headers-too-large")


def test_a_header_without_an_end_is_refused_before_it_ends(tight: Caller) -> None:
    """Otherwise a sender could fill the memory with a single line."""
    start = b"GET /healthz HTTP/1.1\r\nHost: test\r\nX-Long: " + b"x" * 200_000

    with tight.connection(start) as connection:
        assert tight.read_answer(connection, "GET", "/healthz").status_code == 431


def test_headers_within_the_limit_are_read(tight: Caller) -> None:
    assert tight.exchange("GET", "/healthz", b"X-Long: " + b"x" * 3_500).status_code == 200


def test_after_a_refused_call_others_are_served(tight: Caller) -> None:
    tight.exchange("GET", "/healthz", b"X-Long: " + b"x" * 5_000)

    assert tight.call("GET", "/healthz").status_code == 200


# Slow bodies


@pytest.mark.parametrize("path", [*BODIES, "/changeTaskState?uuid=a&raw=1"])
@pytest.mark.parametrize("sent", [b"", b'{"uuid"'], ids=["nothing", "a-part"])
def test_a_body_that_does_not_come_is_not_waited_for(tight: Caller, path: str, sent: bytes) -> None:
    answer = tight.exchange("POST", path, JSON_LINE, b"Content-Length: 100", body=sent)

    assert code_of(answer) == (408, "request-timeout")
    assert answer.headers["connection"] == "close"


def test_a_body_that_comes_in_parts_is_read(a: Caller, uuid: str, queue: str) -> None:
    body = json_object({"uuid": uuid, "queue": queue, "wait": 0})
    head = request_head("POST", "/createTask", JSON_LINE, b"Content-Length: %d" % len(body))

    with a.connection(head + body[:5]) as connection:
        connection.sendall(body[5:])
        assert a.read_answer(connection, "POST", "/createTask").json()["uuid"] == uuid


# Slow heads


@pytest.mark.parametrize(
    "start",
    [b"G", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: t\r\nX-Slow: a"],
    ids=["a-letter", "a-line", "a-header"],
)
def test_a_head_that_does_not_end_is_not_waited_for(tight: Caller, start: bytes) -> None:
    with tight.connection(start) as connection:
        answer = tight.read_answer(connection, "GET", "/healthz")
        assert code_of(answer) == (408, "request-timeout")
        assert answer.headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_a_head_that_comes_drop_by_drop_gets_no_more_time(tight: Caller) -> None:
    started = time.monotonic()
    with tight.connection(b"GET /healthz HTTP/1.1\r\nX-Slow: ") as connection:
        connection.settimeout(0.02)
        answer = b""
        while not answer and time.monotonic() < started + 10:
            with suppress(OSError):
                connection.sendall(b"x")
            with suppress(TimeoutError):
                answer = connection.recv(100)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 0.3 <= time.monotonic() - started < 3


def test_a_slow_head_on_a_connection_that_was_used_before(tight: Caller) -> None:
    start = request_head("GET", "/healthz") + b"GET /heal"

    with tight.connection(start) as connection, connection.makefile("rb") as answers:
        text = answers.read()

    assert text.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in text


def test_a_held_call_is_answered_although_another_head_follows_slowly(tight: Caller, uuid: str, queue: str) -> None:
    tight.create(uuid=uuid, queue=queue)
    start = request_head("GET", f"/queryTaskState?uuid={uuid}&wait=0.4") + b"GET /heal"

    with tight.connection(start) as connection, connection.makefile("rb") as answers:
        text = answers.read()

    assert text.startswith(b"HTTP/1.1 200 ")
    assert text.count(b"HTTP/1.1 ") == 1


def test_a_body_that_drips_on_after_its_call_was_refused_is_not_read_for_ever(tight: Caller) -> None:
    started = time.monotonic()
    with tight.connection(request_head("PUT", "/createTask", b"Content-Length: 1000000")) as connection:
        connection.settimeout(0.02)
        is_open = True
        while is_open and time.monotonic() < started + 10:
            try:
                connection.sendall(b"x")
                is_open = connection.recv(1_000) != b""
            except TimeoutError:
                pass
            except OSError:
                is_open = False

    assert not is_open
    assert time.monotonic() - started < 3


def test_a_connection_may_rest_between_two_calls(tight: Caller) -> None:
    with tight.connection(request_head("GET", "/healthz")) as connection:
        assert tight.read_answer(connection, "GET", "/healthz").status_code == 200
        time.sleep(0.5)  # longer than a head may take
        connection.sendall(request_head("GET", "/readyz"))
        assert tight.read_answer(connection, "GET", "/readyz").status_code == 200


# What isn't HTTP


@pytest.mark.parametrize("start", [b"\x16\x03\x01\x02\x00", b"hello\r\n\r\n", b"GET\r\n\r\n"])
def test_what_is_not_http_gets_the_servers_own_400(a: Caller, start: bytes) -> None:
    with a.connection(start) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_calls_in_one_write_are_answered_in_order(a: Caller, uuid: str, queue: str) -> None:
    create = request_head("GET", f"/createTask?uuid={uuid}&queue={queue}&wait=0")
    query = request_head("GET", f"/queryTaskState?uuid={uuid}", b"Connection: close")

    with a.connection(create + query) as connection, connection.makefile("rb") as answers:
        text = answers.read()

    assert text.startswith(b"HTTP/1.1 202 ")
    assert b"HTTP/1.1 200 " in text
