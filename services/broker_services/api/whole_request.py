"""A request that has come whole, body included: it can be read without waiting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from broker.errors import PayloadTooLargeError
from broker_services.api.request_head import RequestHead, decode

T = TypeVar("T")


class WholeRequest(RequestHead):
    """A request and its body.

    Args:
        method: As sent.
        path: Unquoted.
        query: As sent.
        headers: By lower-case name.
        body: All of it.
    """

    __slots__ = ("_body",)

    def __init__(self, method: str, path: str, query: bytes, headers: Mapping[bytes, bytes], body: bytes) -> None:
        super().__init__(method, path, query, headers)
        self._body = body

    def read(self, decoder: msgspec.json.Decoder[T], request_type: type[T], *, max_bytes: int) -> T:
        """The fields of a call that takes them in the query of a GET or in the body of a POST.

        Raises:
            HttpError: The body is compressed, or not JSON by its media type.
            PayloadTooLargeError: It has more than `max_bytes`.
            MalformedJsonError, InvalidRequestError
        """
        if self.method == "GET":
            return self.read_query(request_type)
        self.refuse_other_than_json()
        self.refuse_encoded()
        if len(self._body) > max_bytes:
            raise PayloadTooLargeError(f"The body has {len(self._body)} bytes; at most {max_bytes} are read.")
        return decode(self._body, decoder)
