"""Health and sight."""

from __future__ import annotations

from broker.errors import StoreUnavailableError
from broker_services.api.answers import Answer, json_answer
from broker_services.api.calls.shared import Api
from broker_services.api.http_request import HttpRequest
from broker_services.api.problems import HttpError


async def healthz(_api: Api, _request: HttpRequest) -> Answer:
    """GET /healthz: the process lives."""
    return json_answer({"status": "ok"})


async def readyz(api: Api, _request: HttpRequest) -> Answer:
    """GET /readyz: outcomes reach this instance now."""
    if api.is_draining:
        raise HttpError("draining", "This instance ends.")
    if not api.broker.subscriptions.is_delivering:
        raise StoreUnavailableError("Messages from Redis do not arrive at this instance now.")
    return json_answer({"status": "ready"})


async def show_metrics(api: Api, request: HttpRequest) -> Answer:
    """GET /metrics."""
    metrics = await api.metrics.get()
    page, content_type = metrics.render(request.header(b"accept") or "")
    return Answer(200, page, content_type=content_type.encode())
