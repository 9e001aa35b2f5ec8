"""What nobody sends by accident: it is refused in time, changes nothing, and tells nothing of anybody else."""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import quote

import pytest

from tests.support.caller import Caller, code_of, request_head

# What would mean something to a pattern, a hash tag, a path, a header or a terminal.
STRANGE: Final = (
    *("*", "a*", "?", "[a-z]", "{broker}", "{a}:b", "a{", "}", "\\", "../a", "a/b", "a%", "a b", " a", "a\t"),
    *("a\r\nSet-Cookie: x=1", "a\n", "\n", "a\0", "\0", "\x1b[2J", "ä", "日本", "\ud800", "-a", "a'b", 'a"b', "$(a)"),
)
PATHS: Final = ("/createTask", "/changeTaskState", "/cancelTask")
END_S: Final = 10.0
CLOSE: Final = b"Connection: close"
JSON_LINE: Final = b"Content-Type: application/json"
CHUNKED: Final = b"Transfer-Encoding: chunked"


def said(a: Caller, request: bytes) -> bytes:
    """Everything that the server answers before it closes the connection."""
    with a.connection(request) as connection:
        connection.settimeout(END_S)
        parts = []
        try:
            while part := connection.recv(65_536):
                parts.append(part)
        except ConnectionResetError:
            # It closes without reading what is no request.
            pass
    answer = b"".join(parts)
    assert not any(line.startswith(b"HTTP/1.1 500") for line in answer.split(b"\r\n")), answer
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(line[9:12]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


# Names


@pytest.mark.parametrize("name", STRANGE, ids=ascii)
def test_a_strange_name_names_nothing(a: Caller, name: str) -> None:
    for path in PATHS:
        for field in ("uuid", "queue") if path == "/createTask" else ("uuid",):
            answer = a.call(
                "POST", path, content=json.dumps({field: name, **({"wait": 0} if "create" in path else {})})
            )
            assert answer.status_code in (400, 422)
            assert "set-cookie" not in answer.headers
    encoded = quote(name.encode("utf-8", "surrogatepass"), safe="")
    for target in (f"/createTask?wait=0&uuid={encoded}", f"/changeTaskState?uuid={encoded}"):
        assert a.call("GET", target).status_code == 422
    assert a.call("GET", f"/queryTaskState?uuid={encoded}").status_code == 422


@pytest.mark.parametrize("length", [129, 10_000, 250_000])
def test_a_long_name_is_refused(a: Caller, length: int) -> None:
    for path in PATHS:
        assert code_of(a.call("POST", path, json={"uuid": "a" * length})) == (422, "invalid-request")


@pytest.mark.parametrize("path", PATHS)
def test_a_name_of_a_million_characters_is_refused(a: Caller, path: str) -> None:
    assert code_of(a.call("POST", path, json={"uuid": "a" * 1_000_000})) == (413, "payload-too-large")


def test_a_query_tells_only_of_the_task_that_it_names(a: Caller, uuid: str, queue: str) -> None:
    numbers = range(100)
    for number in numbers:
        a.create(uuid=f"{uuid}-{number}", queue=queue, payload=f'"secret {number}"')
        a.change(f"{uuid}-{number}", result=f'"of {number}"')

    answers = [a.query_later(f"{uuid}-{number}") for number in numbers]

    for number, answer in zip(numbers, answers, strict=True):
        document = answer.result().json()
        assert (document["uuid"], document["result"]) == (f"{uuid}-{number}", f"of {number}")
        assert "secret" not in answer.result().text


# Headers and request lines


@pytest.mark.parametrize("name", ["X-Long", "Idempotency-Key", "Prefer", "Accept-Language", "Cookie"])
def test_a_header_of_five_megabytes_is_refused_before_it_is_read(a: Caller, name: str) -> None:
    with a.connection(request_head("GET", "/healthz")[:-2] + name.encode() + b": ") as connection:
        connection.settimeout(END_S)
        try:
            for _ in range(80):
                connection.sendall(b"x" * 65_536)
            answer = connection.recv(1_000)
        except (ConnectionResetError, BrokenPipeError):
            return
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "target",
    [
        b"/queryTaskState?uuid=\xff",
        b"/queryTaskState?uuid=%ff",
        b"/queryTaskState?uuid=%c3%28",
        b"/queryTaskState?uuid=%",
        b"/queryTaskState?%ff=a",
        b"/queryTaskState?uuid=a%00",
        b"/queryTaskState?uuid=a\0",
        b"/\xff",
        b"/%ff",
        b"/\0",
        b"//evil.example/healthz/",
        b"http://evil.example/nothing",
        b"http://[/nothing",
        b"*",
        b"evil.example:443",
        b"/queryTaskState?" + b"a=1&" * 5_000,
        b"/queryTaskState?" + b"uuid=a&" * 500,
        b"/queryTaskState" + b"?" * 1_000,
        b"/queryTaskState" + b"#" * 1_000,
    ],
    ids=lambda target: ascii(target[:40]),
)
def test_a_strange_target_is_refused(a: Caller, target: bytes) -> None:
    answer = said(a, b"GET %s HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n" % target)

    assert answer == b"" or statuses(answer)[0] in (400, 404, 405, 422)


def test_a_target_in_absolute_form_is_served(a: Caller) -> None:
    assert statuses(said(a, b"GET http://t/healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")) == [200]


@pytest.mark.parametrize(
    "value", [b"\xff\xfe", b"\xc3\x28", b"=?utf-8?q?x?=", b'"', b"\\", b"wait=\xff", b"\x80" * 200]
)
@pytest.mark.parametrize("name", [b"Idempotency-Key", b"Prefer", b"Accept-Language", b"If-None-Match", b"Host"])
def test_a_header_of_any_bytes_is_no_defect(a: Caller, uuid: str, name: bytes, value: bytes) -> None:
    head = request_head("GET", f"/createTask?uuid={uuid}&wait=0", name + b": " + value, CLOSE)

    assert statuses(said(a, head))[0] in (202, 400, 422)


@pytest.mark.parametrize("line", [b"X: a\0b", b"X\0: a", b": a", b"X a", b" X: a", b"X : a", b"X: a\rY: b"])
def test_a_malformed_header_creates_nothing(a: Caller, uuid: str, line: bytes) -> None:
    answer = said(a, request_head("GET", f"/createTask?uuid={uuid}&wait=0", line, CLOSE))

    if statuses(answer)[:1] != [202]:
        assert a.query(uuid).status_code == 404


def test_http_1_0_is_served_and_the_connection_closed(a: Caller, uuid: str, queue: str) -> None:
    answer = said(a, f"GET /createTask?uuid={uuid}&queue={queue}&wait=0 HTTP/1.0\r\n\r\n".encode())

    assert statuses(answer) == [202]
    assert a.query(uuid).json()["uuid"] == uuid


# Bodies


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b'{"uuid":"\xff"}',
        b'{"\xc3\x28":1}',
        b'{"payload":"\xed\xa0\x80"}',
        b"\xff\xfe{\0}\0",
        b"\xef\xbb\xbf{}",
        b'{"uuid":"a\0"}',
    ],
)
def test_a_body_of_invalid_text_is_refused(a: Caller, path: str, body: bytes) -> None:
    assert a.call("POST", path, content=body).status_code in (400, 422)


def test_a_task_with_zero_characters_comes_back_as_it_went(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)

    assert a.change(uuid, result='"a\\u0000b"').json()["result"] == "a\0b"


def chunked(uuid: str, wrap: bytes) -> bytes:
    body = json.dumps({"uuid": uuid, "wait": 0}).encode()
    return request_head("POST", "/createTask", JSON_LINE, CHUNKED, CLOSE) + wrap % (len(body), body)


@pytest.mark.parametrize(
    "wrap",
    [
        b"%x;name=value\r\n%s\r\n0\r\n\r\n",
        b'%x;name="quoted; \\" value"\r\n%s\r\n0\r\n\r\n',
        b"%x\r\n%s\r\n0\r\nX-Trailer: a\r\n\r\n",
        b"0000%x\r\n%s\r\n0\r\n\r\n",
    ],
)
def test_unusual_chunks_are_read(a: Caller, uuid: str, wrap: bytes) -> None:
    assert statuses(said(a, chunked(uuid, wrap))) == [202]
    assert a.query(uuid).status_code == 200


@pytest.mark.parametrize(
    "wrap",
    [
        b"-%x\r\n%s\r\n0\r\n\r\n",
        b"0x%x\r\n%s\r\n0\r\n\r\n",
        b"g%x\r\n%s\r\n0\r\n\r\n",
        b"fffffffffffffffff%x\r\n%s\r\n0\r\n\r\n",
        b"\r\n%x\r\n%s\r\n0\r\n\r\n",
        b"%x\r\n%sxx\r\n0\r\n\r\n",
    ],
)
def test_malformed_chunks_create_nothing(a: Caller, uuid: str, wrap: bytes) -> None:
    answer = said(a, chunked(uuid, wrap))

    assert answer == b"" or statuses(answer)[0] in (400, 408, 413)
    assert a.query(uuid).status_code == 404


def test_a_huge_chunk_is_not_waited_for(tight: Caller) -> None:
    head = request_head("POST", "/createTask", JSON_LINE, CHUNKED, CLOSE)

    assert statuses(said(tight, head + b"fffffffffffffff\r\n" + b" " * 5_000))[0] == 413


def test_endless_trailers_are_not_kept(tight: Caller) -> None:
    head = request_head("POST", "/cancelTask", JSON_LINE, CHUNKED, CLOSE)
    trailers = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 100) for number in range(500))

    answer = said(tight, head + b"2\r\n{}\r\n0\r\n" + trailers)

    # The connection may be closed while the call is on its way.
    assert answer == b"" or statuses(answer)[0] in (400, 408, 422, 431)


# Two readers of one connection must see the same requests


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 2", b"Content-Length: 60"),
        (b"Content-Length: 2, 60",),
        (b"Content-Length: +2",),
        (b"Content-Length: -2",),
        (b"Content-Length: 0x2",),
        (b"Content-Length: 2 2",),
        (b"Content-Length: 99999999999999999999999",),
        (b"Content-Length: 2", CHUNKED),
        (CHUNKED, b"Content-Length: 2"),
        (b"Transfer-Encoding: identity, chunked", b"Content-Length: 2"),
        (b"Transfer-Encoding: chunked, identity",),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding : chunked", b"Content-Length: 2"),
        (b"Transfer-Encoding:\x0bchunked", b"Content-Length: 2"),
        (b"Content-Length : 2",),
    ],
    ids=lambda lines: ascii(b" | ".join(lines)),
)
def test_a_request_of_two_lengths_is_refused_and_nothing_behind_it_read(
    a: Caller, uuid: str, lines: tuple[bytes, ...]
) -> None:
    hidden = request_head("GET", f"/createTask?uuid={uuid}&wait=0", CLOSE)

    answer = said(a, request_head("POST", "/cancelTask", JSON_LINE, *lines) + b"{}" + hidden)

    assert answer == b"" or statuses(answer) in ([400], [413])
    assert a.query(uuid).status_code == 404


def test_a_sender_that_asks_first_is_told_to_go_on(a: Caller, uuid: str, queue: str) -> None:
    body = json.dumps({"uuid": uuid, "queue": queue, "wait": 0}).encode()
    head = request_head("POST", "/createTask", JSON_LINE, b"Expect: 100-continue", b"Content-Length: %d" % len(body))

    with a.connection(head) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert a.read_answer(connection, "POST", "/createTask").status_code == 202
