"""The calls themselves: read the request, ask the broker, shape the answer. Each is a few steps."""

from __future__ import annotations

import re
from collections.abc import Coroutine, Iterator
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import orjson
from msgspec import Raw
from prometheus_client.core import Metric
from starlette.datastructures import UploadFile
from starlette.requests import Request

from broker import Broker
from broker.errors import InvalidRequestError, StoreUnavailableError
from broker.requests import (
    CancelRequest,
    ChangeRequest,
    CreateRequest,
    ListRequest,
    QueryRequest,
    QueuesRequest,
    RetryRequest,
    convert,
    new_task,
)
from broker.store.queries import StoredTask
from broker.store.transitions import Changed
from broker_services.api.access import Access
from broker_services.api.answers import Answer, Header, etag_matches, etag_of, json_answer
from broker_services.api.bodies import Bodies
from broker_services.api.disconnect import DisconnectWatch
from broker_services.api.http_request import HttpRequest
from broker_services.api.measures import ApiMeasures
from broker_services.api.metrics import api_metrics, draining
from broker_services.api.problems import HttpError
from broker_services.api.task_body import changed_body, queue_of, task_body
from broker_services.metrics import Metrics

_create_decoder = msgspec.json.Decoder(CreateRequest)
_change_decoder = msgspec.json.Decoder(ChangeRequest)
_cancel_decoder = msgspec.json.Decoder(CancelRequest)
_retry_decoder = msgspec.json.Decoder(RetryRequest)

ASK_AGAIN_S: Final = 1
"""`Retry-After` of a 202: the next call is held again, so nothing is gained by waiting longer."""

_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
RAW_FORMS: Final = (_FORM, _MULTIPART)
# What callback senders call a JSON body.
_RAW_JSON: Final = frozenset({"", "application/json", "text/plain", "text/json", "application/octet-stream"})
RAW_FIELDS: Final = ("uuid", "state", "lease")


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
        self.metrics = Metrics(self._collect)
        self.bodies = Bodies(
            max_bytes=self.settings.max_body_bytes,
            timeout_s=self.settings.body_timeout_s,
            deadlines=broker.hub.deadlines,
        )

    def drain(self) -> None:
        """Answers what is held, and has what still comes answered at once: this process ends."""
        self.is_draining = True
        self.bodies.end_all()
        self.broker.hub.end_all()

    def _collect(self) -> Iterator[Metric]:
        yield draining(self.is_draining)
        yield from api_metrics(self.broker, self.measures)

    def wait_s(self, request: HttpRequest, asked: float | None, default: float) -> tuple[float, list[Header]]:
        """How long to hold, and the header that says so where `Prefer` was heard: the body beats it, the limit both."""
        preferred = request.preferred_wait if asked is None else None
        wanted = preferred if preferred is not None else default if asked is None else asked
        wait = min(wanted, self.settings.wait_max_s)
        return wait, [] if preferred is None else [(b"preference-applied", b"wait=%s" % f"{wait:g}".encode())]


# createTask


async def create_task(api: Api, request: HttpRequest) -> Answer:
    """POST or GET /createTask."""
    asked = await _read(request, _create_decoder, CreateRequest)
    wait, applied = api.wait_s(request, asked.wait, api.settings.wait_default_s)
    new = new_task(asked, api.settings, idempotency_key=_idempotency_key(request))
    task = await _held(api, request, wait, api.broker.create_and_hold(new, wait))
    api.measures.told("createTask", task.queue, task.state)
    return _created_answer(api, request, task, applied)


def _created_answer(api: Api, request: HttpRequest, task: StoredTask, headers: list[Header]) -> Answer:
    body = task_body(task.document, task.uuid, task.state, request.language)
    if task.state.is_terminal:
        return Answer(200, body, headers)
    location = f"/queryTaskState?uuid={task.uuid}".encode()
    retry_after = 0 if api.is_draining else ASK_AGAIN_S
    return Answer(202, body, [*headers, (b"location", location), (b"retry-after", b"%d" % retry_after)])


def _idempotency_key(request: HttpRequest) -> str | None:
    """The header as the draft has it, a quoted string, or bare, as many senders have it."""
    text = request.header(b"idempotency-key")
    if text is None:
        return None
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


# queryTaskState


async def query_task_state(api: Api, request: HttpRequest) -> Answer:
    """GET /queryTaskState."""
    asked = request.read_query(QueryRequest)
    wait, applied = api.wait_s(request, asked.wait, 0.0)
    task = await _held(api, request, wait, api.broker.hold(asked.uuid, wait))
    api.measures.told("queryTaskState", task.queue, task.state)
    body = task_body(task.document, task.uuid, task.state, request.language)
    etag = etag_of(body)
    if_none_match = request.header(b"if-none-match")
    if if_none_match is not None and etag_matches(if_none_match, etag):
        return Answer(304, b"", applied, etag=etag)
    return Answer(200, body, applied, etag=etag)


# changeTaskState, cancelTask


async def change_task_state(api: Api, request: HttpRequest) -> Answer:
    """POST or GET /changeTaskState."""
    asked = await _read_change(request)
    return _changed_answer(api, request, "changeTaskState", await api.broker.finish(asked))


async def cancel_task(api: Api, request: HttpRequest) -> Answer:
    """POST /cancelTask."""
    asked = await request.read_json(_cancel_decoder)
    change = ChangeRequest(uuid=asked.uuid, state="cancelled")
    return _changed_answer(api, request, "cancelTask", await api.broker.finish(change))


def _changed_answer(api: Api, request: HttpRequest, operation: str, change: Changed) -> Answer:
    api.measures.told(operation, queue_of(change), change.state)
    return Answer(200, changed_body(change, request.language))


async def _read_change(request: HttpRequest) -> ChangeRequest:
    if b"raw=" in request.scope["query_string"]:
        pairs = dict(reversed(request.query_pairs()))
        if pairs.get("raw") in ("1", "true"):
            return await _read_raw_change(request, pairs)
    asked: ChangeRequest = await _read(request, _change_decoder, ChangeRequest)
    return asked


async def _read_raw_change(request: HttpRequest, pairs: dict[str, str]) -> ChangeRequest:
    """The sender chooses its own format: the body is the result, and of the query only our own fields are read."""
    fields: dict[str, Any] = {name: pairs[name] for name in RAW_FIELDS if name in pairs}
    body = b"" if request.method == "GET" else await _raw_result(request)
    if body:
        fields["result"] = Raw(body)
    return convert(fields, ChangeRequest, from_text=True)


async def _raw_result(request: HttpRequest) -> bytes:
    body = (await request.read_body()).strip()
    if request.media_type in _RAW_JSON or request.media_type.endswith("+json"):
        return body
    if request.media_type == _FORM:
        # curl -d sends JSON under this type too; no form starts with an unescaped bracket.
        return body if body[:1] in (b"{", b"[") else _form_json(body)
    if request.media_type == _MULTIPART:
        return await _multipart_json(request, body)
    raise HttpError(
        "unsupported-media-type", f"The body is {request.media_type}; a raw completion takes JSON or a form."
    )


def _form_json(body: bytes) -> bytes:
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1_000)
    except ValueError:
        raise InvalidRequestError("The form is not percent-encoded UTF-8 of at most 1,000 fields.") from None
    return orjson.dumps({name: found[0] if len(found) == 1 else found for name, found in fields.items()})


async def _multipart_json(request: HttpRequest, body: bytes) -> bytes:
    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    fields: dict[str, Any] = {}
    try:
        form = await Request(dict(request.scope), replay).form(max_files=0)
    except Exception as error:  # starlette raises HTTPException where an app is, its own type elsewhere
        raise InvalidRequestError(f"The multipart form cannot be read: {error}; send fields, not files.") from None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            raise InvalidRequestError(f"`{name}` is a file; a raw completion takes fields only.", field=name)
        fields.setdefault(name, []).append(value)
    return orjson.dumps({name: found[0] if len(found) == 1 else found for name, found in fields.items()})


# retryTask, tasks, queues


async def retry_task(api: Api, request: HttpRequest) -> Answer:
    """POST /retryTask."""
    asked = await request.read_json(_retry_decoder)
    new = await api.broker.retry_ended(asked, idempotency_key=_idempotency_key(request))
    return Answer(200, task_body(new.document, new.uuid, new.state, request.language))


async def list_tasks(api: Api, request: HttpRequest) -> Answer:
    """GET /tasks."""
    page = await api.broker.list_stored(request.read_query(ListRequest))
    bodies = [task_body(item.document, item.uuid, item.state, request.language) for item in page.items]
    cursor = b"" if page.cursor is None else b',"cursor":"%s"' % page.cursor.encode()
    return Answer(200, b'{"items":[%s]%s}' % (b",".join(bodies), cursor))


async def list_queues(api: Api, request: HttpRequest) -> Answer:
    """GET /queues."""
    request.read_query(QueuesRequest)
    numbers = [{**msgspec.structs.asdict(queue), "limits": None} for queue in await api.broker.queues()]
    return json_answer({"items": numbers})


# Health and sight


async def healthz(_api: Api, _request: HttpRequest) -> Answer:
    """GET /healthz: the process lives."""
    return json_answer({"status": "ok"})


async def readyz(api: Api, _request: HttpRequest) -> Answer:
    """GET /readyz: outcomes reach this instance now."""
    if api.is_draining:
        raise HttpError("draining", "This instance ends.")
    if not api.broker.hub.is_delivering:
        raise StoreUnavailableError("Messages from Redis do not arrive at this instance now.")
    return json_answer({"status": "ready"})


async def show_metrics(api: Api, request: HttpRequest) -> Answer:
    """GET /metrics."""
    page, content_type = api.metrics.render(request.header(b"accept") or "")
    return Answer(200, page, content_type=content_type.encode())


# Shared steps


async def _read(request: HttpRequest, decoder: msgspec.json.Decoder[Any], request_type: Any) -> Any:
    return request.read_query(request_type) if request.method == "GET" else await request.read_json(decoder)


async def _held(api: Api, request: HttpRequest, wait: float, holding: Coroutine[Any, Any, StoredTask]) -> StoredTask:
    if wait <= 0:
        return await holding
    request.is_held = True
    with DisconnectWatch(request.receive, api.broker.hub.deadlines):
        return await holding
