"""What callers may ask of several tasks in one call. Each task has an answer of its own, so each is read by itself."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from broker import values
from broker.errors import BrokerError, InvalidRequestError
from broker.requests.fields import Uuid, Wait, invalid
from broker.requests.tasks import BatchedTask

MOST_TASKS: Final = 1_000
MOST_UUIDS: Final = 100

Until = Literal["all", "any"]


class BatchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Asks for many tasks, each as `createTask` does with `wait` 0."""

    tasks: Annotated[list[BatchedTask], Meta(max_length=MOST_TASKS)]


class QuerySeveralRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Reads tasks, holding until they have ended where `wait` asks for it."""

    uuid: Annotated[list[Uuid], Meta(min_length=1, max_length=MOST_UUIDS, description="Up to 100, each by itself.")]
    wait: Wait | None = None
    until: Annotated[
        Literal["all", "any"],
        Meta(description="Which tasks must have ended to end the wait. Given, or with several uuids, answers a list."),
    ] = "all"


# As `BatchRequest`, but each task stays the bytes that came: one that cannot be used harms no other. An object with a
# field a task, written as an array, is the one type that is refused at the first task too many, before the millions
# that fit into a body have become objects.
_Items = msgspec.defstruct(
    "_Items",
    [(f"task_{place}", Raw | UnsetType, UNSET) for place in range(MOST_TASKS)],
    array_like=True,
    forbid_unknown_fields=True,
)
_Batch = msgspec.defstruct("_Batch", [("tasks", _Items)], forbid_unknown_fields=True)
_batch_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Batch)
_task_decoder = msgspec.json.Decoder(BatchedTask)


def read_batch(body: bytes) -> list[Raw]:
    """The tasks of a `BatchRequest`, each as it came.

    Raises:
        MalformedJsonError: The body is not JSON.
        InvalidRequestError: It is no batch, or holds more than `MOST_TASKS`.
    """
    try:
        items = _batch_decoder.decode(body or b"{}").tasks
    except msgspec.ValidationError as error:
        if "at most length" in str(error):
            reason = f"`tasks` holds more than {MOST_TASKS} tasks: send them in several calls."
            raise InvalidRequestError(reason, field="tasks") from None
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise values.refusal(body, "body", str(error)) from None
    except RecursionError:
        raise InvalidRequestError(f"The body is nested deeper than {values.MAX_NESTING} levels.") from None
    return [item for item in msgspec.structs.astuple(items) if item is not UNSET]


def read_batched(item: Raw) -> BatchedTask:
    """One task of a batch. Raises MalformedJsonError, InvalidRequestError."""
    try:
        return _task_decoder.decode(item)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise values.refusal(bytes(item), "task", str(error)) from None
    except RecursionError:
        raise InvalidRequestError(f"The task is nested deeper than {values.MAX_NESTING} levels.") from None


def in_item(error: BrokerError, place: int) -> BrokerError:
    """The error of one task, telling which: its field becomes `tasks[3].uuid`."""
    text, item = str(error), f"tasks[{place}]"
    error.args = (f"`{item}.{text[1:]}" if text.startswith("`") else f"`{item}`: {text}",)
    if isinstance(error, InvalidRequestError):
        error.field = f"{item}.{error.field}" if error.field else item
    return error
