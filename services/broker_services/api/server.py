"""uvicorn with what a server of held calls needs besides: bounded headers, and a SIGTERM that answers first."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from broker_services.api.corked import CorkedTransport
from broker_services.api.messages import Language
from broker_services.api.problems import HttpError, problem_answer

KEEP_ALIVE_S: Final = 75
"""Longer than the 60 s for which load balancers reuse a connection; a shorter one makes them answer 502 at times."""
BACKLOG: Final = 4_096
MOST_PIPELINED: Final = 32
"""Requests read on one connection behind one that is held; more stay unread until it is answered."""


class HeadersTooLargeError(Exception):
    """Raised inside the HTTP parser, which then stops."""


def bounded_protocol(max_header_bytes: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with a bound on request line and headers together, where its own takes megabytes.

    It also notices that a caller has left who sent more requests behind a held one.

    Args:
        max_header_bytes: More is answered 431 and the connection closed.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _header_bytes = 0
        _is_in_head = False
        _behind: Sequence[RequestResponseCycle] = ()

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(CorkedTransport(transport, self.loop))  # type: ignore[arg-type]

        def data_received(self, data: bytes) -> None:
            # The parser tells of a header only when it is complete; one without an end is counted here.
            was_in_head, counted = self._is_in_head, self._header_bytes
            super().data_received(data)
            if was_in_head and self._is_in_head and self._header_bytes == counted:
                self._unfinished_bytes += len(data)
                if self._unfinished_bytes > max_header_bytes and not self.transport.is_closing():
                    self._refuse()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._header_bytes = self._unfinished_bytes = 0
            self._is_in_head = True

        def on_headers_complete(self) -> None:
            self._is_in_head = False
            previous = self.cycle
            super().on_headers_complete()
            if self.pipeline:
                self._read_on(previous)

        def _read_on(self, previous: RequestResponseCycle) -> None:
            """uvicorn stops reading at a pipelined request, and would not notice that the caller of a held one left."""
            self._behind = [cycle for cycle in (*self._behind, previous) if not cycle.response_complete]
            if len(self.pipeline) <= MOST_PIPELINED:
                self.flow.resume_reading()

        def connection_lost(self, exc: Exception | None) -> None:
            # uvicorn tells only the request that came last.
            for cycle in self._behind:
                cycle.disconnected = True
                cycle.message_event.set()
            super().connection_lost(exc)

        def on_url(self, url: bytes) -> None:
            self._count(url)
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(name, value)
            super().on_header(name, value)

        def send_400_response(self, msg: str) -> None:
            if self._header_bytes <= max_header_bytes:
                super().send_400_response(msg)
            else:
                self._refuse()

        def _refuse(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_too_large(max_header_bytes))
            self.transport.close()

        def _count(self, *parts: bytes) -> None:
            self._header_bytes += sum(len(part) for part in parts)
            if self._header_bytes > max_header_bytes:
                raise HeadersTooLargeError

    return BoundedProtocol


class DrainingServer(uvicorn.Server):
    """Answers the held calls before it waits for their connections, and exits 0 after a signal.

    Args:
        config: uvicorn's.
        on_drain: Called once, when the first signal has come.
    """

    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_drain = on_drain

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        self._on_drain()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises the signal again when it is done, which would make an orderly end look like a kill."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._take_signal)
        yield

    def _take_signal(self) -> None:
        # A second signal means now.
        self.force_exit = self.should_exit
        self.should_exit = True


def _too_large(limit: int) -> bytes:
    error = HttpError("headers-too-large", f"Request line and headers have more than {limit} bytes; send less.")
    answer = problem_answer(error, path="", language=Language.ENGLISH)
    headers = [*answer.asgi_headers(), (b"connection", b"close")]
    head = b"".join(b"%s: %s\r\n" % header for header in headers)
    return b"HTTP/1.1 431 Request Header Fields Too Large\r\n%s\r\n%s" % (head, answer.body)
