"""A request that comes by ASGI: its body is read once and within bounds, when a call asks for it."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from broker import values
from broker.errors import InvalidRequestError
from broker.requests import convert
from broker_services.api.asgi import Receive, Scope
from broker_services.api.bodies import Bodies
from broker_services.api.request_head import RequestHead, by_name, decode

T = TypeVar("T")

_JSON_SPACE: Final = b" \t\r\n"


class HttpRequest(RequestHead, kw_only=True):
    """A request; nothing of it is parsed or read before a call asks. `bodies` reads its body from ASGI's `receive`."""

    scope: Scope
    receive: Receive
    bodies: Bodies

    @classmethod
    def of_asgi(cls, scope: Scope, receive: Receive, bodies: Bodies) -> HttpRequest:
        """What an ASGI application is called with.

        Args:
            scope: ASGI's.
            receive: ASGI's.
            bodies: Reads the body.
        """
        headers = by_name(scope["headers"])
        return cls(
            scope["method"],
            scope["path"],
            scope["query_string"],
            headers,
            scope=scope,
            receive=receive,
            bodies=bodies,
        )

    def read_path(self, request_type: type[T]) -> T:
        """The path's parameter as a request. Raises InvalidRequestError."""
        return convert(self.scope["path_params"], request_type, from_text=True)

    async def read_json(self, decoder: msgspec.json.Decoder[T], *, needs_body: bool = False) -> T:
        """The JSON body as a request; no body counts as `{}`, unless it is needed.

        Raises:
            HttpError: Not JSON by its media type, too slow, or with fields in the query as well.
            MalformedJsonError, InvalidRequestError, PayloadTooLargeError
        """
        body = await self._read_json_body()
        if needs_body and not body.strip():
            raise InvalidRequestError("The body is missing; send a JSON object, `{}` at least.", field="body")
        return decode(body, decoder)

    async def read_batch(self, bodies: Bodies, receive: Receive) -> bytes:
        """The JSON body as it came, read by `bodies` from `receive`. Raises as `read_json` does."""
        return await self._read_json_body(bodies, receive)

    async def read_value(self, field: str, *, max_bytes: int) -> bytes:
        """The JSON body as one value, byte for byte but for white space around it. Raises as `read_json` does."""
        body = (await self._read_json_body()).strip(_JSON_SPACE)
        values.check(body, field, max_bytes=max_bytes)
        return body

    async def _read_json_body(self, bodies: Bodies | None = None, receive: Receive | None = None) -> bytes:
        self.refuse_other_than_json()
        return await self.read_body(bodies, receive)

    async def read_body(self, bodies: Bodies | None = None, receive: Receive | None = None) -> bytes:
        """The whole body, by others and from elsewhere than usual where they are given.

        Raises:
            HttpError: It is compressed, too slow, or this process ends.
            PayloadTooLargeError, ClientGoneError
        """
        self.refuse_encoded()
        return await (bodies or self.bodies).read(receive or self.receive, self.announced_bytes)
