"""Calls about queues."""

from __future__ import annotations

import msgspec

from broker.requests import LimitsRequest, QueueRequest, QueuesRequest
from broker_services.api.answers import Answer, json_answer
from broker_services.api.calls.shared import Api
from broker_services.api.http_request import HttpRequest

_limits_decoder = msgspec.json.Decoder(LimitsRequest)


async def list_queues(api: Api, request: HttpRequest) -> Answer:
    """GET /queues."""
    request.read_query(QueuesRequest)
    return json_answer({"items": [msgspec.to_builtins(queue) for queue in await api.broker.queues()]})


async def set_limits(api: Api, request: HttpRequest) -> Answer:
    """PUT /queues/{queue}."""
    queue = request.read_path(QueueRequest).queue
    # What is absent is taken away, so a body that got lost must not count as an empty one.
    limits = await request.read_json(_limits_decoder, needs_body=True)
    return json_answer(msgspec.to_builtins(await api.broker.set_limits(queue, limits)))
