"""A request that has come whole, body included: it can be read without waiting."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from broker.errors import PayloadTooLargeError
from broker_services.api.request_head import RequestHead, decode

T = TypeVar("T")


class WholeRequest(RequestHead, kw_only=True):
    """A request and its body."""

    body: bytes

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
        if len(self.body) > max_bytes:
            raise PayloadTooLargeError(f"The body has {len(self.body)} bytes; at most {max_bytes} are read.")
        return decode(self.body, decoder)
