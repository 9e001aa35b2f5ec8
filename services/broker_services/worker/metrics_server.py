"""Serves `/metrics` of a process that otherwise listens nowhere: one small HTTP answer a connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from http import HTTPStatus
from typing import Final, NamedTuple, Self

from broker.errors import ConfigurationError
from broker_services.media_types import TEXT_TYPE
from broker_services.metrics import Metrics

log = logging.getLogger("broker.worker")

HEAD_MAX_BYTES: Final = 8_192
TIMEOUT_S: Final = 5.0
"""For a whole exchange: nobody holds a connection here."""


class _Page(NamedTuple):
    """An answer."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT_TYPE


class MetricsServer:
    """A listener for scrapes. A context manager.

    Args:
        metrics: What to show.
        host: Where to listen.
        port: The same.

    Raises:
        ConfigurationError: On entry: nothing can listen there.
    """

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self._metrics = metrics
        self._host = host
        self._port = port

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=HEAD_MAX_BYTES)
        except OSError as error:
            raise ConfigurationError(
                f"Metrics cannot be served on {self._host}:{self._port} ({error.strerror or error}): choose another "
                "--metrics-port."
            ) from None
        log.info("Metrics are served on %s:%d.", self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not waited for: an answer on its way is nobody's loss.
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_http(self._page(head.decode("latin-1"))))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # Whoever asks too slowly or too much gets nothing.
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _page(self, head: str) -> _Page:
        line, *headers = head.split("\r\n")
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if path != "/metrics":
            return _Page(HTTPStatus.NOT_FOUND, b"Only /metrics is served here.\n")
        if method != "GET":
            return _Page(HTTPStatus.METHOD_NOT_ALLOWED, b"/metrics takes GET.\n")
        accept = [value for name, _, value in (header.partition(":") for header in headers) if name.lower() == "accept"]
        return _Page(HTTPStatus.OK, *self._metrics.render(",".join(accept)))


def _http(page: _Page) -> bytes:
    head = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\nContent-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + page.body
