"""uvicorn's HTTP protocol with bounds on request heads: on their bytes, where its own takes megabytes, and on their
time, where its own waits for ever. It also notices that a caller has left who sent more requests behind a held one.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Container, Sequence
from typing import Any, Final, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from broker_services.api.asgi import FLOW
from broker_services.api.corked import CorkedTransport
from broker_services.api.delivery import CONNECTION, Following, has_left, has_missed
from broker_services.api.messages import Language
from broker_services.api.problems import HttpError, problem_answer

MOST_PIPELINED: Final = 32
"""Requests read on one connection behind one that is held; more stay unread until it is answered."""

READER_TIMEOUT_S: Final = 30.0
"""How long a caller may take nothing of an answer that is too long for its connection's buffers."""
LAST_CHANCE_S: Final = 1.0
"""The same once this process ends."""
TIMER_STEP_S: Final = 0.001
"""What the loop's timers are exact to."""


class HeadersTooLargeError(Exception):
    """Raised inside the HTTP parser, which then stops."""


class HeadBounds(NamedTuple):
    """What a request head may take.

    `most_bytes`: request line and headers together; more is answered 431 and the connection closed. `timeout_s`:
    seconds within which a head that has begun must be complete, else 408 and the same. `on_refused`: told the code.
    `unread_paths`: where a body is left unread until the application asks for it.
    """

    most_bytes: int
    timeout_s: float
    on_refused: Callable[[str], None] = lambda _code: None
    unread_paths: Container[str] = ()


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    corked: CorkedTransport

    def __init__(self, *args: Any, bounds: HeadBounds, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        # Bytes received since the present head began, its body's beginning included.
        self._received = 0
        self._chunk = 0
        self._is_too_large = False
        self._is_in_head = False
        self._is_in_message = False
        self.takes_long_reads = False
        self._too_slow: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._behind: Sequence[RequestResponseCycle] = ()
        self._following: Following | None = None
        self._idle_since = 0.0
        self.on_closed: Callable[[], None] | None = None
        # Weak, since the scope is the protocol's own: a circle would outlive each connection.
        self._reference = weakref.ref(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Opens the connection, which must say something within the keep-alive time."""
        self.corked = CorkedTransport(transport, self.loop)
        super().connection_made(self.corked)  # type: ignore[arg-type]
        self._expect_next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells every request on the connection, where uvicorn tells only the one that came last."""
        self._stop_clock()
        self._forget_stall()
        self._stop_waiting()
        for cycle in self._behind:
            cycle.disconnected = True
            cycle.message_event.set()
        if self._following is not None:
            self._end_following(is_lost=self.flow.write_paused)
        super().connection_lost(exc)
        if self.on_closed is not None:
            self.on_closed()

    def eof_received(self) -> None:
        """The caller has closed its end; what has not reached it by now never will."""
        if self._following is not None:
            self._end_following(is_lost=self._has_unsent() or has_missed(self._descriptor))

    def data_received(self, data: bytes) -> None:
        """Parses, and refuses a head that is too long before it has an end."""
        self._chunk = len(data)
        self._received += self._chunk
        super().data_received(data)
        self.end_chunk()
        if self._is_in_head and self._received > self._bounds.most_bytes and not self.transport.is_closing():
            self._refuse(_too_large(self._bounds.most_bytes))
        self._watch_time()

    def end_chunk(self) -> None:
        """All that has come is parsed."""

    # Slow readers

    def pause_writing(self) -> None:
        """The caller takes less than it is given: whoever writes to it waits, but not for ever."""
        super().pause_writing()
        self._let_go_after(READER_TIMEOUT_S)

    def resume_writing(self) -> None:
        """The caller has taken most of it."""
        self._forget_stall()
        super().resume_writing()

    def shutdown(self) -> None:
        """This process ends, and with it its patience."""
        super().shutdown()
        if self._stalled is not None:
            self._let_go_after(LAST_CHANCE_S)

    def _let_go_after(self, seconds: float) -> None:
        self._forget_stall()
        # Not closed: that would wait until everything is taken.
        self._stalled = self.loop.call_later(seconds, self.transport.abort)

    def _forget_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    # Of the parser

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self.scope[CONNECTION] = self._reference  # type: ignore[typeddict-unknown-key]
        self._forget_read()
        self._received = self._chunk
        self._is_in_head = self._is_in_message = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; what comes behind a chunked body is nobody's, and not kept."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is complete: what came with it may have been its body, so only a long one is counted exactly."""
        if self._received > self._bounds.most_bytes and self._head_bytes() > self._bounds.most_bytes:
            self._is_too_large = True
            raise HeadersTooLargeError
        self._is_in_head = False
        self.begin_request()

    def begin_request(self) -> None:
        """Starts the application's task, or has it wait for the one before it on this connection."""
        previous = self.cycle
        super().on_headers_complete()
        if self.pipeline:
            self._read_on(previous)
        elif self.scope["path"] in self._bounds.unread_paths:
            self.scope[FLOW] = self.flow  # type: ignore[typeddict-unknown-key]  # an extension
            self.takes_long_reads = True
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        """A piece of a body. Of one that is left unread, no other piece shall come before somebody asks for it; when
        the call is answered already, nobody will, and the rest is read to get it out of the way."""
        super().on_body(body)
        if self.takes_long_reads and not self._is_answered():
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._is_in_message = self.takes_long_reads = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """The parser has stopped: at what is not HTTP, or at a head that is too long."""
        if self._is_too_large:
            self._refuse(_too_large(self._bounds.most_bytes))
        else:
            super().send_400_response(msg)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _read_on(self, previous: RequestResponseCycle) -> None:
        """uvicorn stops reading at a pipelined request, and would not notice that the caller of a held one left."""
        self._behind = [cycle for cycle in (*self._behind, previous) if not cycle.response_complete]
        if len(self.pipeline) <= MOST_PIPELINED:
            self.flow.resume_reading()

    # Answers that must not be lost unnoticed

    def follow(self, on_lost: Callable[[], None]) -> Following | None:
        """Has `on_lost` called when the answer that is written next turns out to have reached nobody.

        Where that is so already, it is called at once, and None returned: there is no use in writing.
        """
        if self.transport.is_closing() or has_left(self._descriptor):
            on_lost()
            return None
        self._following = Following(on_lost)
        return self._following

    def _end_following(self, *, is_lost: bool) -> None:
        following, self._following = self._following, None
        if following is not None and (is_lost or not following.is_written):
            following.on_lost()

    def _forget_read(self) -> None:
        """Whoever asks on has read the answer before."""
        if self._following is not None and self._following.is_written:
            self._following = None

    def _has_unsent(self) -> bool:
        return self.transport.get_write_buffer_size() > 0

    @property
    def _descriptor(self) -> int:
        descriptor: int = self.transport.get_extra_info("socket").fileno()
        return descriptor

    # Between requests

    def on_response_complete(self) -> None:
        """Goes on to the request that was sent behind the one that is answered, or waits for another."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._expect_next()

    def _expect_next(self) -> None:
        """Nothing is on its way: closed unless something comes within the keep-alive time.

        One timer serves all pauses of a connection; uvicorn makes one a request, and cancels it at the next.
        """
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_for(self.timeout_keep_alive)

    def _wait_for(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Closes, if the present pause is as old as the timer."""
        self.timeout_keep_alive_task = None
        if not self._is_between_requests():
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > TIMER_STEP_S:
            self._wait_for(left)
        else:
            super().timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        """The timer goes on: when it is over, it looks at how long the pause has been."""

    def _stop_waiting(self) -> None:
        super()._unset_keepalive_if_required()

    def _is_between_requests(self) -> bool:
        return not self._is_in_head and not self._is_in_message and self._is_answered()

    # Time

    def _is_answered(self) -> bool:
        """Whether nothing is owed to the caller."""
        return self.cycle is None or self.cycle.response_complete

    def _watch_time(self) -> None:
        """A head that has begun, or what follows of a body whose call is answered, must come to its end."""
        if self._is_in_head or (self._is_in_message and self._is_answered()):
            if self._too_slow is None:
                self._too_slow = self.loop.call_later(self._bounds.timeout_s, self._give_up)
            return
        self._stop_clock()
        if not self._is_in_message and self._is_answered():
            self._expect_next()

    def _give_up(self) -> None:
        self._too_slow = None
        if self.transport.is_closing():
            return
        if not self._is_answered():
            # A call before this head is still held: its answer goes out first, and then the connection closes.
            self.cycle.keep_alive = False
        elif self._is_in_head:
            self._refuse(_head_too_slow(self._bounds.timeout_s))
        else:
            self.transport.close()

    def _stop_clock(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def _refuse(self, error: HttpError) -> None:
        self._bounds.on_refused(error.code)
        if self._is_answered():
            self.transport.write(_last_words(error))
        self.transport.close()


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
