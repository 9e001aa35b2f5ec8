"""One method per state change of a task: the script's arguments in, a typed answer out, codes to errors once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from broker import naming
from broker.errors import (
    IdempotencyMismatchError,
    LeaseLostError,
    QueueFullError,
    TaskAlreadyFinalError,
    TaskConflictError,
    TaskNotFoundError,
)
from broker.randomness import new_secret
from broker.requests import DEFAULT_MAX_ATTEMPTS, Completion, NewTask, Retry, is_outcome_of
from broker.store import scripts
from broker.store.codes import Code
from broker.store.commands import Command, Reply
from broker.store.link import Link
from broker.store.queries import StoredTask
from broker.task import TaskState

SWEEP_BATCH: Final = 200
"""Tasks a sweep script handles at most: some milliseconds of the server's time."""


QUEUE_KEPT_MS: Final = 3_600_000
"""How long a queue is known that has no open tasks, no workers and no held calls."""
PRESENCE_BATCH: Final = 500
"""Queues a presence report holds at most."""


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


class Claimed(msgspec.Struct, frozen=True):
    """One claimed attempt; times in milliseconds of the server's clock."""

    uuid: str
    queue: str
    attempt: int
    lease: str
    lease_end_ms: int
    created_ms: int
    expires_ms: int
    payload: bytes | None


class Changed(msgspec.Struct, frozen=True):
    """The answer to a completion that won, or repeats the winner."""

    uuid: str
    changed: bool
    state: TaskState
    document: bytes | None


class ClaimWish(msgspec.Struct, frozen=True):
    """How many tasks of one queue a worker would take."""

    queue: str
    most: int
    max_attempts: int = DEFAULT_MAX_ATTEMPTS


def create_command(new: NewTask, *, wants_document: bool) -> Command:
    """The create as a command, for the connection of the caller's choice; `read_created` reads its reply."""
    return scripts.CREATE_TASK.command(
        naming.task_key(new.uuid),
        new.uuid,
        _flag(new.uuid_is_chosen),
        new.queue,
        new.payload,
        new.fingerprint,
        new.priority,
        new.delay_ms,
        new.expires_ms,
        new.retention_ms,
        new.seal,
        new.most_pending,
        _flag(new.drops_oldest),
        "" if new.max_attempts is None else new.max_attempts,
        new.idempotency or "",
        _flag(wants_document),
        # A second run attaches to what the first one made.
        repeatable=True,
    )


def read_created(reply: Reply, new: NewTask) -> Created:
    """Reads the reply to `create_command`.

    Raises:
        TaskConflictError: The uuid names a task with another queue or payload.
        IdempotencyMismatchError: The key stands for another request.
        QueueFullError: The queue takes no more.
    """
    code, uuid = reply[0], reply[1].decode()
    if code == Code.CONFLICT:
        raise TaskConflictError(
            f"The uuid {uuid} already names a task with another queue or payload: choose another uuid, or send what "
            "the first call sent to attach to it."
        )
    if code == Code.MISMATCH:
        raise IdempotencyMismatchError(
            "This Idempotency-Key already stands for another request of the queue: use a new key for a new request."
        )
    if code == Code.FULL:
        raise _queue_full(new.queue, new.most_pending)
    return Created(
        uuid=uuid,
        is_new=code == Code.CREATED,
        seal=reply[2].decode(),
        state=TaskState(reply[3].decode()),
        attempt=int(reply[4]),
        created_ms=int(reply[5]),
        expires_ms=int(reply[6]),
        document=reply[7],
    )


class Transitions:
    """Every change of state that the store knows.

    Args:
        link: The connection that the scripts run on.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, new: NewTask) -> Created:
        """Creates or attaches; the answer carries the task JSON. Raises as `read_created` does."""
        return read_created(await self._link.send(create_command(new, wants_document=True)), new)

    async def retry_ended(self, retry: Retry) -> StoredTask:
        """Makes a new task of a failed or expired one, or finds the one that the idempotency key stands for.

        Raises:
            TaskConflictError: It is still open.
            TaskAlreadyFinalError: It succeeded or was cancelled.
            QueueFullError: Its queue takes no more.
            TaskNotFoundError
        """
        reply = await self._link.send(
            scripts.RETRY_TASK.command(
                naming.task_key(retry.uuid),
                retry.uuid,
                retry.new_uuid,
                retry.seal,
                retry.idempotency or "",
                retry.most_pending,
                _flag(retry.drops_oldest),
                # Without a key, a second run makes a second task.
                repeatable=retry.idempotency is not None,
            )
        )
        return _read_retried(reply, retry)

    async def claim(self, worker: str, lease_ms: int, wishes: Sequence[ClaimWish]) -> list[Claimed]:
        """Takes up to so many tasks of each queue, highest priority first, then oldest."""
        arguments: list[str | int] = [worker, new_secret(), lease_ms]
        for wish in wishes:
            arguments += [wish.queue, wish.most, wish.max_attempts]
        # A lost reply leaves tasks leased to nobody: the sweep frees them. A second run would claim yet others.
        reply = await self._link.send(
            scripts.CLAIM_TASKS.command(naming.pending_key(wishes[0].queue), *arguments, repeatable=False)
        )
        return [_read_claimed(row) for row in reply]

    async def extend(self, uuid: str, lease: str, lease_ms: int, progress: bytes = b"") -> TaskState | int:
        """Renews a lease; gives its new end in milliseconds, or the state in which somebody else ended the task.

        Raises:
            LeaseLostError, TaskNotFoundError
        """
        reply = await self._link.send(
            scripts.EXTEND_LEASE.command(naming.task_key(uuid), uuid, lease, lease_ms, progress, repeatable=True)
        )
        _raise_lost(reply[0], uuid)
        return TaskState(reply[1].decode()) if reply[0] == Code.FINAL else int(reply[1])

    async def finish(
        self, uuid: str, completion: Completion, *, lease: str | None = None, wants_document: bool = False
    ) -> Changed:
        """Ends a task. Without `lease`, as a third party.

        Raises:
            TaskAlreadyFinalError: It has another outcome.
            LeaseLostError, TaskNotFoundError
        """
        reply = await self._link.send(
            scripts.FINISH_TASK.command(
                naming.task_key(uuid),
                uuid,
                completion.state,
                completion.result,
                completion.error,
                lease or "",
                _flag(wants_document),
                # The worst that a second run can do is to tell the one who changed it that it was so already.
                repeatable=True,
            )
        )
        _raise_lost(reply[0], uuid)
        state, document = TaskState(reply[1].decode()), reply[2]
        if reply[0] == Code.FINAL and not is_outcome_of(document, completion):
            raise TaskAlreadyFinalError(uuid, state, document)
        return Changed(uuid, reply[0] == Code.CHANGED, state, document)

    async def retry(self, uuid: str, lease: str, completion: Completion, delay_ms: int) -> bool:
        """Returns a failed attempt; whether another one follows (else the task has failed with `completion`).

        Raises:
            TaskAlreadyFinalError, LeaseLostError, TaskNotFoundError
        """
        return await self._requeue(uuid, lease, failed=True, delay_ms=delay_ms, completion=completion) == Code.REQUEUED

    async def give_back(self, uuid: str, lease: str, delay_ms: int = 0) -> None:
        """Returns a task unharmed; the attempt does not count. Raises as `retry` does."""
        await self._requeue(uuid, lease, failed=False, delay_ms=delay_ms, completion=None)

    async def defer(self, uuid: str, lease: str) -> None:
        """Leaves a running task to a third party. Raises as `retry` does."""
        reply = await self._link.send(
            scripts.DEFER_TASK.command(naming.task_key(uuid), uuid, lease, "", repeatable=False)
        )
        _raise_lost(reply[0], uuid)
        if reply[0] == Code.FINAL:
            raise _already_final(uuid, reply)

    async def take_sweep_turn(self, sweeper: str, turn_ms: int) -> bool:
        """Whether this process sweeps now: one does per `turn_ms`, whichever asks first."""
        return await self._take_turn(naming.sweep_turn_key(), sweeper, turn_ms)

    async def take_upload_turn(self, cleaner: str, turn_ms: int) -> bool:
        """The same for files that no task needs any more."""
        return await self._take_turn(naming.upload_turn_key(), cleaner, turn_ms)

    async def _take_turn(self, key: str, asker: str, turn_ms: int) -> bool:
        return bool(await self._link.send(scripts.TAKE_TURN.command(key, asker, turn_ms, repeatable=True)))

    async def sweep_leases(self) -> int:
        """Requeues or fails tasks whose lease ran out; how many."""
        return await self._sweep(scripts.SWEEP_LEASES, naming.leases_key())

    async def sweep_delayed(self) -> int:
        """Makes due tasks claimable; how many."""
        return await self._sweep(scripts.SWEEP_DELAYED, naming.delayed_key())

    async def sweep_expired(self) -> int:
        """Expires open tasks whose time is over; how many."""
        return await self._sweep(scripts.SWEEP_EXPIRED, naming.expiring_key())

    async def sweep_retained(self, most_tasks: int, most_bytes: int) -> int:
        """Forgets ended tasks whose retention is over, and the oldest beyond the limits; how many."""
        return await self._sweep(scripts.SWEEP_RETAINED, naming.retained_key(), most_tasks, most_bytes)

    async def sweep_queues(self) -> int:
        """Forgets queues that nobody uses any more; how many were looked at."""
        return await self._sweep(scripts.SWEEP_QUEUES, naming.queues_key(), QUEUE_KEPT_MS)

    async def report_workers(self, worker: str, numbers: Mapping[str, int], ttl_ms: int) -> None:
        """Says for which queues a worker is there, for `ttl_ms`; 0 takes it out."""
        await self._report(worker, "1", numbers, ttl_ms)

    async def report_waiters(self, process: str, numbers: Mapping[str, int], ttl_ms: int) -> None:
        """Says how many calls a process holds for tasks of which queues, for `ttl_ms`; 0 takes it out."""
        await self._report(process, "", numbers, ttl_ms)

    async def _report(self, process: str, kind: str, numbers: Mapping[str, int], ttl_ms: int) -> None:
        pairs = list(numbers.items())
        for start in range(0, len(pairs), PRESENCE_BATCH):
            words = [word for pair in pairs[start : start + PRESENCE_BATCH] for word in pair]
            command = scripts.REPORT_PRESENCE.command(
                naming.queues_key(), process, ttl_ms, kind, *words, repeatable=True
            )
            await self._link.send(command)

    async def _sweep(self, script: scripts.Script, key: str, *arguments: int) -> int:
        return int(await self._link.send(script.command(key, *arguments, SWEEP_BATCH, repeatable=True)))

    async def _requeue(
        self, uuid: str, lease: str, *, failed: bool, delay_ms: int, completion: Completion | None
    ) -> Code:
        reply = await self._link.send(
            scripts.REQUEUE_TASK.command(
                naming.task_key(uuid),
                uuid,
                lease,
                _flag(failed),
                delay_ms,
                completion.error if completion else "",
                "",
                repeatable=False,
            )
        )
        _raise_lost(reply[0], uuid)
        if reply[0] == Code.FINAL:
            raise _already_final(uuid, reply)
        return Code(reply[0])


def _read_claimed(row: list[Any]) -> Claimed:
    return Claimed(
        uuid=row[0].decode(),
        queue=row[1].decode(),
        attempt=int(row[2]),
        lease=row[3].decode(),
        lease_end_ms=int(row[4]),
        created_ms=int(row[5]),
        expires_ms=int(row[6]),
        payload=row[7],
    )


def _read_retried(reply: Reply, retry: Retry) -> StoredTask:
    code = reply[0]
    _raise_lost(code, retry.uuid)
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
    error = _already_final(uuid, reply)
    error.args = (f"The task {uuid} has {_ENDED[error.state]}: only a failed or an expired one can be retried.",)
    return error


_ENDED: Final = {TaskState.SUCCEEDED: "succeeded", TaskState.CANCELLED: "been cancelled"}


def _queue_full(queue: str, most: int) -> QueueFullError:
    return QueueFullError(f"The queue {queue} is full: at most {most} of its tasks may be pending. Try again later.")


def _flag(value: bool) -> str:
    return "1" if value else ""


def _raise_lost(code: int, uuid: str) -> None:
    if code == Code.NOT_FOUND:
        raise TaskNotFoundError(uuid)
    if code == Code.LEASE_LOST:
        raise LeaseLostError(f"This lease of task {uuid} no longer holds: it ran out, was replaced or was given back.")


def _already_final(uuid: str, reply: Reply) -> TaskAlreadyFinalError:
    return TaskAlreadyFinalError(uuid, TaskState(reply[1].decode()), reply[2])
