"""Creates: the command, and what its reply says. Retries of ended tasks answer alike."""

from __future__ import annotations

from functools import cache
from typing import Final

import msgspec

from broker import naming
from broker.errors import (
    BrokerError,
    IdempotencyMismatchError,
    QueueFullError,
    TaskAlreadyFinalError,
    TaskConflictError,
)
from broker.requests import NewTask, Retry
from broker.store import scripts
from broker.store.codes import Code
from broker.store.commands import Batch, Command, Reply
from broker.store.queries import StoredTask
from broker.store.script_answers import already_final, broken, document_of, flag, raise_lost
from broker.task import TaskState

_terms_encoder: Final = msgspec.msgpack.Encoder()
_ENDED: Final = {TaskState.SUCCEEDED: "succeeded", TaskState.CANCELLED: "been cancelled"}


class Created(msgspec.Struct, frozen=True):
    """The answer to a create: the task that now has the uuid, new or not."""

    uuid: str
    is_new: bool
    seal: str
    state: TaskState
    attempt: int
    created_ms: int
    expires_ms: int
    document: bytes | None


@cache
def _create_batch(most_pending: int, drops_oldest: bool) -> Batch:
    return scripts.CREATE_TASKS.batch(naming.created_key(), most_pending, flag(drops_oldest))


def create_command(new: NewTask, *, wants_document: bool) -> Command:
    """The create as a command, for the connection of the caller's choice; `read_created` reads its reply."""
    # As `scripts.CREATE_TERMS` has them.
    terms = (
        *(new.queue, new.priority, new.delay_ms, new.expires_ms, new.retention_ms, new.max_attempts),
        *(new.uuid_is_chosen, wants_document, new.idempotency),
    )
    texts = b"%b%b\0" % (f"{new.seal}\0{new.fingerprint}\0".encode(), new.payload)
    arguments = (new.uuid, _terms_encoder.encode(terms), texts)
    # A second run attaches to what the first one made.
    return Command(arguments, repeatable=True, batch=_create_batch(new.most_pending, new.drops_oldest))


def is_new(reply: Reply) -> bool:
    """Whether the reply to `create_command`, without a document, says that the task was made by it, as asked: under its
    uuid and seal."""
    return type(reply) is int


def read_created(reply: Reply, new: NewTask) -> Created:
    """Reads the reply to `create_command`.

    Raises:
        TaskConflictError: The uuid names a task with another queue or payload.
        IdempotencyMismatchError: The key stands for another request.
        QueueFullError: The queue takes no more.
    """
    if is_new(reply):
        return _new(new, reply)
    code = reply[0]
    if code == Code.CREATED:
        return _new(new, reply[1], reply[2])
    if code == Code.ATTACHED:
        return Created(
            uuid=reply[1].decode(),
            is_new=False,
            seal=reply[2].decode(),
            state=TaskState(reply[3].decode()),
            attempt=int(reply[4]),
            created_ms=int(reply[5]),
            expires_ms=int(reply[6]),
            document=document_of(reply, 7),
        )
    if code == Code.CONFLICT:
        raise TaskConflictError(
            f"The uuid {new.uuid} already names a task with another queue or payload: choose another uuid, or send "
            "what the first call sent to attach to it."
        )
    if code == Code.MISMATCH:
        raise IdempotencyMismatchError(
            "This Idempotency-Key already stands for another request of the queue: use a new key for a new request."
        )
    if code == Code.FULL:
        raise _queue_full(new.queue, new.most_pending)
    raise broken(reply)


def _new(new: NewTask, created_ms: int, document: bytes | None = None) -> Created:
    return Created(new.uuid, True, new.seal, TaskState.PENDING, 0, created_ms, created_ms + new.expires_ms, document)


def created_or_error(reply: Reply, new: NewTask) -> Created | BrokerError:
    """The same for one of several: an error is its answer."""
    try:
        if isinstance(reply, BaseException):
            raise reply
        return read_created(reply, new)
    except BrokerError as error:
        return error


def read_retried(reply: Reply, retry: Retry) -> StoredTask:
    """Reads the reply to a retry; raises as `Transitions.retry_ended` does."""
    code = reply[0]
    raise_lost(code, retry.uuid)
    if code == Code.CONFLICT:
        raise TaskConflictError(
            f"The task {retry.uuid} is still {reply[1].decode()}: only a failed or an expired one can be retried."
        )
    if code == Code.FINAL:
        raise _not_to_retry(retry.uuid, reply)
    if code == Code.FULL:
        raise _queue_full(reply[1].decode(), retry.most_pending)
    return StoredTask(reply[1].decode(), reply[2].decode(), reply[3].decode(), TaskState(reply[4].decode()), reply[5])


def _not_to_retry(uuid: str, reply: Reply) -> TaskAlreadyFinalError:
    error = already_final(uuid, reply)
    error.args = (f"The task {uuid} has {_ENDED[error.state]}: only a failed or an expired one can be retried.",)
    return error


def _queue_full(queue: str, most: int) -> QueueFullError:
    return QueueFullError(f"The queue {queue} is full: at most {most} of its tasks may be pending. Try again later.")
