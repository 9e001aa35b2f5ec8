"""One method per state change of a task: the script's arguments in, a typed answer out, codes to errors once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec

from broker import naming
from broker.errors import (
    BrokerError,
    IdempotencyMismatchError,
    InvalidRequestError,
    LeaseLostError,
    QueueFullError,
    StoreError,
    TaskAlreadyFinalError,
    TaskConflictError,
    TaskNotFoundError,
)
from broker.randomness import new_report, new_secret
from broker.requests import DEFAULT_MAX_ATTEMPTS, Completion, LimitsRequest, NewTask, Release, Retry, is_outcome_of
from broker.store import scripts
from broker.store.codes import Code
from broker.store.commands import Batch, Command, Reply, Sender, send_all
from broker.store.fence import UnconfirmedError
from broker.store.queries import StoredTask
from broker.task import TaskState

SWEEP_BATCH: Final = 200
"""Tasks a sweep script handles at most: some milliseconds of the server's time."""


QUEUE_KEPT_MS: Final = 3_600_000
"""How long a queue is known that has no open tasks, no workers and no held calls."""
EVENTS_KEPT: Final = 2_000
EVENT_BYTES_KEPT: Final = 2**20
"""What the events of one task may take together, whatever their number: four of the longest by default."""
MOST_LIMITED: Final = 1_000
"""Queues that have limits: these are never forgotten, and names are their callers' choice."""
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
    """One claimed attempt; times in milliseconds of the server's clock. `document`: the task JSON, where asked for."""

    uuid: str
    queue: str
    attempt: int
    lease: str
    lease_end_ms: int
    created_ms: int
    expires_ms: int
    payload: bytes | None
    document: bytes | None = None


class Claims(msgspec.Struct, frozen=True):
    """What a claim has got. `again_ms`: when a queue that holds more lets another task start, by its rate."""

    tasks: list[Claimed]
    again_ms: Mapping[str, int]


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


@cache
def _create_batch(most_pending: int, drops_oldest: bool) -> Batch:
    return scripts.CREATE_TASKS.batch(naming.created_key(), most_pending, _flag(drops_oldest))


_FINISH_BATCH: Final = scripts.FINISH_TASKS.batch(naming.created_key())


def create_command(new: NewTask, *, wants_document: bool) -> Command:
    """The create as a command, for the connection of the caller's choice; `read_created` reads its reply."""
    arguments = (
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
        "" if new.max_attempts is None else new.max_attempts,
        new.idempotency or "",
        _flag(wants_document),
    )
    # A second run attaches to what the first one made.
    return Command(arguments, repeatable=True, batch=_create_batch(new.most_pending, new.drops_oldest))


def is_new(reply: Reply) -> bool:
    """Whether the reply to `create_command` says that the task was made by it, as asked: under its uuid and seal."""
    return bool(reply[0] == Code.CREATED)


def read_created(reply: Reply, new: NewTask) -> Created:
    """Reads the reply to `create_command`.

    Raises:
        TaskConflictError: The uuid names a task with another queue or payload.
        IdempotencyMismatchError: The key stands for another request.
        QueueFullError: The queue takes no more.
    """
    code = reply[0]
    if code == Code.CREATED:
        return Created(
            new.uuid, True, new.seal, TaskState.PENDING, 0, reply[1], reply[1] + new.expires_ms, _document(reply, 2)
        )
    if code == Code.ATTACHED:
        return Created(
            uuid=reply[1].decode(),
            is_new=False,
            seal=reply[2].decode(),
            state=TaskState(reply[3].decode()),
            attempt=int(reply[4]),
            created_ms=int(reply[5]),
            expires_ms=int(reply[6]),
            document=_document(reply, 7),
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
    raise _broken(reply)


class Transitions:
    """Every change of state that the store knows.

    Args:
        link: What the scripts are sent by.
        aside: The same connection for what nobody is told of; None for `link` itself. They differ where a reply is
            only given when replicas have confirmed it.
        events_kept: How many events of a task are kept.
    """

    def __init__(self, link: Sender, aside: Sender | None = None, *, events_kept: int = EVENTS_KEPT) -> None:
        self._link = link
        self._aside = aside or link
        self._events_kept = events_kept
        self._claims_in_doubt = False

    async def create(self, new: NewTask) -> Created:
        """Creates or attaches; the answer carries the task JSON. Raises as `read_created` does."""
        return read_created(await self._link.send(create_command(new, wants_document=True)), new)

    async def create_all(self, tasks: Sequence[NewTask]) -> list[Created | BrokerError]:
        """Creates or attaches several in one write; each has its own answer, an error that `create` would raise or what
        was created, and none carries the task JSON."""
        replies = await asyncio.gather(
            *send_all(self._link, [create_command(new, wants_document=False) for new in tasks]),
            return_exceptions=True,
        )
        return [_created_or_error(reply, new) for reply, new in zip(replies, tasks, strict=True)]

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

    async def claim(
        self,
        worker: str,
        lease_ms: int,
        wishes: Sequence[ClaimWish],
        *,
        most: int | None = None,
        wants_documents: bool = False,
    ) -> Claims:
        """Takes up to so many tasks of each queue, as its limits allow, highest priority first, then oldest.

        Args:
            worker: Who hears when somebody else ends one of them.
            lease_ms: How long each is the claimer's.
            wishes: The queues, in order.
            most: Tasks in all; without it, only the wishes count.
            wants_documents: Whether each comes with its task JSON.

        Raises:
            UnconfirmedError: Replicas don't confirm the claim. Its tasks are given back, and none are claimed until
                replicas confirm again: attempts are not to be used up meanwhile.
        """
        if self._claims_in_doubt:
            await self._link.send(Command(("PING",), repeatable=True))
            self._claims_in_doubt = False
        in_all = sum(wish.most for wish in wishes) if most is None else most
        arguments: list[str | int] = [worker, new_secret(), lease_ms, in_all, _flag(wants_documents)]
        for wish in wishes:
            arguments += [wish.queue, wish.most, wish.max_attempts]
        # A lost reply leaves tasks leased to nobody: the sweep frees them. A second run would claim yet others.
        command = scripts.CLAIM_TASKS.command(naming.pending_key(wishes[0].queue), *arguments, repeatable=False)
        try:
            reply = await self._link.send(command)
        except UnconfirmedError as error:
            self._claims_in_doubt = True
            for claimed in _read_claims(error.reply).tasks:
                self._return(claimed)
            raise
        return _read_claims(reply)

    def _return(self, claimed: Claimed) -> None:
        """Gives a task back that nobody will run, without waiting for the answer."""
        command = _requeue(Release(uuid=claimed.uuid, lease=claimed.lease), wants_document=False)
        self._aside.send(command).add_done_callback(_forget_outcome)

    async def extend(self, uuid: str, lease: str, lease_ms: int, progress: bytes = b"") -> TaskState | int:
        """Renews a lease; gives its new end in milliseconds, or the state in which somebody else ended the task.

        Args:
            uuid: The task.
            lease: Of its claim.
            lease_ms: How long it holds from now on.
            progress: JSON text to store as the task's progress, and as the next of its events.

        Raises:
            LeaseLostError, TaskNotFoundError
        """
        event = (progress, new_report(), self._events_kept, EVENT_BYTES_KEPT) if progress else ()
        reply = await self._link.send(
            scripts.EXTEND_LEASE.command(naming.task_key(uuid), uuid, lease, lease_ms, *event, repeatable=True)
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
        arguments = (uuid, completion.state, completion.result, completion.error, lease or "", _flag(wants_document))
        # The worst that a second run can do is to tell the one who changed it that it was so already.
        reply = await self._link.send(Command(arguments, repeatable=True, batch=_FINISH_BATCH))
        code = reply[0]
        if code == Code.CHANGED:
            return Changed(uuid, True, completion.state, _document(reply, 1))
        _raise_lost(code, uuid)
        if code != Code.FINAL:
            raise _broken(reply)
        state, document = TaskState(reply[1].decode()), reply[2]
        if not is_outcome_of(document, completion):
            raise TaskAlreadyFinalError(uuid, state, document)
        return Changed(uuid, False, state, document)

    async def retry(self, uuid: str, lease: str, completion: Completion, delay_ms: int) -> bool:
        """Returns a failed attempt; whether another one follows (else the task has failed with `completion`).

        Raises:
            TaskAlreadyFinalError, LeaseLostError, TaskNotFoundError
        """
        failed = Release(uuid=uuid, lease=lease, has_failed=True, error=completion.error, delay_ms=delay_ms)
        return await self._let_go(failed) == Code.REQUEUED

    async def give_back(self, uuid: str, lease: str, delay_ms: int = 0) -> None:
        """Returns a task unharmed; the attempt does not count. Raises as `retry` does."""
        await self._let_go(Release(uuid=uuid, lease=lease, delay_ms=delay_ms))

    async def defer(self, uuid: str, lease: str, *, expires_ms: int | None = None) -> None:
        """Leaves a running task to a third party. Raises as `retry` does.

        Args:
            uuid: The task.
            lease: A claim's lease.
            expires_ms: When it expires, unless its own time is over before; None: its own time alone counts.
        """
        reply = await self._link.send(_defer(uuid, lease, expires_ms=expires_ms))
        _raise_lost(reply[0], uuid)
        if reply[0] == Code.FINAL:
            raise _already_final(uuid, reply)

    async def release(self, release: Release) -> Changed:
        """Lets go of a claimed task: its attempt has failed, it is given back, or a third party will finish it.

        Nothing changes where the task has ended already with the very error that is reported here.

        Returns:
            The task as it is now, with its document.

        Raises:
            TaskAlreadyFinalError, LeaseLostError, TaskNotFoundError
        """
        command = _defer(release.uuid, release.lease, wants_document=True) if release.defers else _requeue(release)
        reply = await self._link.send(command)
        _raise_lost(reply[0], release.uuid)
        state, document = TaskState(reply[1].decode()), reply[2]
        if reply[0] == Code.FINAL and not _is_reported(release, document):
            raise _already_final(release.uuid, reply)
        return Changed(release.uuid, reply[0] != Code.FINAL, state, document)

    async def set_limits(self, queue: str, limits: LimitsRequest) -> None:
        """Sets a queue's limits, or takes them away.

        Raises:
            InvalidRequestError: `MOST_LIMITED` other queues have limits.
        """
        most_started, window_ms = limits.window or ("", "")
        command = scripts.SET_LIMITS.command(
            naming.limits_key(),
            queue,
            b"" if limits.is_empty else msgspec.json.encode(limits),
            "" if limits.max_running is None else limits.max_running,
            most_started,
            window_ms,
            MOST_LIMITED,
            repeatable=True,
        )
        if (await self._link.send(command))[0] == Code.FULL:
            raise InvalidRequestError(
                f"{MOST_LIMITED} queues have limits, and no more may: take away those that are needed no longer.",
                field="queue",
            )

    async def take_sweep_turn(self, sweeper: str, turn_ms: int) -> bool:
        """Whether this process sweeps now: one does per `turn_ms`, whichever asks first."""
        return await self._take_turn(naming.sweep_turn_key(), sweeper, turn_ms)

    async def take_upload_turn(self, cleaner: str, turn_ms: int) -> bool:
        """The same for files that no task needs any more."""
        return await self._take_turn(naming.upload_turn_key(), cleaner, turn_ms)

    async def _take_turn(self, key: str, asker: str, turn_ms: int) -> bool:
        return bool(await self._aside.send(scripts.TAKE_TURN.command(key, asker, turn_ms, repeatable=True)))

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
            await self._aside.send(command)

    async def _sweep(self, script: scripts.Script, key: str, *arguments: int) -> int:
        return int(await self._aside.send(script.command(key, *arguments, SWEEP_BATCH, repeatable=True)))

    async def _let_go(self, release: Release) -> Code:
        reply = await self._link.send(_requeue(release, wants_document=False))
        _raise_lost(reply[0], release.uuid)
        if reply[0] == Code.FINAL:
            raise _already_final(release.uuid, reply)
        return Code(reply[0])


def _requeue(release: Release, *, wants_document: bool = True) -> Command:
    return scripts.REQUEUE_TASK.command(
        naming.task_key(release.uuid),
        release.uuid,
        release.lease,
        _flag(release.has_failed),
        release.delay_ms,
        release.error,
        _flag(wants_document),
        "" if release.longest_delay_ms is None else release.longest_delay_ms,
        repeatable=False,
    )


def _defer(uuid: str, lease: str, *, expires_ms: int | None = None, wants_document: bool = False) -> Command:
    return scripts.DEFER_TASK.command(
        naming.task_key(uuid),
        uuid,
        lease,
        _flag(wants_document),
        "" if expires_ms is None else expires_ms,
        repeatable=False,
    )


def _is_reported(release: Release, document: bytes) -> bool:
    """Whether a task has ended as its worker's last error would end it."""
    return release.has_failed and is_outcome_of(document, Completion(state=TaskState.FAILED, error=release.error))


def _created_or_error(reply: Reply, new: NewTask) -> Created | BrokerError:
    try:
        if isinstance(reply, BaseException):
            raise reply
        return read_created(reply, new)
    except BrokerError as error:
        return error


def _forget_outcome(future: asyncio.Future[Reply]) -> None:
    if not future.cancelled():
        future.exception()


def _read_claims(reply: Reply) -> Claims:
    again_ms = {row[0].decode(): int(row[1]) for row in reply if len(row) == 2}
    return Claims([_read_claimed(row) for row in reply if len(row) > 2], again_ms)


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
        document=row[8] if len(row) > 8 else None,
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


def _document(reply: Reply, place: int) -> bytes | None:
    """The task JSON of an answer; one that was not asked for is not there."""
    return reply[place] if len(reply) > place else None


def _broken(reply: Reply) -> StoreError:
    reason = reply[1].decode("utf-8", "replace") if len(reply) > 1 else "no reason given"
    return StoreError(f"A script failed, probably on a damaged key: {reason}.")


def _flag(value: bool) -> str:
    return "1" if value else ""


def _raise_lost(code: int, uuid: str) -> None:
    if code == Code.NOT_FOUND:
        raise TaskNotFoundError(uuid)
    if code == Code.LEASE_LOST:
        raise LeaseLostError(f"This lease of task {uuid} no longer holds: it ran out, was replaced or was given back.")


def _already_final(uuid: str, reply: Reply) -> TaskAlreadyFinalError:
    return TaskAlreadyFinalError(uuid, TaskState(reply[1].decode()), reply[2])
