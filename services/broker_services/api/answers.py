"""An answer before it is written: status, headers, body."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import orjson

from broker_services.api.asgi import Send

Header = tuple[bytes, bytes]

JSON: Final = b"application/json"
VARY: Final[Header] = (b"vary", b"Accept-Language")
COMMON_HEADERS: Final[tuple[Header, ...]] = (VARY, (b"cache-control", b"no-store"))


WITHOUT_BODY: Final = (204, 304)


class Answer(msgspec.Struct, eq=False):
    """What a call gives back; `asgi_headers` adds what every answer carries.

    Somebody must hear of one with `on_lost`: it is called when the caller was gone before the answer was sent.
    """

    status: int
    body: bytes = b""
    headers: Sequence[Header] = ()
    content_type: bytes = JSON
    etag: bytes | None = None
    problem: str | None = None
    on_lost: Callable[[], None] | None = None

    def asgi_headers(self) -> list[Header]:
        """All headers. An answer with an ETag may be kept, if it is checked each time; any other may not."""
        if self.etag is None:
            headers = [*COMMON_HEADERS, *self.headers]
        else:
            headers = [VARY, (b"cache-control", b"no-cache"), (b"etag", self.etag), *self.headers]
        if self.status not in WITHOUT_BODY:
            headers += [(b"content-type", self.content_type), (b"content-length", b"%d" % len(self.body))]
        return headers

    async def write(self, send: Send) -> None:
        """Sends it by ASGI."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.asgi_headers()})
        await send({"type": "http.response.body", "body": self.body})


def json_answer(document: Any, status: int = 200) -> Answer:
    """A plain JSON answer."""
    return Answer(status, orjson.dumps(document))


def etag_of(body: bytes) -> bytes:
    """A strong ETag: equal exactly when the bodies are."""
    return b'"%s"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode()


def etag_matches(if_none_match: str, etag: bytes) -> bool:
    """RFC 9110 section 13.1.2: `*`, or any of the listed tags by weak comparison."""
    if if_none_match.strip() == "*":
        return True
    return etag.decode() in (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))


_tag = re.compile(r'(?:W/)?"([!#-~]{1,128})"')


def etag_versions(if_none_match: str) -> list[str]:
    """The listed tags, without their quotes; what is no tag of ours is left out."""
    return _tag.findall(if_none_match)
