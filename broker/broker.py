"""The broker as a library: create, wait, change, query. Everything that the HTTP service does is a call here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import msgspec
import orjson
from msgspec import Raw

from broker import values
from broker.batch_creation import check_all
from broker.deadlines import MOST_S
from broker.errors import BrokerError, result_of
from broker.events import EventStream
from broker.instance import Instance
from broker.items import Item
from broker.naming import DEFAULT_QUEUE
from broker.published import NOTHING, Published, published_from_json
from broker.requests import (
    MOST_TASKS,
    BatchedTask,
    ChangeRequest,
    CreateRequest,
    EventsRequest,
    LimitsRequest,
    ListRequest,
    NamespaceRequest,
    NewTask,
    QuerySeveralRequest,
    QueueRequest,
    RetryRequest,
    Until,
    WatchRequest,
    checked_timeout,
    convert,
    new_task,
)
from broker.settings import Settings
from broker.store.queries import QueueNumbers, StoredTask
from broker.task import Task, TaskState, task_from_json
from broker.task_event import EventKind, TaskEvent
from broker.watched import Wanted


class TaskPage(msgspec.Struct, frozen=True):
    """Tasks, newest created first, and the cursor of the next page, None at the end."""

    items: Sequence[Task]
    cursor: str | None


class Broker(Instance):
    """One process's access to the deployment; open it with `async with` and share it.

    Args:
        settings: What to run with; `settings.redis_url` says where.
        sweeps: Whether this process takes its share of the recovery.
    """

    @classmethod
    def from_url(cls, url: str, settings: Settings | None = None) -> Broker:
        """A broker on the server at `url`, with the given settings or those of the environment."""
        return cls(msgspec.structs.replace(settings or Settings.from_environment(), redis_url=url))

    async def __aenter__(self) -> Broker:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

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
        exclusive: bool = False,
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
            exclusive: Refuse when somebody, anywhere, already waits for the task.

        Raises:
            InvalidRequestError, PayloadTooLargeError: An argument is not acceptable.
            TaskConflictError, IdempotencyMismatchError: uuid or key stand for another request.
            QueueFullError: The queue takes no more.
            WaiterExistsError: `exclusive`, and somebody waits.
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
            "exclusive": exclusive,
        }
        return task_from_json((await self._create(fields, idempotency_key, wait_s=0)).document, self)

    async def create_many(self, tasks: Iterable[Mapping[str, Any]]) -> Sequence[Task | BrokerError]:
        """Creates many tasks at once, or attaches, without waiting for their ends.

        Args:
            tasks: The arguments of `create` for each, `exclusive` and `idempotency_key` apart: one that is given a uuid
                may be given again without harm.

        Returns:
            In order, each task, or the error that `create` would raise for it: one that fails harms no other.

        Raises:
            StoreUnavailableError: Redis has confirmed none of a thousand that were sent together.
        """
        done: list[Task | BrokerError] = []
        left = list(tasks)
        while left:
            some, left = left[:MOST_TASKS], left[MOST_TASKS:]
            items = await self.batches.create(await check_all(some, self._batched))
            done += [self._task_or_error(item) for item in items]
        return done

    def _batched(self, given: Mapping[str, Any]) -> NewTask:
        fields = dict(given)
        if "payload" in fields:
            fields["payload"] = Raw(self._dump(fields["payload"], "payload"))
        return new_task(convert(fields, BatchedTask), self.settings)

    def _task_or_error(self, item: Item) -> Task | BrokerError:
        return item if isinstance(item, BrokerError) else task_from_json(item.document, self)

    async def run(
        self,
        queue: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        uuid: str | None = None,
        idempotency_key: str | None = None,
        priority: int = 0,
        expires_in: float | None = None,
        retention: float | None = None,
        max_attempts: int | None = None,
        exclusive: bool = False,
    ) -> Any:
        """Has a worker do something and returns its result: creates a task, or attaches, and waits for its end.

        A wait that is over, or cancelled, leaves the task alone: its result is stored, and whoever calls with the same
        uuid or key gets it. To stop it, give a uuid and `cancel` that.

        Args:
            queue: Which workers it is for.
            payload: Any JSON-serializable value.
            timeout: Seconds to wait at most; `settings.wait_default_s` when not given.
            exclusive: Be the only one who waits for the task, or be refused.
            uuid, idempotency_key, priority, expires_in, retention, max_attempts: As in `create`.

        Raises:
            TaskFailedError: It ended without success; `code`, the message and `details` are those of its error.
            TimeoutError: The wait is over, or this broker is closed; the task goes on.
            WaiterExistsError: `exclusive`, and somebody waits.
            TooManyWaitersError: This process holds as many waits as it may; nothing was created.
            TaskConflictError, IdempotencyMismatchError, QueueFullError, InvalidRequestError, PayloadTooLargeError
            StoreUnavailableError: Redis did not confirm; calling again with the same uuid is safe.
        """
        fields: dict[str, Any] = {
            "uuid": uuid,
            "queue": queue,
            "payload": Raw(self._dump(payload, "payload")),
            "priority": priority,
            "expires_in": expires_in,
            "retention": retention,
            "max_attempts": max_attempts,
            "exclusive": exclusive,
        }
        wait_s = checked_timeout(timeout, self.settings.wait_default_s)
        task = task_from_json((await self._create(fields, idempotency_key, wait_s=wait_s)).document, self)
        return result_of(task, wait_s)

    async def _create(self, fields: dict[str, Any], idempotency_key: str | None, *, wait_s: float) -> StoredTask:
        request = convert(fields, CreateRequest)
        new = new_task(request, self.settings, idempotency_key=idempotency_key)
        creating = self.exclusive if request.exclusive else self.holding
        return await creating.create(new, wait_s)

    async def query(self, uuid: str) -> Task:
        """Reads a task. Raises TaskNotFoundError."""
        return task_from_json((await self.queries.read(uuid)).document, self)

    async def gather(
        self, uuids: Iterable[str], *, timeout: float | None = None, until: Until = "all"
    ) -> Sequence[Task | BrokerError]:
        """Waits until several tasks have ended, on whichever processes that happens, or until the first of them has.

        Args:
            uuids: The tasks, at most 100.
            timeout: Seconds to wait at most; `settings.wait_default_s` when not given, 0 to read them only.
            until: `all`, or `any`. An unknown task counts as one that has ended.

        Returns:
            In order, each task as it stands now, ended or not, or why it cannot be told: `TaskNotFoundError`.

        Raises:
            TooManyWaitersError: This process holds as many waits as it may; each task counts for one.
            InvalidRequestError, StoreUnavailableError
        """
        wait_s = self.settings.wait_default_s if timeout is None else timeout
        asked = convert({"uuid": list(uuids), "until": until}, QuerySeveralRequest)
        return [self._task_or_error(item) for item in await self.gathering.gather(asked.uuid, wait_s, asked.until)]

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

    async def events(self, uuid: str, *, after: str | None = None) -> AsyncGenerator[TaskEvent, None]:
        """Follows a task: the values of its progress as they come, then its end, which is the last.

        Close it (`contextlib.aclosing`) when leaving early. It also ends, without a last event, when this broker is
        closed.

        Args:
            uuid: The task.
            after: The `id` of the event to go on behind; from the first that is kept when not given. Should what
                follows it not be kept any more, a `reset` comes first, with the task as it is.

        Raises:
            TaskNotFoundError: There is no record of the task.
            TooManyWaitersError: No more calls are held here.
            InvalidRequestError, StoreUnavailableError
        """
        stream = await self.event_streams.open(convert({"uuid": uuid}, EventsRequest).uuid, after)
        if stream is not None:
            with closing(stream):
                async for found in self._told(stream):
                    yield found

    async def _told(self, stream: EventStream) -> AsyncIterator[TaskEvent]:
        while not stream.is_over:
            for found in await stream.next(MOST_S):
                is_value = found.kind is EventKind.PROGRESS
                data = orjson.loads(found.data) if is_value else task_from_json(found.data, self)
                yield TaskEvent(id=found.id, kind=found.kind, data=data, raw=found.data)

    async def queues(self) -> Sequence[QueueNumbers]:
        """What each known queue holds, and who is there for it."""
        return await self.queries.read_queues()

    async def limit(
        self, queue: str, *, max_running: int | None = None, max_rate_per_s: float | None = None
    ) -> QueueNumbers:
        """Sets all limits of a queue, for all its workers together; what is not given is not limited any more.

        Args:
            queue: Used already or not.
            max_running: Tasks that workers have at a time; 0 pauses the queue. What runs already goes on.
            max_rate_per_s: Tasks that are started in any second, at least 0.0001; below 1, one in so many seconds.

        Returns:
            What the queue holds, with its limits.

        Raises:
            InvalidRequestError: An argument is not acceptable, or a thousand other queues have limits.
            StoreUnavailableError
        """
        name = convert({"queue": queue}, QueueRequest).queue
        asked = convert({"max_running": max_running, "max_rate_per_s": max_rate_per_s}, LimitsRequest)
        return await self.set_limits(name, asked)

    async def publish(self, namespace: str, value: Any) -> str:
        """Publishes a value, which is kept until the next one, and answers whoever watches; returns its version.

        Args:
            namespace: 1 to 128 letters, digits, `_`, `.` or `-`, the first a letter or digit.
            value: Any JSON-serializable value.

        Raises:
            QueueFullError: There are `namespaces_max` others, and no more are taken.
            StoreUnavailableError: Redis did not confirm; with `may_have_run` the value may be published nevertheless.
            InvalidRequestError, PayloadTooLargeError: An argument is not acceptable.
        """
        convert({"namespace": namespace}, NamespaceRequest)
        return await self.publish_json(namespace, self._dump(value, "value"))

    async def unpublish(self, namespace: str) -> bool:
        """Deletes a namespace; whether there was one. Whoever watches it is told that nothing is published.

        Raises:
            StoreUnavailableError: As `publish`.
        """
        convert({"namespace": namespace}, NamespaceRequest)
        return await self._store.published.delete(namespace)

    async def watch(self, namespace: str, version: str | None = None, *, timeout: float = 60) -> Published | None:
        """Holds until a namespace has another version; None when the time was over first.

        Args:
            namespace: What to watch.
            version: The one that is known, "0" for none: then the present value comes at once. Without a version, the
                next publish is waited for, whatever there is now.
            timeout: Seconds to hold at most.

        Raises:
            TooManyWaitersError: This process holds `max_waiters` calls.
            StoreUnavailableError: Redis cannot be reached.
            InvalidRequestError: An argument is not acceptable.
        """
        convert({"namespace": namespace}, NamespaceRequest)
        convert({"version": version, "wait": timeout}, WatchRequest)
        changed = (await self.watches.watch([Wanted(namespace, version)], timeout)).changed
        return published_from_json(changed[0].document) if changed else None

    async def follow(self, namespace: str, version: str = NOTHING) -> AsyncIterator[Published]:
        """What a namespace holds now, if anything, and then each change. What changes twice in a moment comes once, as
        it is then. Never ends by itself; raises as `watch` does.

        Args:
            namespace: What to follow.
            version: The last that is known: begins after it.
        """
        while True:
            published = await self.watch(namespace, version)
            if published is not None:
                version = published.version
                yield published

    # TaskActions

    async def wait(self, task: Task, timeout: float) -> Task:
        """See `Task.wait`."""
        held = await self.holding.query(task.uuid, timeout)
        if not held.state.is_terminal:
            raise TimeoutError(f"Task {task.uuid} is still {held.state} after {timeout:g} s; it goes on.")
        return task_from_json(held.document, self)

    async def report_progress(self, task: Task, value: Any) -> None:
        """Only a handler can report progress."""
        raise RuntimeError(f"Task {task.uuid} does not run here: only its handler can report progress.")

    def is_cancelled(self, task: Task) -> bool:
        """A caller's task is a picture of the past: its own state says all."""
        return task.state is TaskState.CANCELLED

    def _dump(self, value: Any, field: str) -> bytes:
        return values.dump(value, field, max_bytes=self.settings.max_body_bytes)
