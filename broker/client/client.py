"""`BrokerClient`: tasks over HTTP, through whichever API instance a balancer picks."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx

from broker.client.answers import (
    Change,
    ClaimedTask,
    Heartbeat,
    Page,
    RemoteTask,
    change_of,
    claimed_of,
    heartbeat_of,
    page_of,
    task_of,
)
from broker.client.calls import Call, failure, idempotency_headers, list_call, query_call, value
from broker.client.events import Following
from broker.client.pacing import Clock
from broker.client.session import Session
from broker.client.several import RemoteItem, batch_calls, enough, items_of, several_call
from broker.client.uploads import Uploadable, upload_call
from broker.client.watching import WatchingClient
from broker.errors import ConfigurationError, InvalidRequestError, result_of
from broker.task import Task, TaskFailure
from broker.task_event import TaskEvent

IDLE_CONNECTIONS: Final = 100


class BrokerClient(WatchingClient):
    """Creates, follows, reads and settles tasks over HTTP. An async context manager.

        async with BrokerClient("http://127.0.0.1:8080") as client:
            task = await client.create(payload={"branch": "x"}, timeout=30)

    Connection losses and 502, 503 and 504 are ridden out with jittered pauses, `Retry-After` included: every call here
    is safe to repeat, but `publish` and `unpublish`, which are sent again only if they never arrived.

    Args:
        url: Where the API is; a path below it is kept.
        api_key: Sent as a bearer key.
        language: Sent as `Accept-Language`, for the sentences in answers and errors.
        hold_s: How long one call may be held by the API, in seconds; longer waits are several calls. Keep it below the
            time-out of every proxy in between.
        margin_s: How much longer than the hold an answer may take before the connection counts as lost, in seconds.
        patience_s: How long a call is repeated that nothing answers, in seconds. Once the API has confirmed a task and
            the wait has an end, following is repeated until that end instead.
        connections: The most calls at the same time; more of them queue for `margin_s`.
        transport: What sends, instead of the network: an `httpx.ASGITransport`, or a mock.
        clock: Time, for tests.

    Raises:
        ConfigurationError: `url` is none of HTTP.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        language: str | None = None,
        hold_s: float = 50.0,
        margin_s: float = 10.0,
        patience_s: float = 10.0,
        connections: int = 1_000,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            headers=_headers(api_key, language),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=IDLE_CONNECTIONS),
            transport=transport,
        )
        super().__init__(
            Session(
                self._http,
                _checked_url(url),
                hold_s=hold_s,
                margin_s=margin_s,
                patience_s=patience_s,
                clock=clock or Clock(),
            )
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls that are under way fail."""
        await self._http.aclose()

    async def create(
        self,
        queue: str = "createbranch",
        payload: Any = None,
        *,
        payload_json: bytes | str | None = None,
        uuid: str | None = None,
        wait: float | None = None,
        timeout: float | None = None,
        expires_in: float | None = None,
        retention: float | None = None,
        priority: int | None = None,
        delay: float | None = None,
        max_attempts: int | None = None,
        idempotency_key: str | None = None,
        exclusive: bool = False,
    ) -> RemoteTask:
        """Creates a task, or attaches to the one of that uuid or idempotency key, and follows it to its end.

        Without a uuid and without an idempotency key, the uuid is made here: a repeated call attaches to the first.

        Args:
            queue: Whose workers may claim the task.
            payload: Any JSON-serializable value.
            payload_json: The payload as JSON text instead, which travels byte for byte.
            uuid: The task's name.
            wait: Seconds after which the task is returned as it stands, ended or not; 0: at once.
            timeout: Seconds after which `TimeoutError` is raised. With neither, only the end of the task ends the wait.
            expires_in: Seconds from now until an unfinished task expires.
            retention: Seconds for which the record is kept after the end.
            priority: 0 to 9, 9 first.
            delay: Seconds until the task may be claimed.
            max_attempts: How often a failing task is tried.
            idempotency_key: Names the task within its queue, instead of a uuid.
            exclusive: Refuse the call when somebody, through any instance, already waits for the task.

        Raises:
            TimeoutError: `timeout` is over; the task goes on.
            WaiterExistsError: `exclusive`, and somebody waits.
            TaskConflictError: The uuid names a task with another queue or payload.
            IdempotencyMismatchError: The idempotency key stands for another request.
            QueueFullError: The queue takes no more tasks now; not repeated here, since that is the caller's to decide.
            StoreUnavailableError: The API has no store; the task may have been created nevertheless.
            BrokerError: Anything else that the API refused, or that kept it from answering.
        """
        name = uuid if uuid is not None or idempotency_key is not None else secrets.token_hex(16)
        fields = {
            "uuid": name,
            "queue": queue,
            "payload": value(payload, payload_json, "payload"),
            "expires_in": expires_in,
            "retention": retention,
            "priority": priority,
            "delay": delay,
            "max_attempts": max_attempts,
            "exclusive": exclusive or None,
        }
        headers = idempotency_headers(idempotency_key)
        call = Call(method="POST", target="/createTask", uuid=name or "", fields=fields, headers=headers, holds=True)
        return await self._to_the_end(call, wait, timeout)

    async def run(
        self,
        queue: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        uuid: str | None = None,
        idempotency_key: str | None = None,
        exclusive: bool = False,
    ) -> Any:
        """Has a worker do something and returns its result; `create` with its other arguments gives the task instead.

        Args:
            queue: Whose workers may claim the task.
            payload: Any JSON-serializable value.
            timeout: Seconds to wait at most; without it, until the task ends.
            uuid, idempotency_key, exclusive: As in `create`.

        Raises:
            TaskFailedError: It ended without success; `code`, the message and `details` are those of its error.
            TimeoutError: `timeout` is over; the task goes on.
            BrokerError: As `create` does.
        """
        task = await self.create(
            queue, payload, timeout=timeout, uuid=uuid, idempotency_key=idempotency_key, exclusive=exclusive
        )
        return result_of(task, timeout or 0.0)

    async def create_many(self, tasks: Iterable[Mapping[str, Any]]) -> Sequence[RemoteItem]:
        """Creates many tasks, or attaches, without waiting for their ends: a thousand in one call.

        Args:
            tasks: For each the arguments of `create`, those apart that say how to wait, `idempotency_key` and
                `exclusive`. A task without a uuid gets one here, so that a repeated call attaches to it.

        Returns:
            In order, each task as it stands, or the error that `create` would raise for it: one that fails harms no
            other.

        Raises:
            StoreUnavailableError: The API has no store; tasks may have been created nevertheless.
            BrokerError: Anything else that kept the API from answering for all of them.
        """
        created: Sequence[RemoteItem] = ()
        for uuids, call in batch_calls(tasks):
            created = [*created, *items_of(await self._session.ask(call), uuids, self)]
        return created

    async def gather(
        self, uuids: Iterable[str], *, timeout: float | None = None, until: Literal["all", "any"] = "all"
    ) -> Sequence[RemoteItem]:
        """Follows several tasks until all of them have ended, or the first has.

        Args:
            uuids: The tasks, at most 100.
            timeout: Seconds to wait at most; 0 reads them only. Without it, only their ends end the wait.
            until: `all`, or `any`. An unknown task counts as one that has ended.

        Returns:
            In order, each task as it stands, ended or not, or why it cannot be told: `TaskNotFoundError`.
        """
        names = [*uuids]
        end = self._session.end_after(timeout)
        answer = await self._session.repeat(several_call(names, until), end, enough(names, until, self))
        return items_of(answer, names, self)

    async def query(self, uuid: str, *, wait: float | None = None) -> RemoteTask:
        """The task as it stands; with `wait`, as soon as it has ended, or as it stands so many seconds later.

        Raises:
            TaskNotFoundError: No record of it.
        """
        return await self._to_the_end(query_call(uuid), wait or 0.0, None)

    async def change(
        self,
        uuid: str,
        state: str = "succeeded",
        *,
        result: Any = None,
        result_json: bytes | str | None = None,
        error: TaskFailure | Mapping[str, Any] | None = None,
        error_json: bytes | str | None = None,
        lease: str | None = None,
    ) -> Change:
        """Ends a task as a third party, or with `lease` as its worker.

        Args:
            uuid: The task.
            state: succeeded, failed or cancelled.
            result: Any JSON-serializable value.
            result_json: The result as JSON text instead, which travels byte for byte.
            error: `code`, `message`, `details`.
            error_json: The error as JSON text instead.
            lease: Fences the change: it is refused when the lease was replaced.

        Raises:
            TaskAlreadyFinalError: The task has ended with another outcome, which is in `document`.
            TaskNotFoundError: No record of it.
            LeaseLostError: The lease was replaced.
        """
        fields = {
            "uuid": uuid,
            "state": state,
            "result": value(result, result_json, "result"),
            "error": value(failure(error), error_json, "error"),
            "lease": lease,
        }
        return await self._settle(Call(method="POST", target="/changeTaskState", uuid=uuid, fields=fields))

    async def cancel(self, uuid: str) -> Change:
        """Ends a task as `cancelled`; its handler is told. Raises what `change` raises."""
        return await self._settle(Call(method="POST", target="/cancelTask", uuid=uuid, fields={"uuid": uuid}))

    async def retry(self, uuid: str, *, idempotency_key: str | None = None) -> RemoteTask:
        """Makes a new task of a failed or expired one, and returns it as it stands; its `retry_of` is `uuid`.

        Args:
            uuid: The ended task, which does not change.
            idempotency_key: A repeated call with the same one finds the same new task; made here when not given.

        Raises:
            TaskConflictError: The task is still open.
            TaskAlreadyFinalError: It succeeded or was cancelled.
            TaskNotFoundError: No record of it.
            QueueFullError: Its queue takes no more tasks now.
        """
        headers = idempotency_headers(secrets.token_hex(16) if idempotency_key is None else idempotency_key)
        call = Call(method="POST", target="/retryTask", uuid=uuid, fields={"uuid": uuid}, headers=headers)
        return task_of(await self._session.ask(call), self)

    def events(self, uuid: str, *, after: str | None = None) -> AsyncGenerator[TaskEvent, None]:
        """Follows a task: the values of its progress as they come, then its end, which is the last.

        A stream that breaks off is gone on with, at whichever instance answers. Close it (`contextlib.aclosing`) when
        leaving early.

        Args:
            uuid: The task.
            after: The `id` of the event to go on behind; from the first that is kept when not given. Should what
                follows it not be kept any more, a `reset` comes first, with the task as it is.

        Raises:
            TaskNotFoundError: No record of it.
            TooManyWaitersError: No more calls are held there.
            BrokerError: Anything else that the API refused, or that kept it from answering for `patience_s`.
        """
        return Following(self._session, uuid, after, self).events()

    async def list(
        self, *, queue: str | None = None, state: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page:
        """A page of tasks, newest created first. It may be short, or empty, while it has a cursor.

        Args:
            queue: Only this queue's.
            state: Only those in this state now.
            cursor: Of the page before.
            limit: Tasks at most, 1 to 500.
        """
        call = list_call(queue=queue, state=state, cursor=cursor, limit=limit)
        return page_of(await self._session.ask(call), self)

    async def claim(self, *queues: str, wait: float = 0.0, most: int = 1) -> Sequence[ClaimedTask]:
        """Takes tasks to work on; ask again and again, since one call is held at most as long as the API allows.

        Each is to be ended by `change` with its `lease`, or let go of by `release`, and kept by `heartbeat` until then.
        A claim whose answer was lost, and that is therefore sent again, leaves nothing behind for longer than a lease.

        Args:
            queues: Where to look; what the first one holds goes first.
            wait: Seconds to wait for work, at most what one call may be held.
            most: Tasks at most, 1 to 100.
        """
        fields = {"queues": list(queues), "max": most}
        call = Call(method="POST", target="/claimTask", uuid="", fields=fields, holds=True)
        return claimed_of(await self._session.ask(call, self._session.end_after(wait)), self)

    async def heartbeat(
        self, task: ClaimedTask, *, progress: Any = None, progress_json: bytes | str | None = None
    ) -> Heartbeat:
        """Renews the lease of a claimed task: send one each third of it.

        Args:
            task: As claimed.
            progress: Any JSON-serializable value to show.
            progress_json: The progress as JSON text instead, which travels byte for byte.

        Raises:
            LeaseLostError: Somebody else may run it now: stop.
            TaskNotFoundError: No record of it.
        """
        fields = {"uuid": task.uuid, "lease": task.lease, "progress": value(progress, progress_json, "progress")}
        call = Call(method="POST", target="/heartbeatTask", uuid=task.uuid, fields=fields)
        return heartbeat_of(await self._session.ask(call))

    async def release(
        self,
        task: ClaimedTask,
        *,
        error: TaskFailure | Mapping[str, Any] | None = None,
        delay: float | None = None,
        defer: bool = False,
    ) -> RemoteTask:
        """Lets go of a claimed task, and returns it as it is now.

        Args:
            task: As claimed.
            error: Why the attempt failed; it is retried while attempts are left. Without, the attempt does not count.
            delay: Seconds until it may be claimed again.
            defer: Leave it to a third party.

        Raises:
            LeaseLostError: It is not held any more: because the lease ran out, or because a first answer was lost.
            TaskAlreadyFinalError: Somebody else has ended it.
            TaskNotFoundError: No record of it.
        """
        fields = {
            "uuid": task.uuid,
            "lease": task.lease,
            "error": value(failure(error), None, "error"),
            "delay": delay,
            "defer": defer or None,
        }
        call = Call(method="POST", target="/releaseTask", uuid=task.uuid, fields=fields)
        return task_of(await self._session.ask(call), self)

    async def upload(
        self,
        file: Uploadable,
        *,
        name: str | None = None,
        wait: float | None = None,
        timeout: float | None = None,
    ) -> RemoteTask:
        """Uploads a picture, streamed from the disk, and follows its task to its end.

        An upload that got lost on its way is sent again; should the first one have arrived, it is processed twice.

        Args:
            file: A path, or a file that is open for reading in bytes and can seek.
            name: What to call the file; its own name when not given.
            wait: Seconds after which the task is returned as it stands, ended or not; 0: at once.
            timeout: Seconds after which `TimeoutError` is raised. With neither, only the end of the task ends the wait.

        Raises:
            OSError: The file cannot be read.
            TimeoutError: `timeout` is over; the task goes on.
            PayloadTooLargeError: The file is longer than the API takes.
            QueueFullError: As many files as may wait to be processed.
            BrokerError: Anything else that the API refused, or that kept it from answering.
        """
        with upload_call(file, name) as call:
            return await self._to_the_end(call, wait, timeout)

    async def _to_the_end(self, call: Call, wait: float | None, timeout: float | None) -> RemoteTask:
        given = [seconds for seconds in (wait, timeout) if seconds is not None]
        end = self._session.end_after(min(given, default=None))
        answer = await self._session.ask(call, end)
        task = await self._session.follow(task_of(answer, self), answer, end, self)
        if not task.state.is_terminal and timeout is not None and (wait is None or timeout < wait):
            raise _time_over(task, timeout)
        return task

    async def _settle(self, call: Call) -> Change:
        return change_of(await self._session.ask(call), self)

    # What a returned task can do (`TaskActions`) ----------------------------------------------------------------------

    async def wait(self, task: Task, timeout: float) -> RemoteTask:
        """Follows a task that was returned here; see `Task.wait`."""
        return await self._to_the_end(query_call(task.uuid), None, timeout)

    async def report_progress(self, task: Task, value: Any) -> None:
        """Refused: only the handler that runs a task reports its progress."""
        raise InvalidRequestError(f"The progress of {task.uuid} is reported by its handler; a client only reads it.")

    def is_cancelled(self, task: Task) -> bool:
        """Nobody is told here: the state that was read is all that is known."""
        return False


def _headers(api_key: str | None, language: str | None) -> dict[str, str]:
    given = {"Accept": "application/json", "User-Agent": "createbranch-broker"}
    if api_key:
        given["Authorization"] = f"Bearer {api_key}"
    if language:
        given["Accept-Language"] = language
    if not all(text.isascii() and text.isprintable() for text in given.values()):
        raise ConfigurationError("The API key and the language may only hold printable ASCII characters.")
    return given


def _checked_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"{text!r} is no URL: {error}.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(f"{text!r} is no URL of an API: give one like http://127.0.0.1:8080.")
    return url.copy_with(query=None, fragment=None)


def _time_over(task: Task, timeout: float) -> TimeoutError:
    return TimeoutError(
        f"The task {task.uuid} was still {task.state} after {timeout:g} s. It goes on: query or create it again."
    )
