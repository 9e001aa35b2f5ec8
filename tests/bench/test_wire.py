"""The client of the benchmarks: whole answers, and whether one has come before it was asked for."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.bench import wire
from tests.bench.wire import Wire

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Takes connections; the test answers them."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_an_answer_that_nobody_received_yet_is_seen(listener: socket.socket) -> None:
    with Wire() as client:
        (connection,) = client.open(f"http://127.0.0.1:{listener.getsockname()[1]}", 1)
        client.send(connection, wire.get("/"))
        server, _ = listener.accept()
        with server:
            assert not client.is_answered()
            server.sendall(ANSWER[:-2])
            deadline = time.monotonic() + 10
            while not client.is_answered():
                assert time.monotonic() < deadline
            server.sendall(ANSWER[-2:])
            (answer,) = client.receive(1)
            assert (answer.connection, answer.status, answer.body) == (connection, 200, b"body")
            assert not client.is_answered()
