"""Calls about queues."""

from __future__ import annotations

import msgspec

from broker.requests import QueuesRequest
from broker_services.api.answers import Answer, json_answer
from broker_services.api.calls.shared import Api
from broker_services.api.http_request import HttpRequest


async def list_queues(api: Api, request: HttpRequest) -> Answer:
    """GET /queues."""
    request.read_query(QueuesRequest)
    numbers = [{**msgspec.structs.asdict(queue), "limits": None} for queue in await api.broker.queues()]
    return json_answer({"items": numbers})
