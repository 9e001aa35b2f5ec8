"""A request that has come whole, body included: it can be read without waiting."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from broker.errors import PayloadTooLargeError
from broker_services.api.request_head import RequestHead, decode

T = TypeVar("T")


class RequestLine(msgspec.Struct, eq=False):
    """Method, path and query of a request whose path needs no unquoting.

    `asked`: what the query asks for, once it was read. A line that comes again need not be read again.
    """

    method: str
    path: str
    query: bytes
    asked: Any = None


class WholeRequest(RequestHead, kw_only=True):
    """A request and its body; `line` is what it begins with, where that is known."""

    body: bytes
    line: RequestLine | None = None

    def read(self, decoder: msgspec.json.Decoder[T], request_type: type[T], *, max_bytes: int) -> T:
        """The fields of a call that takes them in the query of a GET or in the body of a POST.

        Raises:
            HttpError: The body is compressed, or not JSON by its media type.
            PayloadTooLargeError: It has more than `max_bytes`.
            MalformedJsonError, InvalidRequestError
        """
        if self.method == "GET":
            return self.read_line(request_type)
        self.refuse_other_than_json()
        self.refuse_encoded()
        if len(self.body) > max_bytes:
            raise PayloadTooLargeError(f"The body has {len(self.body)} bytes; at most {max_bytes} are read.")
        return decode(self.body, decoder)

    def read_line(self, request_type: type[T]) -> T:
        """The query as a request, read once for a line that comes again; raises as `read_query` does."""
        line = self.line
        if line is None:
            return self.read_query(request_type)
        # A path has one type of request.
        asked: T | None = line.asked
        if asked is None:
            asked = line.asked = self.read_query(request_type)
        return asked
