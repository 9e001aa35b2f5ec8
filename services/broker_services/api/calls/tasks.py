"""The calls about tasks: read the request, ask the broker, shape the answer. Each is a few steps."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.creation import Creation
from broker.holding import as_stored
from broker.requests import (
    CancelRequest,
    ChangeRequest,
    CreateRequest,
    ListRequest,
    NewTask,
    QueryRequest,
    RetryRequest,
    completion,
    new_task,
)
from broker.store.commands import Reply
from broker.store.completions import Changed, read_finished
from broker.store.creates import read_created
from broker.store.queries import StoredTask, read_found
from broker_services.api.answers import Answer, Header
from broker_services.api.calls.raw_change import read_raw_change
from broker_services.api.calls.several import asks_several, query_several
from broker_services.api.calls.shared import Api, conditional_answer, idempotency_key, read, watched
from broker_services.api.direct import AnsweredByReply, DirectCall
from broker_services.api.http_request import HttpRequest
from broker_services.api.request_head import RequestHead
from broker_services.api.task_body import changed_body, queue_of, task_body

_create_decoder = msgspec.json.Decoder(CreateRequest)
_change_decoder = msgspec.json.Decoder(ChangeRequest)
_cancel_decoder = msgspec.json.Decoder(CancelRequest)
_retry_decoder = msgspec.json.Decoder(RetryRequest)

ASK_AGAIN_S: Final = 1
"""`Retry-After` of a 202: the next call is held again, so nothing is gained by waiting longer."""

# createTask


async def create_task(api: Api, request: HttpRequest) -> Answer:
    """POST or GET /createTask."""
    asked = await read(request, _create_decoder, CreateRequest)
    wait, applied = api.wait_s(request, asked.wait, api.settings.wait_default_s)
    new = new_task(asked, api.settings, idempotency_key=idempotency_key(request))
    creating = api.broker.exclusive if asked.exclusive else api.broker.holding
    with watched(api, request, wait):
        task = await creating.create(new, wait)
    return created_answer(api, request, "createTask", task, applied)


def begin_create(api: Api, call: DirectCall) -> bool:
    """The same without a task, where it need not be exclusive."""
    request = call.request
    asked = request.read(_create_decoder, CreateRequest, max_bytes=api.settings.max_body_bytes)
    wait, applied = api.wait_s(request, asked.wait, api.settings.wait_default_s)
    if asked.exclusive:
        return False
    new = new_task(asked, api.settings, idempotency_key=idempotency_key(request))
    if wait <= 0:
        _create_at_once(api, call, new, applied)
        return True
    request.is_held = True
    held = _HeldCreate(api, call, api.broker.holding.begin(new, wait), applied)
    call.on_lost = held.leave
    held.creation.waiter.call_when_settled(held.settled)
    return True


def _create_at_once(api: Api, call: DirectCall, new: NewTask, applied: list[Header]) -> None:
    """Answers with the task as the create has found it."""

    def answer(reply: Reply) -> Answer:
        return created_answer(api, call.request, "createTask", as_stored(read_created(reply, new), new.queue), applied)

    api.broker.transitions.hand_create(new, AnsweredByReply(call, answer))


class _HeldCreate(msgspec.Struct, eq=False):
    """A call that is held until the task it has created or found has ended, its wait is over, or its caller leaves."""

    api: Api
    call: DirectCall
    creation: Creation
    applied: list[Header]

    def settled(self) -> None:
        """By an outcome, which is answered; else whoever says "not yet" looks once more, and that takes a task."""
        task = self.creation.waiter.result
        if task is None:
            self.call.go_on(self._look)
        else:
            self.api.broker.holding.leave(self.creation)
            try:
                answer = created_answer(self.api, self.call.request, "createTask", task, self.applied)
            except Exception as error:
                self.call.refuse(error)
            else:
                self.call.answer(answer)

    def leave(self) -> None:
        """Holds it no longer."""
        self.api.broker.holding.leave(self.creation)

    async def _look(self) -> Answer:
        task = await self.api.broker.holding.end_of(self.creation)
        return created_answer(self.api, self.call.request, "createTask", task, self.applied)


def created_answer(api: Api, request: RequestHead, operation: str, task: StoredTask, headers: list[Header]) -> Answer:
    """200 for a task that has ended, counted for the operation; 202 for one that goes on, and where to ask for it."""
    api.measures.told(operation, task.queue, task.state)
    body = task_body(task.document, task.uuid, task.state, request.language)
    if task.state.is_terminal:
        return Answer(200, body, headers)
    location = f"/queryTaskState?uuid={task.uuid}".encode()
    retry_after = 0 if api.is_draining else ASK_AGAIN_S
    return Answer(202, body, [*headers, (b"location", location), (b"retry-after", b"%d" % retry_after)])


# queryTaskState


async def query_task_state(api: Api, request: HttpRequest) -> Answer:
    """GET /queryTaskState."""
    if asks_several(request):
        return await query_several(api, request)
    asked = request.read_query(QueryRequest)
    wait, applied = api.wait_s(request, asked.wait, 0.0)
    with watched(api, request, wait):
        task = await api.broker.holding.query(asked.uuid, wait)
    return _told_state(api, request, task, applied)


def begin_query(api: Api, call: DirectCall) -> bool:
    """The same without a task, where one task is read and nobody waits for its end."""
    request = call.request
    if asks_several(request):
        return False
    asked = request.read_line(QueryRequest)
    wait, applied = api.wait_s(request, asked.wait, 0.0)
    if wait > 0:
        return False

    def answer(reply: Reply) -> Answer:
        return _told_state(api, request, read_found(reply, asked.uuid), applied)

    api.broker.queries.hand_read(asked.uuid, AnsweredByReply(call, answer))
    return True


def _told_state(api: Api, request: RequestHead, task: StoredTask, headers: list[Header]) -> Answer:
    api.measures.told("queryTaskState", task.queue, task.state)
    return conditional_answer(request, task_body(task.document, task.uuid, task.state, request.language), headers)


# changeTaskState, cancelTask


async def change_task_state(api: Api, request: HttpRequest) -> Answer:
    """POST or GET /changeTaskState."""
    asked = await _read_change(request)
    return _changed_answer(api, request, "changeTaskState", await api.broker.finish(asked))


def begin_change(api: Api, call: DirectCall) -> bool:
    """The same without a task, where the body is none of the sender's own format."""
    request = call.request
    if _may_be_raw(request):
        return False
    asked = request.read(_change_decoder, ChangeRequest, max_bytes=api.settings.max_body_bytes)
    outcome = completion(asked, max_bytes=api.settings.max_body_bytes)

    def answer(reply: Reply) -> Answer:
        return _changed_answer(api, request, "changeTaskState", read_finished(reply, asked.uuid, outcome))

    receiver = AnsweredByReply(call, answer)
    api.broker.transitions.hand_finish(asked.uuid, asked.lease or "", outcome, receiver, wants_document=True)
    return True


async def cancel_task(api: Api, request: HttpRequest) -> Answer:
    """POST /cancelTask."""
    asked = await request.read_json(_cancel_decoder)
    change = ChangeRequest(uuid=asked.uuid, state="cancelled")
    return _changed_answer(api, request, "cancelTask", await api.broker.finish(change))


def _changed_answer(api: Api, request: RequestHead, operation: str, change: Changed) -> Answer:
    api.measures.told(operation, queue_of(change), change.state)
    return Answer(200, changed_body(change, request.language))


async def _read_change(request: HttpRequest) -> ChangeRequest:
    if _may_be_raw(request):
        pairs = dict(reversed(request.query_pairs()))
        if pairs.get("raw") in ("1", "true"):
            return await read_raw_change(request, pairs)
    return await read(request, _change_decoder, ChangeRequest)


def _may_be_raw(request: RequestHead) -> bool:
    return b"raw=" in request.query


# retryTask, tasks


async def retry_task(api: Api, request: HttpRequest) -> Answer:
    """POST /retryTask."""
    asked = await request.read_json(_retry_decoder)
    new = await api.broker.retry_ended(asked, idempotency_key=idempotency_key(request))
    return Answer(200, task_body(new.document, new.uuid, new.state, request.language))


async def list_tasks(api: Api, request: HttpRequest) -> Answer:
    """GET /tasks."""
    page = await api.broker.list_stored(request.read_query(ListRequest))
    bodies = [task_body(item.document, item.uuid, item.state, request.language) for item in page.items]
    cursor = b"" if page.cursor is None else b',"cursor":"%s"' % page.cursor.encode()
    return Answer(200, b'{"items":[%s]%s}' % (b",".join(bodies), cursor))
