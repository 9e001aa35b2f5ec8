"""The call that takes a file: store it, make its task, hold, answer."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from broker import naming
from broker.errors import BrokerError, InvalidRequestError, QueueFullError, StoreError, StoreUnavailableError
from broker.requests import CreateRequest, NewTask, new_task
from broker.store.queries import StoredTask
from broker.task import TaskState
from broker_services.api.answers import Answer
from broker_services.api.calls.shared import Api, held
from broker_services.api.calls.tasks import created_answer
from broker_services.api.http_request import HttpRequest
from broker_services.api.upload_form import Upload

WAIT_S: Final = 5.0
"""How long an upload is held when its sender names no wait: a thumbnail is made in less."""


class _Ended(msgspec.Struct):
    """What of a task tells whether it was dropped."""

    error: dict[str, Any] = msgspec.field(default_factory=dict)


_ended_decoder = msgspec.json.Decoder(_Ended)


async def async_upload(api: Api, request: HttpRequest) -> Answer:
    """POST /asyncUpload."""
    if request.query:
        raise InvalidRequestError("An upload takes its fields in the form, not in the query; send them there.")
    uuid, upload = await api.uploads.receive(request)
    wait, applied = api.wait_s(request, upload.wait, WAIT_S)
    task = await _create(api, request, _new(api, uuid, upload), wait)
    if _was_dropped(task):
        await api.uploads.remove(uuid)
    return created_answer(api, request, "asyncUpload", task, applied)


def _new(api: Api, uuid: str, upload: Upload) -> NewTask:
    payload = {"name": upload.name, "content_type": upload.content_type, "size": upload.size, "file": uuid}
    asked = CreateRequest(uuid=uuid, queue=naming.UPLOAD_QUEUE, payload=Raw(msgspec.json.encode(payload)))
    return new_task(asked, api.settings)


async def _create(api: Api, request: HttpRequest, new: NewTask, wait: float) -> StoredTask:
    """Creates the task and holds. Without a task the file goes at once; where nobody knows, the cleaning will."""
    try:
        return await held(api, request, wait, api.broker.holding.create(new, wait))
    except BrokerError as error:
        if not _may_have_happened(error):
            await api.uploads.remove(new.uuid)
        raise


def _may_have_happened(error: BrokerError) -> bool:
    return isinstance(error, StoreError) or (isinstance(error, StoreUnavailableError) and error.may_have_run)


def _was_dropped(task: StoredTask) -> bool:
    """Whether a full queue has dropped it while its call was held."""
    return (
        task.state is TaskState.FAILED and _ended_decoder.decode(task.document).error.get("code") == QueueFullError.code
    )
