"""The calls about several tasks: each task has its own answer in the list."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Raw

from broker.batch_creation import check_all
from broker.errors import BrokerError, InvalidRequestError
from broker.items import Item
from broker.requests import NewTask, QuerySeveralRequest, new_task, read_batch, read_batched
from broker_services.api.answers import Answer
from broker_services.api.calls.shared import Api, conditional_answer, held
from broker_services.api.http_request import HttpRequest
from broker_services.api.problems import problem_answer
from broker_services.api.request_head import RequestHead
from broker_services.api.task_body import task_body

# createTasks


async def create_tasks(api: Api, request: HttpRequest) -> Answer:
    """POST /createTasks."""
    _refuse_idempotency_key(request)

    def check(item: Raw) -> NewTask:
        return new_task(read_batched(item), api.settings)

    async with api.batches.hold(request) as body:
        items = await api.broker.batches.create(await check_all(read_batch(body), check))
    return Answer(200, _items_body(api, request, "createTasks", items, of_open=202))


def _refuse_idempotency_key(request: HttpRequest) -> None:
    """A key stands for one task; ignored, it would not keep what its sender relies on."""
    if request.header(b"idempotency-key") is not None:
        raise InvalidRequestError(
            "A batch takes no `Idempotency-Key`: give each task a uuid, and a repeated call attaches to them.",
            field="Idempotency-Key",
        )


# queryTaskState


def asks_several(request: RequestHead) -> bool:
    """Whether a query is about several tasks: its `uuid` is repeated, or `until` is given."""
    query = request.query
    return query.count(b"uuid=") > 1 or b"until=" in query


async def query_several(api: Api, request: HttpRequest) -> Answer:
    """GET /queryTaskState with several uuids."""
    asked = request.read_query(QuerySeveralRequest)
    wait, applied = api.wait_s(request, asked.wait, 0.0)
    items = await held(api, request, wait, api.broker.gathering.gather(asked.uuid, wait, asked.until))
    return conditional_answer(request, _items_body(api, request, "queryTaskState", items, of_open=200), applied)


def _items_body(api: Api, request: HttpRequest, operation: str, items: Sequence[Item], *, of_open: int) -> bytes:
    return b'{"items":[%s]}' % b",".join(_item_body(api, request, operation, item, of_open) for item in items)


def _item_body(api: Api, request: HttpRequest, operation: str, item: Item, of_open: int) -> bytes:
    if isinstance(item, BrokerError):
        answer = problem_answer(item, path=request.instance, language=request.language)
        return b'{"status":%d,"problem":%s}' % (answer.status, answer.body)
    api.measures.told(operation, item.queue, item.state)
    status = 200 if item.state.is_terminal else of_open
    return b'{"status":%d,"task":%s}' % (
        status,
        task_body(item.document, item.uuid, item.state, request.language),
    )
