"""Writes an answer that is complete in one piece, past uvicorn's `send`.

uvicorn takes an answer apart into two messages, looks at each header with two regular expressions, and joins all of it
again: a quarter of what a short call costs here. What it keeps of a request's course is kept in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from broker_services.api.answers import Answer, Header
from broker_services.api.asgi import Send
from broker_services.api.corked import CorkedTransport


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
    headers = answer.asgi_headers()
    if (b"connection", b"close") in headers:
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        headers.append((b"connection", b"close"))
    head = b"%s%s\r\n" % (_beginning(answer.status, *cycle.default_headers), lines_of(headers))
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    transport.write_through(head + answer.body)
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


@lru_cache(maxsize=64)
def _beginning(status: int, *defaults: Header) -> bytes:
    """The status line and the headers that every answer of this second has."""
    return STATUS_LINE[status] + lines_of(defaults)


def lines_of(headers: Sequence[Header]) -> bytes:
    """Headers as HTTP has them. Raises RuntimeError for one that would be two."""
    lines = b"".join([b"%s: %s\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers):
        raise RuntimeError("A header of an answer holds a line break.")
    return lines
