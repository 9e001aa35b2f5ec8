"""What an API instance answered, and what that means: a task, a change, or an error of the tree."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

import msgspec

from broker.errors import (
    ApiError,
    BrokerError,
    IdempotencyMismatchError,
    InvalidRequestError,
    LeaseLostError,
    MalformedJsonError,
    PayloadTooLargeError,
    QueueFullError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskConflictError,
    TaskNotFoundError,
    TooManyWaitersError,
    WaiterExistsError,
)
from broker.published import Published, published_from_json
from broker.task import Task, TaskActions, TaskState

TRY_AGAIN: Final = frozenset({502, 503, 504})
"""The statuses that say: not now, perhaps in a moment."""


class RemoteTask(Task, kw_only=True):
    """A task as an API instance answered it.

    `raw` is the received document: it holds values exactly as they were sent, which parsed ones (`1.0`, integers
    beyond 64 bits) may not be after another serializer. `message` is the sentence for people.
    """

    message: str | None = None
    raw: bytes = b""

    async def wait(self, timeout: float) -> RemoteTask:
        """As `Task.wait`; the answer has `raw` too."""
        task = await super().wait(timeout)
        assert isinstance(task, RemoteTask)  # noqa: S101  `actions` is the client that made this one
        return task


class ClaimedTask(RemoteTask, kw_only=True):
    """A task that was claimed, with its payload. `lease` is the right to renew and to end it."""

    lease: str
    lease_expires_at: datetime


class Heartbeat(msgspec.Struct, frozen=True):
    """The answer to `heartbeat`: when `cancelled`, somebody else has ended the task, as `state` says: stop."""

    cancelled: bool
    lease_expires_at: datetime | None = None
    state: TaskState | None = None


class Change(msgspec.Struct, frozen=True):
    """The answer to `change` and `cancel`.

    `changed` is False when the task had this very outcome already: set by somebody else, or by this call, when its
    first answer was lost and it was sent again.
    """

    task: RemoteTask
    changed: bool


class Page(msgspec.Struct, frozen=True):
    """The answer to `list`: tasks, newest created first, and the cursor of the next page, None at the end."""

    items: list[RemoteTask]
    cursor: str | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP answer, read to its end."""

    status: int
    body: bytes
    location: str | None = None
    retry_after_s: float | None = None
    version: str | None = None


class _Publication(msgspec.Struct):
    version: str


class _Changed(msgspec.Struct):
    changed: bool = False


class _Claim(msgspec.Struct):
    tasks: list[msgspec.Raw]


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    cursor: str | None = None


class _Problem(msgspec.Struct):
    """The members of `application/problem+json` (RFC 9457) that are read here."""

    code: str | None = None
    title: str | None = None
    detail: str | None = None
    field: str | None = None
    task: msgspec.Raw = msgspec.Raw(b"")


_task_decoder: Final = msgspec.json.Decoder(RemoteTask)
_claim_decoder: Final = msgspec.json.Decoder(_Claim)
_claimed_decoder: Final = msgspec.json.Decoder(ClaimedTask)
_heartbeat_decoder: Final = msgspec.json.Decoder(Heartbeat)
_page_decoder: Final = msgspec.json.Decoder(_Page)
_changed_decoder: Final = msgspec.json.Decoder(_Changed)
_documents_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])
_publication_decoder: Final = msgspec.json.Decoder(_Publication)
_problem_decoder: Final = msgspec.json.Decoder(_Problem)


def task_of(answer: Answer, actions: TaskActions) -> RemoteTask:
    """The task that a 200 or 202 carries, bound to `actions`.

    Raises:
        ApiError: The answer is no task JSON.
    """
    try:
        return _task_of(answer.body, actions)
    except (msgspec.MsgspecError, RecursionError):
        raise unexpected(answer) from None


def page_of(answer: Answer, actions: TaskActions) -> Page:
    """The tasks of a list.

    Raises:
        ApiError: The answer is no list of tasks.
    """
    try:
        page = _page_decoder.decode(answer.body)
        return Page([_task_of(bytes(item), actions) for item in page.items], page.cursor)
    except (msgspec.MsgspecError, RecursionError):
        raise unexpected(answer) from None


def claimed_of(answer: Answer, actions: TaskActions) -> list[ClaimedTask]:
    """The tasks that a claim got.

    Raises:
        ApiError: The answer is no claim's.
    """
    try:
        return [_claimed_of(bytes(item), actions) for item in _claim_decoder.decode(answer.body).tasks]
    except (msgspec.MsgspecError, RecursionError):
        raise unexpected(answer) from None


def heartbeat_of(answer: Answer) -> Heartbeat:
    """What `heartbeatTask` answers.

    Raises:
        ApiError: The answer is no heartbeat's.
    """
    try:
        return _heartbeat_decoder.decode(answer.body)
    except (msgspec.MsgspecError, RecursionError):
        raise unexpected(answer) from None


def published_of(answer: Answer) -> list[Published]:
    """The values that a watch was told: one, or a list of them.

    Raises:
        ApiError: The answer is no watch's.
    """
    try:
        documents = _documents_decoder.decode(answer.body) if answer.body[:1] == b"[" else [answer.body]
        return [published_from_json(bytes(document)) for document in documents]
    except (msgspec.MsgspecError, RecursionError):
        raise unexpected(answer) from None


def version_of(answer: Answer) -> str:
    """The version that a publish made.

    Raises:
        ApiError: The answer is no publish's.
    """
    try:
        return _publication_decoder.decode(answer.body).version
    except (msgspec.MsgspecError, RecursionError):
        raise unexpected(answer) from None


def change_of(answer: Answer, actions: TaskActions) -> Change:
    """The task and the `changed` that `changeTaskState` and `cancelTask` answer."""
    task = task_of(answer, actions)
    return Change(task, _changed_decoder.decode(answer.body).changed)


def error_of(answer: Answer, *, uuid: str, may_have_run: bool) -> BrokerError:
    """The error that an answer other than 200 and 202 stands for.

    Args:
        answer: What came back.
        uuid: The task the call was about.
        may_have_run: Whether the call may have taken effect although it failed.
    """
    try:
        problem = _problem_decoder.decode(answer.body)
    except (msgspec.MsgspecError, RecursionError):
        return unexpected(answer)
    if problem.code is None:
        return unexpected(answer)
    sentence = problem.detail or problem.title or f"The API answered {answer.status} {problem.code}."
    match problem.code:
        case TaskNotFoundError.code:
            return _saying(sentence, TaskNotFoundError(uuid))
        case TaskAlreadyFinalError.code if (winner := _state_of(problem.task)) is not None:
            return _saying(sentence, TaskAlreadyFinalError(uuid, winner, bytes(problem.task)))
        case WaiterExistsError.code:
            return _saying(sentence, WaiterExistsError(uuid))
        case StoreUnavailableError.code:
            return StoreUnavailableError(sentence, may_have_run=may_have_run)
        case QueueFullError.code:
            return QueueFullError(sentence, retry_after_s=answer.retry_after_s)
        case InvalidRequestError.code:
            return InvalidRequestError(sentence, field=problem.field)
        case code if code in _plain:
            return _plain[code](sentence)
        case code:
            return ApiError(sentence, status=answer.status, code=code, retry_after_s=answer.retry_after_s)


_plain: Final[dict[str, Callable[[str], BrokerError]]] = {
    IdempotencyMismatchError.code: IdempotencyMismatchError,
    LeaseLostError.code: LeaseLostError,
    MalformedJsonError.code: MalformedJsonError,
    PayloadTooLargeError.code: PayloadTooLargeError,
    TaskConflictError.code: TaskConflictError,
    TooManyWaitersError.code: TooManyWaitersError,
}


def unreachable(url: str, reason: Exception) -> ApiError:
    """The error for no answer at all."""
    text = str(reason) or type(reason).__name__
    return ApiError(
        f"No broker answers at {url} ({text}): check the URL, and that an API instance runs there.",
        status=None,
        code="unreachable",
    )


def _task_of(document: bytes, actions: TaskActions) -> RemoteTask:
    task = _task_decoder.decode(document)
    task.raw = document
    task.actions = actions
    return task


def _claimed_of(document: bytes, actions: TaskActions) -> ClaimedTask:
    task = _claimed_decoder.decode(document)
    task.raw = document
    task.actions = actions
    return task


def _saying(sentence: str, error: BrokerError) -> BrokerError:
    """The error with the API's own sentence instead of its class's: it may be in another language."""
    error.args = (sentence,)
    return error


def _state_of(document: msgspec.Raw) -> TaskState | None:
    try:
        return _task_decoder.decode(document).state
    except (msgspec.MsgspecError, RecursionError):
        return None


def unexpected(answer: Answer) -> ApiError:
    """The error for an answer that no broker gives."""
    if answer.status in TRY_AGAIN:
        sentence = f"Something in front of the broker answered {answer.status}: no API instance is reachable behind it."
    else:
        begin = answer.body[:80].decode("utf-8", "replace")
        sentence = f"The {answer.status} answer is none of a broker's ({begin!r}): check that the URL leads to one."
    return ApiError(sentence, status=answer.status, retry_after_s=answer.retry_after_s)
