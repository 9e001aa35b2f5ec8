"""What all calls share: the instance they run on, and the steps that many of them take."""

from __future__ import annotations

import re
from collections.abc import Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from broker import Broker
from broker.disconnect import DisconnectWatch
from broker_services.api.access import Access
from broker_services.api.answers import Answer, Header, etag_matches, etag_of
from broker_services.api.batch_bodies import MOST_BATCHES, BatchBodies
from broker_services.api.bodies import Bodies
from broker_services.api.delivery import connection_of
from broker_services.api.http_request import HttpRequest
from broker_services.api.leaving import ConnectionWatch
from broker_services.api.measures import ApiMeasures
from broker_services.api.request_head import RequestHead
from broker_services.api.uploads import Uploads
from broker_services.late import Late

if TYPE_CHECKING:
    from broker_services.metrics import Metrics

T = TypeVar("T")

_NOT_HELD: Final = nullcontext()


class Api:
    """What the calls share.

    Args:
        broker: Open.
        access: Who may call; None where everybody may.
    """

    def __init__(self, broker: Broker, access: Access | None = None) -> None:
        self.broker = broker
        self.settings = broker.settings
        self.access = access
        self.is_draining = False
        self.measures = ApiMeasures()
        self.metrics = Late(self._make_metrics)
        self.bodies = Bodies(
            max_bytes=self.settings.max_body_bytes,
            timeout_s=self.settings.body_timeout_s,
            deadlines=broker.hub.deadlines,
        )
        self.batches = BatchBodies(
            Bodies(
                max_bytes=self.settings.max_batch_bytes,
                timeout_s=self.settings.body_timeout_s,
                deadlines=broker.hub.deadlines,
            ),
            most_bytes=MOST_BATCHES * self.settings.max_batch_bytes,
        )
        self.uploads = Uploads(self.settings)

    def drain(self) -> None:
        """Answers what is held, and has what still comes answered at once: this process ends."""
        self.is_draining = True
        self.bodies.end_all()
        self.batches.end_all()
        self.uploads.end_all()
        self.broker.end_waits()

    def _make_metrics(self) -> Metrics:
        # Prometheus's library is imported by the first scrape.
        from broker_services.api.metrics import api_metrics
        from broker_services.metrics import Metrics

        return Metrics(lambda: api_metrics(self.broker, self.measures, is_draining=self.is_draining))

    def wait_s(self, request: RequestHead, asked: float | None, default: float) -> tuple[float, list[Header]]:
        """How long to hold, and the header that says so where `Prefer` was heard: the body beats it, the limit both."""
        most = self.settings.wait_max_s
        preferred = request.preferred_wait if asked is None and b"prefer" in request.headers else None
        if preferred is None:
            wait = default if asked is None else asked
            return wait if wait < most else most, []
        wait = min(preferred, most)
        return wait, [(b"preference-applied", b"wait=%s" % f"{wait:g}".encode())]


async def read(request: HttpRequest, decoder: msgspec.json.Decoder[T], request_type: type[T]) -> T:
    """The request of a call that takes its fields in the query of a GET or in the body of a POST."""
    return request.read_query(request_type) if request.method == "GET" else await request.read_json(decoder)


async def held(api: Api, request: HttpRequest, wait: float, holding: Coroutine[Any, Any, T]) -> T:
    """Awaits `holding`, watching the caller's socket while it lasts. Raises ClientGoneError, too."""
    with watched(api, request, wait):
        return await holding


def watched(api: Api, request: HttpRequest, wait: float) -> AbstractContextManager[object]:
    """While a call is held: ClientGoneError is raised when its caller leaves."""
    if wait <= 0:
        return _NOT_HELD
    request.is_held = True
    connection = connection_of(request.scope)
    if connection is not None:
        return ConnectionWatch(connection, api.broker.hub.deadlines.loop)
    return DisconnectWatch(request.receive, api.broker.hub.deadlines)


def conditional_answer(request: RequestHead, body: bytes, headers: Sequence[Header]) -> Answer:
    """A JSON answer with its ETag, or 304 where its caller has it already."""
    etag = etag_of(body)
    if_none_match = request.header(b"if-none-match")
    if if_none_match is not None and etag_matches(if_none_match, etag):
        return Answer(304, b"", headers, etag=etag)
    return Answer(200, body, headers, etag=etag)


def idempotency_key(request: RequestHead) -> str | None:
    """The header as the draft has it, a quoted string, or bare, as many senders have it."""
    sent = request.headers.get(b"idempotency-key")
    if sent is None:
        return None
    text = sent.decode("latin-1").strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
