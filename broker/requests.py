"""What callers may ask: one typed, checked definition each, for HTTP, the OpenAPI document and Python alike.

Constraints stand in the types; what only some combinations forbid is checked by the functions below. `NewTask` and
`Completion` are what the store takes: values as received bytes.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from broker import naming, values
from broker.errors import InvalidRequestError
from broker.randomness import new_secret, new_uuid
from broker.settings import Settings
from broker.task import TaskState

T = TypeVar("T")

MOST_SECONDS: Final = 10 * 365 * 86_400
DEFAULT_MAX_ATTEMPTS: Final = 3
DEFAULT_MOST_PENDING: Final = 100_000

CURSOR_PATTERN: Final = r"^[0-9a-f]{1,13}$(?!\n)"

_PATTERNS_IN_WORDS: Final = {
    CURSOR_PATTERN: "a cursor as the page before gave it",
    naming.UUID_PATTERN: "1 to 128 letters, digits, `_` or `-`, the first a letter or digit",
    naming.QUEUE_PATTERN: "1 to 64 of a-z, 0-9, `_`, `.` or `-`, a letter or digit at both ends, and neither "
    "`-request-` nor `-response-` inside or at the end",
}

Uuid = Annotated[str, Meta(pattern=naming.UUID_PATTERN, description="Names one task.", examples=["084Tkjfh"])]
Queue = Annotated[
    str, Meta(pattern=naming.QUEUE_PATTERN, description="Shared by tasks and workers.", examples=["createbranch"])
]
Wait = Annotated[
    float, Meta(ge=0, le=1e12, description="Seconds to hold; clamped to BROKER_WAIT_MAX_S.", examples=[30])
]
Duration = Annotated[float, Meta(gt=0, le=MOST_SECONDS)]
Delay = Annotated[float, Meta(ge=0, le=MOST_SECONDS, description="Seconds until the task may be claimed.")]
JsonValue = Annotated[Raw, Meta(description="Any JSON value; it comes back byte for byte.")]
Lease = Annotated[str, Meta(min_length=1, max_length=128, description="As a claim gave it.")]


class CreateRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Asks for a task, or for the one that already has this uuid."""

    uuid: Uuid | None = None
    queue: Queue = naming.DEFAULT_QUEUE
    payload: JsonValue | UnsetType = UNSET
    wait: Wait | None = None
    expires_in: Annotated[Duration, Meta(description="Seconds until the task expires unless it has ended.")] | None = (
        None
    )
    retention: Annotated[Delay, Meta(description="Seconds that the ended task's record is kept.")] | None = None
    priority: Annotated[int, Meta(ge=0, le=9, description="9 goes first.")] = 0
    delay: Delay = 0
    max_attempts: (
        Annotated[int, Meta(ge=1, le=1_000, description="Executions at most; without it the handler's, else 3.")] | None
    ) = None
    exclusive: Annotated[bool, Meta(description="Refuse when somebody already waits for the task.")] = False


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


class CancelRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Cancels a task wherever it is."""

    uuid: Uuid


class QueryRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Reads a task, holding until it has ended where `wait` asks for it."""

    uuid: Uuid
    wait: Wait | None = None


class RetryRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Asks for a new task like one that has failed or expired."""

    uuid: Uuid


class ListRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
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


class QueuesRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Reads the numbers of all queues."""


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


class Completion(msgspec.Struct, frozen=True, kw_only=True):
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


def convert(fields: dict[str, Any], request_type: type[T], *, from_text: bool = False) -> T:
    """Checks keyword or query fields against a request type.

    Args:
        fields: By name; JSON values as `msgspec.Raw`.
        request_type: One of the requests above.
        from_text: Whether numbers and booleans come as text.

    Raises:
        InvalidRequestError: A field is unknown, missing, of the wrong type or out of bounds.
    """
    try:
        return msgspec.convert(fields, request_type, strict=not from_text)
    except msgspec.ValidationError as error:
        raise invalid(error) from None


def invalid(error: msgspec.ValidationError) -> InvalidRequestError:
    """msgspec's finding as a sentence that names the field and what would be right."""
    reason, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    reason = reason[0].lower() + reason[1:]
    for pattern, words in _PATTERNS_IN_WORDS.items():
        reason = reason.replace(f"`str` matching regex {pattern!r}", words)
    if not field:
        return InvalidRequestError(f"The request cannot be used: {reason}.")
    return InvalidRequestError(f"`{field}` cannot be used: {reason}.", field=field)


def new_task(request: CreateRequest, settings: Settings, *, idempotency_key: str | None = None) -> NewTask:
    """Checks the payload and fills in the defaults.

    Raises:
        InvalidRequestError: The payload or the key is not acceptable.
        PayloadTooLargeError: The payload is longer than `max_body_bytes`.
    """
    if request.exclusive:
        raise InvalidRequestError("`exclusive` is not supported by this version; leave it out.", field="exclusive")
    payload = received(request.payload)
    expires_in = settings.task_ttl_s if request.expires_in is None else request.expires_in
    retention = settings.retention_s if request.retention is None else request.retention
    return NewTask(
        uuid=request.uuid or new_uuid(),
        uuid_is_chosen=request.uuid is not None,
        queue=request.queue,
        payload=payload,
        fingerprint=values.fingerprint(payload, "payload", max_bytes=settings.max_body_bytes),
        priority=request.priority,
        delay_ms=milliseconds(request.delay),
        expires_ms=max(1, milliseconds(expires_in)),
        retention_ms=milliseconds(retention),
        max_attempts=request.max_attempts,
        seal=new_secret(),
        idempotency=_idempotency_digest(request.queue, idempotency_key),
        most_pending=settings.queue_max_pending,
        drops_oldest=settings.queue_full == "drop-oldest",
    )


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
        idempotency=_idempotency_digest(f"retry of {request.uuid}", idempotency_key),
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
    return Completion(state=state, result=result, error=_error_json(error, max_bytes))


def is_outcome_of(document: bytes, completion: Completion) -> bool:
    """Whether a task JSON tells the outcome that `completion` asks for: same state, same result, same error."""
    stored = _outcome_decoder.decode(document)
    return (
        stored.state is completion.state
        and values.are_same(received(stored.result), completion.result)
        and values.are_same(received(stored.error), completion.error)
    )


def received(value: Raw | UnsetType) -> bytes:
    """The bytes of a value as they came; `values.ABSENT` when there was none."""
    return bytes(value) if isinstance(value, Raw) else values.ABSENT


def milliseconds(seconds: float) -> int:
    """Rounded to the store's unit of time."""
    return round(seconds * 1_000)


def _error_json(error: ErrorRequest | None, max_bytes: int) -> bytes:
    if error is None:
        return values.ABSENT
    if isinstance(error.details, Raw):
        values.check(bytes(error.details), "error.details", max_bytes=max_bytes)
    encoded = msgspec.json.encode(error)
    values.check_length(encoded, "error", max_bytes=max_bytes)
    return encoded


def _idempotency_digest(scope: str, key: str | None) -> str | None:
    if key is None:
        return None
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
