"""uvicorn with what a server of held calls needs besides: heads bounded in bytes and time, a SIGTERM that answers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from broker_services.api.corked import CorkedTransport
from broker_services.api.messages import Language
from broker_services.api.problems import HttpError, problem_answer

KEEP_ALIVE_S: Final = 75
"""Longer than the 60 s for which load balancers reuse a connection; a shorter one makes them answer 502 at times."""
BACKLOG: Final = 4_096


class HeadersTooLargeError(Exception):
    """Raised inside the HTTP parser, which then stops."""


def bounded_protocol(
    *, max_header_bytes: int, head_timeout_s: float, on_refused: Callable[[str], None] = lambda _code: None
) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with bounds on request line and headers together: on their bytes, where its own takes
    megabytes, and on their time, where its own waits for ever.

    Args:
        max_header_bytes: More is answered 431 and the connection closed.
        head_timeout_s: Seconds within which a head that has begun must be complete, else 408 and the connection closed.
        on_refused: Told of the problem's code for each head that was refused.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _header_bytes = 0
        _is_in_head = False
        _is_in_message = False
        _too_slow: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(CorkedTransport(transport, self.loop))  # type: ignore[arg-type]
            self._expect_next()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            # The parser tells of a header only when it is complete; one without an end is counted here.
            was_in_head, counted = self._is_in_head, self._header_bytes
            super().data_received(data)
            if was_in_head and self._is_in_head and self._header_bytes == counted:
                self._unfinished_bytes += len(data)
                if self._unfinished_bytes > max_header_bytes and not self.transport.is_closing():
                    self._refuse(_too_large(max_header_bytes))
            self._watch_time()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._header_bytes = self._unfinished_bytes = 0
            self._is_in_head = self._is_in_message = True

        def on_headers_complete(self) -> None:
            self._is_in_head = False
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._is_in_message = False
            super().on_message_complete()

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
                self._refuse(_too_large(max_header_bytes))

        def _is_answered(self) -> bool:
            """Whether nothing is owed to the caller."""
            return self.cycle is None or self.cycle.response_complete

        def _watch_time(self) -> None:
            """A head that has begun, or what follows of a body whose call is answered, must come to its end."""
            if self._is_in_head or (self._is_in_message and self._is_answered()):
                if self._too_slow is None:
                    self._too_slow = self.loop.call_later(head_timeout_s, self._give_up)
                return
            self._stop_clock()
            if not self._is_in_message and self._is_answered():
                self._expect_next()

        def _expect_next(self) -> None:
            """Nothing is on its way: closed unless something comes within the keep-alive time."""
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

        def _give_up(self) -> None:
            self._too_slow = None
            if self.transport.is_closing():
                return
            if not self._is_answered():
                # A call before this head is still held: its answer goes out first, and then the connection closes.
                self.cycle.keep_alive = False
            elif self._is_in_head:
                self._refuse(_head_too_slow(head_timeout_s))
            else:
                self.transport.close()

        def _stop_clock(self) -> None:
            if self._too_slow is not None:
                self._too_slow.cancel()
                self._too_slow = None

        def _refuse(self, error: HttpError) -> None:
            on_refused(error.code)
            if self._is_answered():
                self.transport.write(_last_words(error))
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


def _too_large(limit: int) -> HttpError:
    return HttpError("headers-too-large", f"Request line and headers have more than {limit} bytes; send less.")


def _head_too_slow(timeout_s: float) -> HttpError:
    return HttpError("request-timeout", f"Request line and headers did not arrive within {timeout_s:g} s; send again.")


def _last_words(error: HttpError) -> bytes:
    """An answer to a head that was never read to its end, after which the connection closes."""
    answer = problem_answer(error, path="", language=Language.ENGLISH)
    headers = [*answer.asgi_headers(), (b"connection", b"close")]
    head = b"".join(b"%s: %s\r\n" % header for header in headers)
    return b"%s%s\r\n%s" % (STATUS_LINE[answer.status], head, answer.body)
