"""The listener for scrapes of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker import Worker
from broker.errors import ConfigurationError
from broker.store.embedded import free_port
from broker_services.metrics import Metrics
from broker_services.worker import metrics_server
from broker_services.worker.metrics import worker_metrics
from broker_services.worker.metrics_server import HEAD_MAX_BYTES, MetricsServer
from tests.support.metrics import OPENMETRICS, Numbers


@pytest.fixture
def metrics() -> Metrics:
    worker = Worker()
    worker.measures.bells_heard = 7
    worker.measures.executions["q", "succeeded"].observe(0.5)
    return Metrics(lambda: worker_metrics(worker))


@pytest.fixture
async def port(metrics: Metrics) -> AsyncIterator[int]:
    port = free_port()
    async with MetricsServer(metrics, "127.0.0.1", port):
        yield port


async def exchange(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


async def get(port: int, target: str = "/metrics", *headers: str, method: str = "GET") -> tuple[bytes, bytes]:
    """Head and body."""
    lines = (f"{method} {target} HTTP/1.1", "Host: t", *headers, "", "")
    head, _, body = (await exchange(port, "\r\n".join(lines).encode())).partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("target", ["/metrics", "/metrics?name[]=x"])
async def test_numbers_are_served(port: int, target: str) -> None:
    head, body = await get(port, target)

    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n")
    numbers = Numbers(body.decode(), "text/plain")
    assert numbers("broker_bells_heard_total") == 7
    assert numbers("broker_bells_missed_total") == 0
    assert numbers("broker_execution_seconds_count", queue="q", outcome="succeeded") == 1
    assert numbers("process_open_fds") > 0


async def test_openmetrics_is_spoken(port: int) -> None:
    head, body = await get(port, "/metrics", f"ACCEPT: {OPENMETRICS};version=1.0.0", "X: y")

    assert f"Content-Type: {OPENMETRICS}".encode() in head
    assert Numbers(body.decode(), OPENMETRICS)("broker_bells_heard_total") == 7


@pytest.mark.parametrize(
    ("method", "target", "status"), [("GET", "/", b"404"), ("GET", "", b"404"), ("POST", "/metrics", b"405")]
)
async def test_nothing_else_is(port: int, method: str, target: str, status: bytes) -> None:
    head, _ = await get(port, target, method=method)

    assert head.split()[1] == status


async def test_who_is_too_slow_or_sends_too_much_gets_nothing(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "TIMEOUT_S", 0.05)

    assert await exchange(port, b"GET /metrics HTTP/1.1\r\n") == b""
    assert await exchange(port, b"x" * HEAD_MAX_BYTES * 2) == b""
    assert (await get(port))[0].startswith(b"HTTP/1.1 200 ")


async def test_a_port_that_is_taken_is_told(port: int, metrics: Metrics) -> None:
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}.*--metrics-port"):
        async with MetricsServer(metrics, "127.0.0.1", port):
            pass
