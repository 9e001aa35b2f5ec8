"""One method per state change of a task: the script's arguments in, a typed answer out, codes to errors once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from broker import naming
from broker.errors import (
    BrokerError,
    InvalidRequestError,
    StoreError,
)
from broker.randomness import new_report
from broker.requests import Completion, LimitsRequest, NewTask, Release, Retry, is_outcome_of
from broker.store import scripts
from broker.store.claims import Claimed, Claims, ClaimWish, claim_command, read_claims
from broker.store.codes import Code
from broker.store.commands import Awaited, Command, Receiver, Reply, Sender, send_all
from broker.store.completions import Changed, finish_command, read_finished
from broker.store.creates import Created, create_command, created_or_error, read_created, read_retried
from broker.store.fence import UnconfirmedError
from broker.store.queries import StoredTask
from broker.store.script_answers import already_final, flag, raise_lost
from broker.task import TaskState

EVENTS_KEPT: Final = 2_000
EVENT_BYTES_KEPT: Final = 2**20
"""What the events of one task may take together, whatever their number: four of the longest by default."""
MOST_LIMITED: Final = 1_000
"""Queues that have limits: these are never forgotten, and names are their callers' choice."""

_CONFIRMED: Final = Command(("PING",), repeatable=True)
"""Its reply is given when replicas confirm."""


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

    def hand_create(self, new: NewTask, receiver: Receiver) -> None:
        """The same for a receiver, which is given a reply that `read_created` knows."""
        self._link.hand(create_command(new, wants_document=True), receiver)

    async def create_all(self, tasks: Sequence[NewTask]) -> list[Created | BrokerError]:
        """Creates or attaches several in one write; each has its own answer, an error that `create` would raise or what
        was created, and none carries the task JSON."""
        replies = await asyncio.gather(
            *send_all(self._link, [create_command(new, wants_document=False) for new in tasks]),
            return_exceptions=True,
        )
        return [created_or_error(reply, new) for reply, new in zip(replies, tasks, strict=True)]

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
                naming.tasks_key(),
                retry.uuid,
                retry.new_uuid,
                retry.seal,
                retry.idempotency or "",
                retry.most_pending,
                flag(retry.drops_oldest),
                # Without a key, a second run makes a second task.
                repeatable=retry.idempotency is not None,
            )
        )
        return read_retried(reply, retry)

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
        future: asyncio.Future[Claims] = asyncio.get_running_loop().create_future()
        self.hand_claim(worker, lease_ms, wishes, Awaited(future), most=most, wants_documents=wants_documents)
        return await future

    def hand_claim(
        self,
        worker: str,
        lease_ms: int,
        wishes: Sequence[ClaimWish],
        receiver: Receiver,
        *,
        most: int | None = None,
        wants_documents: bool = False,
    ) -> None:
        """The same for a receiver, which is given the `Claims`; it leaves at once."""
        command = claim_command(worker, lease_ms, wishes, most=most, wants_documents=wants_documents)
        claiming = _Claiming(self, command, receiver)
        if self._claims_in_doubt:
            self._link.hand(_CONFIRMED, _Trust(claiming))
        else:
            self.ask(claiming)

    def ask(self, claiming: _Claiming) -> None:
        """Claims; only once replicas are known to confirm."""
        self._claims_in_doubt = False
        self._link.hand_all([(claiming.command, claiming)])

    def doubt(self, error: UnconfirmedError) -> None:
        """Replicas don't confirm: what was claimed goes back, and nothing more is claimed until they do."""
        self._claims_in_doubt = True
        for claimed in read_claims(error.reply).tasks:
            self._return(claimed)

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
            scripts.EXTEND_LEASE.command(naming.tasks_key(), uuid, lease, lease_ms, *event, repeatable=True)
        )
        raise_lost(reply[0], uuid)
        return TaskState(reply[1].decode()) if reply[0] == Code.FINAL else int(reply[1])

    async def finish(
        self, uuid: str, completion: Completion, *, lease: str | None = None, wants_document: bool = False
    ) -> Changed:
        """Ends a task. Without `lease`, as a third party.

        Raises:
            TaskAlreadyFinalError: It has another outcome.
            LeaseLostError, TaskNotFoundError
        """
        reply = await self._link.send(finish_command(uuid, completion, lease or "", wants_document=wants_document))
        return read_finished(reply, uuid, completion)

    def hand_finish(
        self, uuid: str, lease: str, completion: Completion, receiver: Receiver, *, wants_document: bool = False
    ) -> None:
        """The same for a receiver, which is given a reply that `is_changed` and `read_finished` know."""
        self._link.hand(finish_command(uuid, completion, lease, wants_document=wants_document), receiver)

    def flush_soon(self) -> None:
        """Has what is handed over until then leave together, behind what the loop is to run already."""
        self._link.flush_soon()

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
        raise_lost(reply[0], uuid)
        if reply[0] == Code.FINAL:
            raise already_final(uuid, reply)

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
        raise_lost(reply[0], release.uuid)
        state, document = TaskState(reply[1].decode()), reply[2]
        if reply[0] == Code.FINAL and not _is_reported(release, document):
            raise already_final(release.uuid, reply)
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

    async def _let_go(self, release: Release) -> Code:
        reply = await self._link.send(_requeue(release, wants_document=False))
        raise_lost(reply[0], release.uuid)
        if reply[0] == Code.FINAL:
            raise already_final(release.uuid, reply)
        return Code(reply[0])


class _Claiming:
    """The receiver of a claim's reply."""

    __slots__ = ("_receiver", "_transitions", "command")

    def __init__(self, transitions: Transitions, command: Command, receiver: Receiver) -> None:
        self._transitions = transitions
        self._receiver = receiver
        self.command = command

    @property
    def is_abandoned(self) -> bool:
        return self._receiver.is_abandoned

    def succeed(self, reply: Reply) -> None:
        try:
            claims = read_claims(reply)
        except Exception as error:
            self._receiver.fail(StoreError(f"The reply to a claim cannot be read: {error!r}."))
        else:
            self._receiver.succeed(claims)

    def fail(self, error: Exception) -> None:
        try:
            if isinstance(error, UnconfirmedError):
                self._transitions.doubt(error)
        finally:
            self._receiver.fail(error)

    def begin(self) -> None:
        """Replicas confirm: it may be asked."""
        self._transitions.ask(self)

    def refuse(self, error: Exception) -> None:
        """It was not asked."""
        self._receiver.fail(error)


class _Trust:
    """The receiver of what was asked to know whether replicas confirm again, before a claim that waits for that."""

    __slots__ = ("_claiming",)

    def __init__(self, claiming: _Claiming) -> None:
        self._claiming = claiming

    @property
    def is_abandoned(self) -> bool:
        return self._claiming.is_abandoned

    def succeed(self, reply: Reply) -> None:
        self._claiming.begin()

    def fail(self, error: Exception) -> None:
        # Nothing was claimed that would have to go back.
        self._claiming.refuse(error)


def _requeue(release: Release, *, wants_document: bool = True) -> Command:
    return scripts.REQUEUE_TASK.command(
        naming.tasks_key(),
        release.uuid,
        release.lease,
        flag(release.has_failed),
        release.delay_ms,
        release.error,
        flag(wants_document),
        "" if release.longest_delay_ms is None else release.longest_delay_ms,
        repeatable=False,
    )


def _defer(uuid: str, lease: str, *, expires_ms: int | None = None, wants_document: bool = False) -> Command:
    return scripts.DEFER_TASK.command(
        naming.tasks_key(),
        uuid,
        lease,
        flag(wants_document),
        "" if expires_ms is None else expires_ms,
        repeatable=False,
    )


def _is_reported(release: Release, document: bytes) -> bool:
    """Whether a task has ended as its worker's last error would end it."""
    return release.has_failed and is_outcome_of(document, Completion(state=TaskState.FAILED, error=release.error))


def _forget_outcome(future: asyncio.Future[Reply]) -> None:
    if not future.cancelled():
        future.exception()
