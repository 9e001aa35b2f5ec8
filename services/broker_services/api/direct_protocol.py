"""The protocol of the API's connections: requests that have come whole begin without a task, where that can be.

All others, and those that turn out to need a task, go the way of any ASGI server, by `protocol.py` and uvicorn.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from typing import Any, Final, NamedTuple

from broker_services.api.answers import Answer
from broker_services.api.direct import DirectCall, Line
from broker_services.api.known_head import KnownHead, known_head, read_line
from broker_services.api.protocol import BoundedProtocol, HeadBounds
from broker_services.api.request_head import by_name
from broker_services.api.small_reads import SmallReads
from broker_services.api.whole_answer import rendered
from broker_services.api.whole_request import RequestLine, WholeRequest

Begin = Callable[[Line, WholeRequest], DirectCall | None]


class DirectPaths(NamedTuple):
    """Requests to `paths` are given to `begin`; it gives None, having done nothing, for one that needs a task."""

    paths: Container[str]
    begin: Begin


NO_PATHS: Final = DirectPaths((), lambda _line, _request: None)


def protocol_factory(bounds: HeadBounds, direct: DirectPaths = NO_PATHS) -> Callable[..., SmallReads]:
    """What uvicorn calls for each connection."""
    return partial(_make_protocol, bounds=bounds, direct=direct)


def _make_protocol(*args: Any, **kwargs: Any) -> SmallReads:
    return SmallReads(DirectProtocol(*args, **kwargs))


class DirectProtocol(BoundedProtocol):
    """One connection."""

    def __init__(self, *args: Any, direct: DirectPaths, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._direct = direct
        self._known: KnownHead | None = None
        # The chunk that is being parsed, if the parser stood between two requests before it.
        self._fresh = b""
        # A request to a direct path whose head is there, and the parts of its body.
        self._line: RequestLine | None = None
        self._parts: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        """Takes a request whose head is known as it is, and has anything else parsed."""
        is_fresh = not self._is_in_head and not self._is_in_message
        if is_fresh and self._known is not None and self._may_begin():
            request = self._known.request(data, self._bounds.most_bytes)
            if request is not None and request.path in self._direct.paths:
                if self._following is not None:
                    self._forget_read()
                if self._begin(request):
                    return
        self._fresh = data if is_fresh else b""
        super().data_received(data)
        self._fresh = b""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the calls on the connection."""
        cycles: tuple[Any, ...] = (*self._behind, self.cycle)
        for cycle in cycles:
            if isinstance(cycle, DirectCall):
                cycle.lose()
        super().connection_lost(exc)

    # What is parsed, by the parser's callbacks

    def begin_request(self) -> None:
        """Has a request to a direct path wait for its body, which mostly has come with the head."""
        line = self._direct_line()
        if line is None:
            super().begin_request()
        else:
            self._line, self._parts = line, []

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        if self._line is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._line is not None:
            headers, body = by_name(self.headers), b"".join(self._parts)
            line = self._line
            if self._begin(WholeRequest(line.method, line.path, line.query, headers, body=body)):
                self._line, self._parts = None, []
                self._is_in_message = False
                self._known = known_head(self._fresh, headers, body)
                return
            self._begin_by_task()
        super().on_message_complete()

    def end_chunk(self) -> None:
        """A body that has not come whole is read by a task."""
        if self._line is not None:
            self._begin_by_task()

    def _direct_line(self) -> RequestLine | None:
        """The request line of a request that may begin without a task as soon as its body is there."""
        if self.parser.get_http_version() != "1.1":
            # Whether such a connection is kept is said by other headers.
            return None
        line = read_line(b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url))
        if line is None or line.path not in self._direct.paths or not self._may_begin():
            return None
        is_special = self.expect_100_continue or self.parser.should_upgrade() or not self.parser.should_keep_alive()
        return None if is_special else line

    def _begin_by_task(self) -> None:
        parts, self._line, self._parts = self._parts, None, []
        super().begin_request()
        for part in parts:
            super().on_body(part)

    # Both

    def _may_begin(self) -> bool:
        """Whether nothing stands before a request on this connection."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and not self.pipeline and not self.flow.write_paused

    def _begin(self, request: WholeRequest) -> bool:
        call = self._direct.begin(self, request)
        if call is None:
            return False
        self.cycle = call  # type: ignore[assignment]  # it has what is looked at
        if request.body:
            # What it says was read; a connection keeps its last call.
            request.body = b""
        return True

    def write_answer(self, answer: Answer, *, closes: bool) -> None:
        """See `Line`."""
        self.corked.write_through(rendered(answer, self.server_state.default_headers, closes=closes))
        if closes:
            self.corked.close()
        self.on_response_complete()
