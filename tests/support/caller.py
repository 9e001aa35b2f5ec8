"""A caller of one instance. Values (`payload`, `result`, `error`) are JSON texts, so that tests choose every byte."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from tests.support.promises import check_answer

VALUE_FIELDS: Final = ("payload", "result", "error", "progress")
TIMEOUT_S: Final = 20.0

Headers = Mapping[str, str]


class Caller:
    """Calls one instance and checks each answer for what all answers promise.

    Args:
        url: The instance.
        http: The client to use.
        threads: Where held calls wait.
    """

    def __init__(self, url: str, http: httpx.Client, threads: ThreadPoolExecutor) -> None:
        self.url = url
        self._http = http
        self._threads = threads

    def call(self, method: str, target: str, **options: Any) -> httpx.Response:
        """One call; `options` are httpx's."""
        answer = self._http.request(method, self.url + target, **options)
        check_answer(method, target.partition("?")[0], answer)
        return answer

    def later(self, method: str, target: str, **options: Any) -> Future[httpx.Response]:
        """The same without waiting for the answer."""
        return self._threads.submit(self.call, method, target, **options)

    # The operations

    def create(self, *, by: str = "POST", headers: Headers | None = None, **fields: Any) -> httpx.Response:
        """createTask by POST or GET; holds nothing unless `wait` says so."""
        return self.call(by, **_request(by, "/createTask", {"wait": 0, **fields}, headers))

    def create_later(
        self, *, by: str = "POST", headers: Headers | None = None, **fields: Any
    ) -> Future[httpx.Response]:
        """A held createTask."""
        return self.later(by, **_request(by, "/createTask", {"wait": 10, **fields}, headers))

    def query(self, uuid: str, *, headers: Headers | None = None, **fields: Any) -> httpx.Response:
        """queryTaskState."""
        return self.call("GET", **_request("GET", "/queryTaskState", {"uuid": uuid, **fields}, headers))

    def query_later(self, uuid: str, *, headers: Headers | None = None, **fields: Any) -> Future[httpx.Response]:
        """A held queryTaskState."""
        return self.later("GET", **_request("GET", "/queryTaskState", {"uuid": uuid, "wait": 10, **fields}, headers))

    def change(self, uuid: str, *, by: str = "POST", headers: Headers | None = None, **fields: Any) -> httpx.Response:
        """changeTaskState by POST or GET."""
        return self.call(by, **_request(by, "/changeTaskState", {"uuid": uuid, **fields}, headers))

    def change_raw(self, uuid: str, content: bytes, media_type: str | None, **parameters: str) -> httpx.Response:
        """changeTaskState with a body of the sender's own format."""
        headers = {} if media_type is None else {"content-type": media_type}
        target = "/changeTaskState?" + str(httpx.QueryParams({"uuid": uuid, "raw": "1", **parameters}))
        return self.call("POST", target, content=content, headers=headers)

    def cancel(self, uuid: str, *, headers: Headers | None = None) -> httpx.Response:
        """cancelTask."""
        return self.call("POST", **_request("POST", "/cancelTask", {"uuid": uuid}, headers))

    def claim(self, *queues: str, **fields: Any) -> httpx.Response:
        """claimTask; holds nothing unless `wait` says so."""
        return self.call("POST", **_request("POST", "/claimTask", {"queues": queues, **fields}, None))

    def claim_later(self, *queues: str, **fields: Any) -> Future[httpx.Response]:
        """A held claimTask."""
        return self.later("POST", **_request("POST", "/claimTask", {"queues": queues, "wait": 10, **fields}, None))

    def heartbeat(self, uuid: str, lease: str, **fields: Any) -> httpx.Response:
        """heartbeatTask."""
        return self.call("POST", **_request("POST", "/heartbeatTask", {"uuid": uuid, "lease": lease, **fields}, None))

    def release(self, uuid: str, lease: str, **fields: Any) -> httpx.Response:
        """releaseTask."""
        return self.call("POST", **_request("POST", "/releaseTask", {"uuid": uuid, "lease": lease, **fields}, None))

    # Below httpx, which would normalise or refuse some requests

    @contextmanager
    def connection(self, start: bytes) -> Iterator[socket.socket]:
        """A connection on which `start` has been sent."""
        address = urlsplit(self.url)
        with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S) as connection:
            connection.sendall(start)
            yield connection

    def exchange(self, method: str, target: str, *lines: bytes, body: bytes = b"") -> httpx.Response:
        """Sends these very bytes and reads the answer."""
        with self.connection(request_head(method, target, *lines) + body) as connection:
            return self.read_answer(connection, method, target)

    def read_answer(self, connection: socket.socket, method: str, target: str) -> httpx.Response:
        """Reads and checks the answer to a request that was sent by hand."""
        with http.client.HTTPResponse(connection, method=method) as answer:
            answer.begin()
            response = httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())
        check_answer(method, target.partition("?")[0], response)
        return response


def request_head(method: str, target: str, *lines: bytes) -> bytes:
    """Request line and headers, as bytes."""
    start = f"{method} {target} HTTP/1.1".encode()
    return b"\r\n".join([start, b"Host: test", *lines, b"", b""])


def json_object(fields: Mapping[str, Any]) -> bytes:
    """The body that a POST takes: values as they are, other fields encoded."""
    members = [
        f"{json.dumps(name)}:{field if name in VALUE_FIELDS else json.dumps(field)}" for name, field in fields.items()
    ]
    return "{{{}}}".format(",".join(members)).encode()


def value_bytes(answer: httpx.Response, name: str) -> bytes:
    """A member of the answer, byte for byte."""
    return bytes(msgspec.json.decode(answer.content, type=dict[str, msgspec.Raw])[name])


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem."""
    return answer.status_code, answer.json()["code"]


def _request(by: str, path: str, fields: Mapping[str, Any], headers: Headers | None) -> dict[str, Any]:
    if by == "POST":
        return {
            "target": path,
            "content": json_object(fields),
            "headers": {"content-type": "application/json", **(headers or {})},
        }
    texts = {name: field if isinstance(field, str) else json.dumps(field) for name, field in fields.items()}
    return {"target": f"{path}?{httpx.QueryParams(texts)}", "headers": headers}
