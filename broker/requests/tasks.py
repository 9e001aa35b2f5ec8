"""What callers may ask of tasks; `NewTask`, `Retry` and `Completion` are what the store takes of it, checked.

Constraints stand in the types; what only some combinations forbid is checked by the functions below.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from broker import naming, values
from broker.errors import InvalidRequestError
from broker.randomness import new_secret, new_uuid
from broker.requests.fields import (
    CURSOR_PATTERN,
    Delay,
    Duration,
    JsonValue,
    Lease,
    Queue,
    Uuid,
    Wait,
    milliseconds,
    received,
)
from broker.settings import Settings
from broker.task import TaskState

DEFAULT_MAX_ATTEMPTS: Final = 3
DEFAULT_MOST_PENDING: Final = 100_000


class BatchedTask(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Asks for a task, or for the one that already has this uuid, without being held for its end."""

    uuid: Uuid | None = None
    queue: Queue = naming.DEFAULT_QUEUE
    payload: JsonValue | UnsetType = UNSET
    expires_in: Annotated[Duration, Meta(description="Seconds until the task expires unless it has ended.")] | None = (
        None
    )
    retention: Annotated[Delay, Meta(description="Seconds that the ended task's record is kept.")] | None = None
    priority: Annotated[int, Meta(ge=0, le=9, description="9 goes first.")] = 0
    delay: Delay = 0
    max_attempts: (
        Annotated[int, Meta(ge=1, le=1_000, description="Executions at most; without it the handler's, else 3.")] | None
    ) = None


class CreateRequest(BatchedTask, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Asks for a task, or for the one that already has this uuid."""

    wait: Wait | None = None
    exclusive: Annotated[
        bool, Meta(description="Refuse this call when somebody, on any instance, already waits for the task.")
    ] = False


class ErrorRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Why a task failed or was cancelled."""

    code: Annotated[str, Meta(min_length=1, max_length=128, description="A stable word for programs.")] = "failed"
    message: Annotated[str, Meta(max_length=8_192, description="A sentence for people.")] | UnsetType = UNSET
    details: JsonValue | UnsetType = UNSET


class ChangeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Ends a task."""

    uuid: Uuid
    state: Literal["succeeded", "failed", "cancelled"] = "succeeded"
    result: JsonValue | UnsetType = UNSET
    error: ErrorRequest | None = None
    lease: Lease | None = None


class CancelRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Cancels a task wherever it is."""

    uuid: Uuid


class QueryRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Reads a task, holding until it has ended where `wait` asks for it."""

    uuid: Uuid
    wait: Wait | None = None


class EventsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Follows a task: what it reports, until it has ended."""

    uuid: Uuid


class RetryRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Asks for a new task like one that has failed or expired."""

    uuid: Uuid


class ListRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Reads a page of tasks, newest created first."""

    queue: Queue | None = None
    state: (
        Annotated[
            Literal["pending", "running", "succeeded", "failed", "cancelled", "expired"],
            Meta(description="Only tasks that are in this state now."),
        ]
        | None
    ) = None
    cursor: Annotated[str, Meta(pattern=CURSOR_PATTERN, description="Of the page before; where to go on.")] | None = (
        None
    )
    limit: Annotated[int, Meta(ge=1, le=500, description="Tasks on a page at most.")] = 50


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task to create, checked; times in milliseconds. The last two say when its queue is full, and what then."""

    uuid: str
    uuid_is_chosen: bool
    queue: str
    payload: bytes
    fingerprint: str
    priority: int
    delay_ms: int
    expires_ms: int
    retention_ms: int
    max_attempts: int | None
    seal: str
    idempotency: str | None
    most_pending: int = DEFAULT_MOST_PENDING
    drops_oldest: bool = False


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """A new task to make of an ended one, checked."""

    uuid: str
    new_uuid: str
    seal: str
    idempotency: str | None
    most_pending: int = DEFAULT_MOST_PENDING
    drops_oldest: bool = False


class Completion(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a task ends, checked; values as JSON text, `values.ABSENT` for none."""

    state: TaskState
    result: bytes = values.ABSENT
    error: bytes = values.ABSENT


class _Outcome(msgspec.Struct):
    """The part of a task JSON that a completion decides."""

    state: TaskState
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_outcome_decoder = msgspec.json.Decoder(_Outcome)


def new_task(request: BatchedTask, settings: Settings, *, idempotency_key: str | None = None) -> NewTask:
    """Checks the payload and fills in the defaults.

    Raises:
        InvalidRequestError: The payload or the key is not acceptable.
        PayloadTooLargeError: The payload is longer than `max_body_bytes`.
    """
    payload, fingerprint = values.ABSENT, values.NULL_FINGERPRINT
    if request.payload is not UNSET:
        payload = received(request.payload)
        fingerprint = values.fingerprint(payload, "payload", max_bytes=settings.max_body_bytes)
    delay_ms, expires_ms, retention_ms = _times_ms(
        request.delay,
        settings.task_ttl_s if request.expires_in is None else request.expires_in,
        settings.retention_s if request.retention is None else request.retention,
    )
    queue = request.queue
    return NewTask(
        uuid=request.uuid or new_uuid(),
        uuid_is_chosen=request.uuid is not None,
        queue=queue,
        payload=payload,
        fingerprint=fingerprint,
        priority=request.priority,
        delay_ms=delay_ms,
        expires_ms=expires_ms,
        retention_ms=retention_ms,
        max_attempts=request.max_attempts,
        seal=new_secret(),
        idempotency=None if idempotency_key is None else _idempotency_digest(queue, idempotency_key),
        # Uploaded files take room until they are processed, so fewer of them may wait.
        most_pending=settings.upload_queue if queue == naming.UPLOAD_QUEUE else settings.queue_max_pending,
        drops_oldest=settings.queue_full == "drop-oldest",
    )


@lru_cache(maxsize=256)
def _times_ms(delay: float, expires_in: float, retention: float) -> tuple[int, int, int]:
    """Remembered together: nearly all tasks have the same three."""
    return milliseconds(delay), max(1, milliseconds(expires_in)), milliseconds(retention)


def retry(request: RetryRequest, settings: Settings, *, idempotency_key: str | None = None) -> Retry:
    """Names the new task.

    Raises:
        InvalidRequestError: The key is not acceptable.
    """
    return Retry(
        uuid=request.uuid,
        new_uuid=new_uuid(),
        seal=new_secret(),
        # No queue has a name with a space: the keys of retries are apart from those of creates.
        idempotency=(
            None if idempotency_key is None else _idempotency_digest(f"retry of {request.uuid}", idempotency_key)
        ),
        most_pending=settings.queue_max_pending,
        drops_oldest=settings.queue_full == "drop-oldest",
    )


def completion(request: ChangeRequest, *, max_bytes: int) -> Completion:
    """Checks result and error, each at most `max_bytes` long.

    Raises:
        InvalidRequestError: A value is not acceptable, or a success comes with an error.
        PayloadTooLargeError: A value is too long.
    """
    state = TaskState(request.state)
    if state is TaskState.SUCCEEDED and request.error is not None:
        raise InvalidRequestError(
            "`error` goes with the state `failed` or `cancelled`, not with `succeeded`.", field="error"
        )
    error = request.error
    if error is None and state is TaskState.FAILED:
        error = ErrorRequest()
    result = received(request.result)
    if result != values.ABSENT:
        values.check(result, "result", max_bytes=max_bytes)
    return Completion(state=state, result=result, error=error_json(error, max_bytes))


def is_outcome_of(document: bytes, completion: Completion) -> bool:
    """Whether a task JSON tells the outcome that `completion` asks for: same state, same result, same error."""
    stored = _outcome_decoder.decode(document)
    return (
        stored.state is completion.state
        and values.are_same(received(stored.result), completion.result)
        and values.are_same(received(stored.error), completion.error)
    )


def error_json(error: ErrorRequest | None, max_bytes: int) -> bytes:
    """An error as JSON text of at most `max_bytes`. Raises InvalidRequestError, PayloadTooLargeError."""
    if error is None:
        return values.ABSENT
    if isinstance(error.details, Raw):
        values.check(bytes(error.details), "error.details", max_bytes=max_bytes)
    encoded = msgspec.json.encode(error)
    values.check_length(encoded, "error", max_bytes=max_bytes)
    return encoded


def _idempotency_digest(scope: str, key: str) -> str:
    if not 1 <= len(key) <= naming.IDEMPOTENCY_KEY_MAX_CHARS:
        raise InvalidRequestError(
            f"`Idempotency-Key` must have 1 to {naming.IDEMPOTENCY_KEY_MAX_CHARS} characters, not {len(key)}.",
            field="Idempotency-Key",
        )
    try:
        text = f"{scope}\0{key}".encode()
    except UnicodeEncodeError:
        raise InvalidRequestError("`Idempotency-Key` holds a lone surrogate.", field="Idempotency-Key") from None
    digest = hashlib.blake2b(text, digest_size=24).digest()
    return base64.urlsafe_b64encode(digest).decode()
