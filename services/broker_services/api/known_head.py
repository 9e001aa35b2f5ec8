"""The head that the last request on a connection had, so that the next one need not be parsed where it has the same.

A client that keeps its connection sends the same headers again and again; all that differs is the request line, and
the body. Such a request is told by comparing bytes, where parsing takes a callback for each header. What its headers
say is what llhttp made of the very same bytes, so nothing is understood in another way than before.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from broker_services.api.whole_request import RequestLine, WholeRequest

# Of methods with nothing special about their heads, with a path that needs no unquoting, and a query without what a
# parser would refuse or take for something else, such as a fragment.
_plain_line = re.compile(rb"(GET|POST) (/[A-Za-z]+)(?:\?([!\"$-~]*))? HTTP/1\.1")
# The way in which the body comes, or the connection, is another one after these.
_SPECIAL: Final = frozenset({b"expect", b"te", b"transfer-encoding", b"upgrade"})
_KEEP_ALIVE: Final = b"keep-alive"


MOST_LINE_BYTES: Final = 1_024
"""A longer request line is not remembered, nor what it asks for: many connections wait for their next request."""


class KnownHead(msgspec.Struct, eq=False):
    """What is remembered of the last request on a connection.

    `tail`: what followed its request line, up to the body. `headers`: what that says, by lower-case name. `line_text`
    and `line`: the last request line that was short enough, which clients that poll send again, too.
    """

    tail: bytes
    headers: dict[bytes, bytes]
    body_bytes: int
    line_text: bytes = b""
    line: RequestLine | None = None

    def request(self, data: bytes, most_bytes: int) -> WholeRequest | None:
        """The request, if `data` is exactly one that has this head, which may have `most_bytes` with its first line."""
        body_start = len(data) - self.body_bytes
        line_end = body_start - len(self.tail)
        # Where less has come than this head and its body have, a slice would count from the end of what has come.
        if line_end < 0 or body_start > most_bytes or data[line_end:body_start] != self.tail:
            return None
        text = data[:line_end]
        line = self.line
        if line is None or text != self.line_text:
            line = read_line(text)
            if line is None:
                return None
            self.remember(text, line)
        known_line = line if line is self.line else None
        return WholeRequest(line.method, line.path, line.query, self.headers, body=data[body_start:], line=known_line)

    def remember(self, line_text: bytes, line: RequestLine) -> None:
        """Keeps a request line for the next request, unless it is a long one."""
        if len(line_text) <= MOST_LINE_BYTES:
            self.line_text, self.line = line_text, line


def read_line(line: bytes) -> RequestLine | None:
    """A request line, if it is a plain one."""
    found = _plain_line.fullmatch(line)
    if found is None:
        return None
    method, path, query = found.groups(b"")
    return RequestLine(method.decode(), path.decode(), query)


def known_head(data: bytes, headers: dict[bytes, bytes], body: bytes) -> KnownHead | None:
    """What to remember of a request.

    Args:
        data: What has come, and was parsed as one whole request.
        headers: Of it, by lower-case name.
        body: Of it.
    """
    line_end = data.find(b"\r\n")
    head_end = data.find(b"\r\n\r\n", line_end) + 4
    is_usual = _SPECIAL.isdisjoint(headers) and headers.get(b"connection", _KEEP_ALIVE).lower() == _KEEP_ALIVE
    line = read_line(data[:line_end])
    if not is_usual or line is None or head_end + len(body) != len(data):
        return None
    known = KnownHead(data[line_end:head_end], headers, len(body))
    known.remember(data[:line_end], line)
    return known
