"""The broker as a library: create, wait, change, query. Everything that the HTTP service does is a call here."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

from broker import values
from broker.background import Background
from broker.creation import Creation
from broker.deadlines import MOST_S
from broker.errors import BrokerError, StoreUnavailableError, TooManyWaitersError
from broker.naming import DEFAULT_QUEUE
from broker.presence import Presence
from broker.recovery import Recovery
from broker.requests import (
    ChangeRequest,
    CreateRequest,
    ListRequest,
    NewTask,
    RetryRequest,
    completion,
    convert,
    new_task,
    retry,
)
from broker.response_hub import ResponseHub, Waiter
from broker.settings import Settings
from broker.store import scripts
from broker.store.link import Link
from broker.store.queries import Page, Queries, QueueNumbers, StoredTask
from broker.store.topology import Topology
from broker.store.transitions import Changed, Created, Transitions
from broker.task import Task, TaskState, task_from_json

LAST_LOOK_S: Final = 0.5
"""How long a wait that is over waits for the store: whoever asked gets an answer within a second of the deadline."""

T = TypeVar("T")


class TaskPage(msgspec.Struct, frozen=True):
    """Tasks, newest created first, and the cursor of the next page, None at the end."""

    items: Sequence[Task]
    cursor: str | None


class Broker:
    """One process's access to the deployment; open it with `async with` and share it.

    Args:
        settings: What to run with; `settings.redis_url` says where.
        sweeps: Whether this process takes its share of the recovery.
    """

    def __init__(self, settings: Settings, *, sweeps: bool = True) -> None:
        self.settings = settings
        self._sweeps = sweeps
        self._background = Background()

    @classmethod
    def from_url(cls, url: str, settings: Settings | None = None) -> Broker:
        """A broker on the server at `url`, with the given settings or those of the environment."""
        return cls(msgspec.structs.replace(settings or Settings.from_environment(), redis_url=url))

    async def __aenter__(self) -> Broker:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connects.

        Raises:
            StoreUnavailableError: Redis does not answer.
            ConfigurationError: The URL, the login or the server's version cannot work.
        """
        topology = Topology.from_url(self.settings.redis_url)
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._link = Link(topology, name=f"broker-{self.name}", scripts=tuple(script.source for script in scripts.ALL))
        self.transitions = Transitions(self._link)
        self.queries = Queries(self._link)
        self.hub = ResponseHub(topology, name=self.name, queries=self.queries)
        await self._link.open()
        try:
            await self.hub.open()
        except BaseException:
            await self._link.close()
            raise
        self._presence = Presence(partial(self.transitions.report_waiters, self.name), lambda: self.hub.held_by_queue)
        self._background.keep(self._presence.report_forever, "presence")
        if self._sweeps:
            recovery = Recovery(self.transitions, self.settings, self.name)
            self._background.keep(recovery.run_forever, "recovery")

    async def close(self) -> None:
        """Disconnects. Waits still held here end as if their time were over."""
        self.hub.end_all()
        await self._background.cancel()
        await self._presence.leave()
        await self.hub.close()
        await self._link.close()

    @property
    def links(self) -> Mapping[str, Link]:
        """The connections to Redis, by what each is for: `commands`, and the hub's `subscriptions`."""
        return {"commands": self._link, "subscriptions": self.hub.link}

    # For programs: values are Python objects

    async def create(
        self,
        queue: str = DEFAULT_QUEUE,
        payload: Any = None,
        *,
        uuid: str | None = None,
        idempotency_key: str | None = None,
        priority: int = 0,
        delay: float = 0,
        expires_in: float | None = None,
        retention: float | None = None,
        max_attempts: int | None = None,
    ) -> Task:
        """Creates a task, or attaches to the one that has this uuid or key, without waiting for its end.

        Args:
            queue: Which workers it is for.
            payload: Any JSON-serializable value.
            uuid: The task's name; made here when not given.
            idempotency_key: Makes a repeated call attach where the caller has no uuid.
            priority: 0 to 9; 9 goes first.
            delay: Seconds until it may be claimed.
            expires_in: Seconds until it expires unless it has ended.
            retention: Seconds that its record is kept after its end.
            max_attempts: Executions at most; the handler's own limit when not given.

        Raises:
            InvalidRequestError, PayloadTooLargeError: An argument is not acceptable.
            TaskConflictError, IdempotencyMismatchError: uuid or key stand for another request.
            QueueFullError: The queue takes no more.
            StoreUnavailableError: Redis did not confirm; calling again with the same uuid is safe.
        """
        fields: dict[str, Any] = {
            "uuid": uuid,
            "queue": queue,
            "payload": Raw(self._dump(payload, "payload")),
            "priority": priority,
            "delay": delay,
            "expires_in": expires_in,
            "retention": retention,
            "max_attempts": max_attempts,
        }
        new = new_task(convert(fields, CreateRequest), self.settings, idempotency_key=idempotency_key)
        created = await self.transitions.create(new)
        return task_from_json(created.document or b"", self)

    async def query(self, uuid: str) -> Task:
        """Reads a task. Raises TaskNotFoundError."""
        return task_from_json((await self.queries.read(uuid)).document, self)

    async def change(
        self,
        uuid: str,
        state: str = TaskState.SUCCEEDED,
        *,
        result: Any = None,
        error: dict[str, Any] | None = None,
        lease: str | None = None,
    ) -> bool:
        """Ends a task as a third party, or as its worker where `lease` is given.

        Args:
            uuid: The task.
            state: `succeeded`, `failed` or `cancelled`.
            result: Any JSON-serializable value; None stores none.
            error: `{"code", "message", "details"}`, each optional, with `failed` or `cancelled`.
            lease: A claim's lease.

        Returns:
            Whether this call changed it; False when it had ended with the same outcome already.

        Raises:
            TaskAlreadyFinalError: It has ended with another outcome.
            TaskNotFoundError, LeaseLostError, InvalidRequestError
        """
        fields: dict[str, Any] = {"uuid": uuid, "state": state, "lease": lease}
        if result is not None:
            fields["result"] = Raw(self._dump(result, "result"))
        if error is not None:
            fields["error"] = {
                name: Raw(self._dump(value, "error.details")) if name == "details" else value
                for name, value in error.items()
            }
        return (await self.finish(convert(fields, ChangeRequest))).changed

    async def cancel(self, uuid: str) -> bool:
        """Cancels a task, telling its handler if one runs. Raises as `change` does."""
        return await self.change(uuid, TaskState.CANCELLED)

    async def retry(self, uuid: str, *, idempotency_key: str | None = None) -> Task:
        """Makes a new task of a failed or expired one: same queue, payload, priority, limits and time to live.

        Args:
            uuid: The ended task, which does not change; the new one's `retry_of`.
            idempotency_key: Makes a repeated call find the same new task; without it, each call makes another one.

        Raises:
            TaskConflictError: It is still open.
            TaskAlreadyFinalError: It succeeded or was cancelled.
            TaskNotFoundError, QueueFullError, InvalidRequestError
        """
        new = await self.retry_ended(convert({"uuid": uuid}, RetryRequest), idempotency_key=idempotency_key)
        return task_from_json(new.document, self)

    async def list(
        self, *, queue: str | None = None, state: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> TaskPage:
        """A page of tasks, newest created first. It may be short, or empty, while it has a cursor.

        Args:
            queue: Only this queue's.
            state: Only those in this state now.
            cursor: Of the page before.
            limit: Tasks at most, 1 to 500.

        Raises:
            InvalidRequestError: An argument is not acceptable.
        """
        fields = {"queue": queue, "state": state, "cursor": cursor, "limit": limit}
        page = await self.list_stored(convert(fields, ListRequest))
        return TaskPage([task_from_json(item.document, self) for item in page.items], page.cursor)

    async def queues(self) -> Sequence[QueueNumbers]:
        """What each known queue holds, and who is there for it."""
        return await self.queries.read_queues()

    # TaskActions

    async def wait(self, task: Task, timeout: float) -> Task:
        """See `Task.wait`."""
        held = await self.hold(task.uuid, timeout)
        if not held.state.is_terminal:
            raise TimeoutError(f"Task {task.uuid} is still {held.state} after {timeout:g} s; it goes on.")
        return task_from_json(held.document, self)

    async def report_progress(self, task: Task, value: Any) -> None:
        """Only a handler can report progress."""
        raise RuntimeError(f"Task {task.uuid} does not run here: only its handler can report progress.")

    def is_cancelled(self, task: Task) -> bool:
        """A caller's task is a picture of the past: its own state says all."""
        return task.state is TaskState.CANCELLED

    # For services: values are bytes as received

    async def finish(self, request: ChangeRequest) -> Changed:
        """Ends a task; the answer carries the task JSON. Raises as `change` does."""
        outcome = completion(request, max_bytes=self.settings.max_body_bytes)
        return await self.transitions.finish(request.uuid, outcome, lease=request.lease, wants_document=True)

    async def retry_ended(self, request: RetryRequest, *, idempotency_key: str | None = None) -> StoredTask:
        """As `retry`, from a request."""
        return await self.transitions.retry_ended(retry(request, self.settings, idempotency_key=idempotency_key))

    async def list_stored(self, request: ListRequest) -> Page:
        """As `list`, from a request and with the task JSON as it is stored."""
        return await self.queries.list_tasks(
            queue=request.queue, state=request.state, cursor=request.cursor, limit=request.limit
        )

    async def create_and_hold(self, new: NewTask, wait_s: float) -> StoredTask:
        """Creates a task, or attaches, and holds until it has ended or the wait is over.

        Raises:
            TaskConflictError, IdempotencyMismatchError, QueueFullError
            TooManyWaitersError: Nothing was created.
            StoreUnavailableError: The creation was never confirmed.
        """
        if wait_s <= 0:
            created = await self.transitions.create(new)
            return StoredTask(created.uuid, new.queue, created.seal, created.state, created.document or b"")
        self._refuse_beyond_limit()
        ends = self._end_of(wait_s)
        creation = Creation(self.hub, new, wait_s)
        try:
            settled = await creation.waiter.deferred.wait()
            if settled is not None:
                return settled
            created = await self._by(ends, creation.created())
            if created.uuid == new.uuid:
                return await self._read_last(_last_known(created, new.queue))
        finally:
            self.hub.leave(creation.waiter)
        # The idempotency key stands for a task whose channel was unknown until now.
        return await self._hold(created.uuid, ends)

    async def hold(self, uuid: str, wait_s: float) -> StoredTask:
        """Reads a task and, while it is open, holds until it has ended or the wait is over.

        Raises:
            TaskNotFoundError: At once, whatever the wait.
            TooManyWaitersError: The task is open, and no more waits are held here.
            StoreUnavailableError
        """
        if wait_s <= 0:
            return await self.queries.read(uuid)
        return await self._hold(uuid, self._end_of(wait_s))

    def _refuse_beyond_limit(self) -> None:
        if self.hub.held >= self.settings.max_waiters:
            raise TooManyWaitersError(
                f"{self.hub.held} calls are held here, and no more: ask another instance, or without a wait."
            )

    def _dump(self, value: Any, field: str) -> bytes:
        return values.dump(value, field, max_bytes=self.settings.max_body_bytes)

    async def _hold(self, uuid: str, ends: float) -> StoredTask:
        task = await self._by(ends, self.queries.read(uuid))
        if task.state.is_terminal:
            return task
        self._refuse_beyond_limit()
        waiter = self.hub.join(task.queue, uuid, task.seal, ends - self._now())
        try:
            waiter.confirm(task.seal)
            # Beside the wait, which ends when it must, whatever Redis does.
            self._background.spawn(self._read_subscribed(waiter), "read behind a subscription")
            return await waiter.deferred.wait() or await self._read_last(task)
        finally:
            self.hub.leave(waiter)

    async def _read_subscribed(self, waiter: Waiter) -> None:
        """The channel was unknown before the first read: subscribed, acknowledged, and read again.

        In an outage the wait goes on with what is known: after a reconnect the hub looks at every waited task.
        """
        try:
            await self.hub.confirm()
            task = await self.queries.read(waiter.channel.uuid)
        except StoreUnavailableError:
            return
        except BrokerError as error:
            waiter.deferred.set_error(error)
            return
        if task.state.is_terminal:
            waiter.deferred.set_result(task)

    async def _read_last(self, last_known: StoredTask) -> StoredTask:
        """Whoever says "not yet" has looked once more: a message may have been lost."""
        try:
            return await self._by(self._now(), self.queries.read(last_known.uuid))
        except StoreUnavailableError:
            if last_known.state.is_terminal:
                # It has ended, but how is stored where nobody can look now.
                raise
            return last_known

    def _end_of(self, wait_s: float) -> float:
        # uvloop has no timer that never ends.
        return self._now() + min(wait_s, MOST_S)

    def _now(self) -> float:
        return self.hub.deadlines.loop.time()

    async def _by(self, ends: float, asked: Awaitable[T]) -> T:
        """What the store says, unless the wait is over long before it does."""
        try:
            async with asyncio.timeout_at(ends + LAST_LOOK_S):
                return await asked
        except TimeoutError:
            raise StoreUnavailableError("Redis did not answer by the end of the wait.", may_have_run=True) from None


def _last_known(created: Created, queue: str) -> StoredTask:
    """What is certain of a task that was confirmed but never read; only told when the store is away."""
    document = {
        "uuid": created.uuid,
        "queue": queue,
        "state": created.state,
        "attempt": created.attempt,
        "created_at": _rfc3339(created.created_ms),
        "expires_at": _rfc3339(created.expires_ms),
    }
    return StoredTask(created.uuid, queue, created.seal, created.state, msgspec.json.encode(document))


def _rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
