"""The calls of workers over HTTP: claim, renew, let go."""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from broker.claiming import unharmed
from broker.requests import ClaimRequest, HeartbeatRequest, ReleaseRequest, claim
from broker.store.claims import Claimed
from broker.task import TaskState
from broker.timestamps import rfc3339
from broker_services.api.answers import Answer, json_answer
from broker_services.api.calls.shared import Api, held
from broker_services.api.http_request import HttpRequest
from broker_services.api.messages import Language
from broker_services.api.task_body import queue_of, task_body

_claim_decoder: Final = msgspec.json.Decoder(ClaimRequest)
_heartbeat_decoder: Final = msgspec.json.Decoder(HeartbeatRequest)
_release_decoder: Final = msgspec.json.Decoder(ReleaseRequest)


async def claim_task(api: Api, request: HttpRequest) -> Answer:
    """POST /claimTask."""
    asked = await request.read_json(_claim_decoder)
    wait, applied = api.wait_s(request, asked.wait, 0.0)
    claiming = api.broker.claiming
    claimed = await held(api, request, wait, claiming.claim(claim(asked), wait))
    if not claimed:
        return Answer(200, b'{"tasks":[]}', applied)
    body = b'{"tasks":[%s]}' % b",".join(_claimed_body(task, request.language) for task in claimed)
    return Answer(200, body, applied, on_lost=partial(claiming.give_back_soon, unharmed(claimed)))


def _claimed_body(task: Claimed, language: Language) -> bytes:
    """Lease first, payload last: a reader without a JSON parser finds what it needs before any value of a caller's."""
    body = task_body(task.document or b"{}", task.uuid, TaskState.RUNNING, language)
    payload = b"" if task.payload is None else b',"payload":%s' % task.payload
    return b'{"lease":"%s","lease_expires_at":"%s",%s%s}' % (
        task.lease.encode(),
        rfc3339(task.lease_end_ms).encode(),
        body[1:-1],
        payload,
    )


async def heartbeat_task(api: Api, request: HttpRequest) -> Answer:
    """POST /heartbeatTask."""
    renewed = await api.broker.heartbeat(await request.read_json(_heartbeat_decoder))
    if isinstance(renewed, TaskState):
        return json_answer({"cancelled": True, "state": renewed})
    return json_answer({"lease_expires_at": rfc3339(renewed), "cancelled": False})


async def release_task(api: Api, request: HttpRequest) -> Answer:
    """POST /releaseTask."""
    released = await api.broker.release(await request.read_json(_release_decoder))
    api.measures.told("releaseTask", queue_of(released), released.state)
    return Answer(200, task_body(released.document or b"{}", released.uuid, released.state, request.language))
