"""A lean HTTP/1.1 client for thousands of connections: sockets and one epoll, a few µs a call, exact times of answers.

Every connection carries one call at a time. Times are those of `time.perf_counter`, taken when the last bytes of an
answer were read and before they were looked at.
"""

from __future__ import annotations

import json
import re
import select
import socket
import time
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

_MOST_EVENTS: Final = 1024
_CHUNK: Final = 65_536
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Answer(NamedTuple):
    """What came back on a connection, and when its last byte did."""

    connection: int
    at: float
    status: int
    body: bytes


def get(path: str) -> bytes:
    """A GET as it is sent."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, document: Any) -> bytes:
    """A POST of JSON as it is sent."""
    body = json.dumps(document, separators=(",", ":"))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


class Wire:
    """Connections by number."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._parts: dict[int, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._sockets.values():
            one.close()
        self._epoll.close()

    def open(self, url: str, count: int) -> list[int]:
        """Opens connections and gives their numbers."""
        parts = urlsplit(url)
        address = (parts.hostname or "127.0.0.1", parts.port or 80)
        opened = [socket.create_connection(address) for _ in range(count)]
        for one in opened:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._epoll.register(one.fileno(), select.EPOLLIN)
            self._sockets[one.fileno()] = one
        return [one.fileno() for one in opened]

    def send(self, connection: int, request: bytes) -> float:
        """Sends a call. Gives the time just before."""
        now = time.perf_counter()
        self._sockets[connection].sendall(request)
        return now

    def receive(self, count: int, *, deadline_s: float = 60.0) -> list[Answer]:
        """Waits for so many answers, on whichever connections.

        Raises:
            TimeoutError: Fewer came within `deadline_s` seconds.
            ConnectionError: A connection was closed by the other side.
        """
        answers: list[Answer] = []
        end = time.monotonic() + deadline_s
        while len(answers) < count:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(answers)} of {count} answers came within {deadline_s:g} s.")
            for connection, _ in self._epoll.poll(left, _MOST_EVENTS):
                data = self._sockets[connection].recv(_CHUNK)
                now = time.perf_counter()
                if not data:
                    raise ConnectionError("A connection was closed in the middle.")
                answer = self._read(connection, data, now)
                if answer is not None:
                    answers.append(answer)
        return answers

    def is_answered(self) -> bool:
        """Whether anything has come that was not received yet."""
        return bool(self._epoll.poll(0))

    def call(self, connection: int, request: bytes) -> Answer:
        """Sends a call and waits for its answer, when no other is owed. Raises RuntimeError when it is no 2xx."""
        self.send(connection, request)
        (answer,) = expect(self.receive(1))
        return answer

    def _read(self, connection: int, data: bytes, now: float) -> Answer | None:
        data = self._parts.pop(connection, b"") + data
        head, found, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or len(body) < (int(length[1]) if length else 0):
            self._parts[connection] = data
            return None
        return Answer(connection, now, int(head[9:12]), body)


def expect(answers: list[Answer], *statuses: int) -> list[Answer]:
    """Gives them back. Raises RuntimeError when one has another status than these, or no 2xx where none are named."""
    for answer in answers:
        if answer.status not in statuses if statuses else not 200 <= answer.status < 300:
            raise RuntimeError(f"An answer was {answer.status}: {answer.body[:300].decode(errors='replace')}")
    return answers
