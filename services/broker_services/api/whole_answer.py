"""Answers as bytes in one piece, past uvicorn's `send`.

uvicorn takes an answer apart into two messages, looks at each header with two regular expressions, and joins all of it
again: a quarter of what a short call costs here. What it keeps of a request's course is kept in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from broker_services.api.answers import COMMON_HEADERS, JSON, WITHOUT_BODY, Answer, Header
from broker_services.api.asgi import Send
from broker_services.api.corked import CorkedTransport

_CLOSES: Final[Header] = (b"connection", b"close")


def write_whole(answer: Answer, send: Send) -> bool:
    """Writes the answer, if that can be done at once; else it is left to `send`.

    Args:
        answer: What to write.
        send: ASGI's; of another server than uvicorn's, or with a caller who reads too slowly, nothing is done.
    """
    cycle = getattr(send, "__self__", None)
    if type(answer) is not Answer or type(cycle) is not RequestResponseCycle or not _is_ready(cycle):
        return False
    transport: Any = cycle.transport
    if cycle.disconnected:
        return True
    if _CLOSES in answer.headers:
        cycle.keep_alive = False
    written = rendered(answer, cycle.default_headers, closes=not cycle.keep_alive)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    transport.write_through(written)
    cycle.message_event.set()
    if not cycle.keep_alive:
        transport.close()
    cycle.on_response()
    return True


def _is_ready(cycle: RequestResponseCycle) -> bool:
    """Whether nothing has been written, anything can be, and an answer has a body."""
    transport: Any = cycle.transport
    is_free = not cycle.response_started and not cycle.flow.write_paused
    return is_free and cycle.scope["method"] != "HEAD" and isinstance(transport, CorkedTransport)


def rendered(answer: Answer, defaults: Sequence[Header], *, closes: bool) -> bytes:
    """An answer as it goes over the wire.

    Args:
        answer: What to write.
        defaults: The server's own headers: one list for all answers of a second.
        closes: Whether the connection ends with it, which the answer itself may say, too.
    """
    beginning = _beginnings.of(answer.status, defaults)
    has_own_headers = answer.headers or closes or answer.etag is not None or answer.content_type is not JSON
    if not has_own_headers and answer.status not in WITHOUT_BODY:
        return b"%s%s%d\r\n\r\n%s" % (beginning, _PLAIN, len(answer.body), answer.body)
    headers = answer.asgi_headers()
    if closes and _CLOSES not in headers:
        headers.append(_CLOSES)
    return b"%s%s\r\n%s" % (beginning, lines_of(headers), answer.body)


class _Beginnings:
    """Status lines with the headers that every answer of this second has, by status."""

    def __init__(self) -> None:
        self._defaults: Sequence[Header] = ()
        self._by_status: dict[int, bytes] = {}

    def of(self, status: int, defaults: Sequence[Header]) -> bytes:
        """The one for a status. uvicorn makes a new list of headers each second."""
        if defaults is not self._defaults:
            self._defaults, self._by_status = defaults, {}
        beginning = self._by_status.get(status)
        if beginning is None:
            beginning = self._by_status[status] = STATUS_LINE[status] + lines_of(defaults)
        return beginning


def lines_of(headers: Sequence[Header]) -> bytes:
    """Headers as HTTP has them. Raises RuntimeError for one that would be two."""
    lines = b"".join([b"%s: %s\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers):
        raise RuntimeError("A header of an answer holds a line break.")
    return lines


_beginnings = _Beginnings()
# Of JSON with no header but those that all such answers have.
_PLAIN: Final = lines_of([*COMMON_HEADERS, (b"content-type", JSON)]) + b"content-length: "
