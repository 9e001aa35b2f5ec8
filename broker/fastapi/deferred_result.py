"""`DeferredResult`: what an endpoint returns when somebody else, in any process, will set the result.

Named after Spring's class, and like it: on a timeout `on_timeout`, then the answer, then `on_completion`; where the
call breaks `on_error`, then `on_completion`; each at most once.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType
from starlette._exception_handler import wrap_app_handling_exceptions  # as FastAPI's own routes do
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broker.background import Background
from broker.broker import Broker
from broker.disconnect import ClientGoneError, DisconnectWatch
from broker.errors import BrokerError, TaskFailedError
from broker.fastapi.resolver import Outcome, OwnResolver, Resolver
from broker.naming import HELD_QUEUE
from broker.randomness import new_uuid
from broker.requests import CreateRequest, ErrorRequest, checked_timeout, convert, new_task
from broker.store.queries import StoredTask
from broker.task import TaskState, task_from_json

log = logging.getLogger("broker.fastapi")

OWN_KEY_SLACK_S: Final = 60.0
"""How much longer than its call a key lives that was made here, should this process die."""

CLIENT_GONE_STATUS: Final = 499
"""nginx's number, for logs."""

Callback = Callable[[], object]
ErrorCallback = Callable[[Exception], object]
AnyCallback = TypeVar("AnyCallback", bound=Callable[..., object])


class _Result(msgspec.Struct):
    """The part of a task JSON that a call is answered with."""

    result: Raw | UnsetType = UNSET


_result_decoder = msgspec.json.Decoder(_Result)
_beside = Background()


class DeferredResult(Response):
    """Returned by an endpoint: its call is held until somebody has set the result of `key`, wherever.

        @app.get("/orders/{order}")
        async def wait_for(order: str, broker: BrokerDep) -> DeferredResult:
            return DeferredResult(broker, order, timeout=30, timeout_result={"paid": False})

    A result is set once and for all calls that wait for the key: by `set_result` here, by
    `DeferredResult.of(broker, key)` in any process, or by whoever ends the task of that uuid (`broker.change`,
    `changeTaskState`, a worker of `queue`). It is answered as JSON, byte for byte. An error result raises
    `TaskFailedError` in the application, where an exception handler may answer it.

    A key that the endpoint names stays open after a timeout or a hang-up: a late result is stored, and the next call
    gets it. A key that is made here belongs to this one call: when the call ends without a result, the key ends, too,
    and whoever sets a result later is told that they have not won.

    Args:
        broker: Open.
        key: What the result is known by, a uuid as the broker takes them; made here when not given, see `self.key`.
        timeout: Seconds to hold; `settings.wait_default_s` when not given.
        timeout_result: What is answered then: a value, a `Response`, or a function, async or not, that makes one.
            Without it, a 503.
        exclusive: Refuse the call when somebody, on any instance, already waits for the key (`WaiterExistsError`).
        queue: Whose workers may set the result; nobody's, unless there are some.
        payload: What they get. A call with another payload for the same key is refused.
        expires_in: Seconds until a key without a result ends; `settings.task_ttl_s` when not given.
        retention: Seconds that a result is kept; `settings.retention_s` when not given.
        status_code: Of the answer with the result.
        headers: Of the same.

    Raises:
        InvalidRequestError, PayloadTooLargeError: The key, the timeout, the queue or the payload is not acceptable.
    """

    media_type = "application/json"

    def __init__(
        self,
        broker: Broker,
        key: str | None = None,
        *,
        timeout: float | None = None,
        timeout_result: Any = UNSET,
        exclusive: bool = False,
        queue: str = HELD_QUEUE,
        payload: Any = None,
        expires_in: float | None = None,
        retention: float | None = None,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code=status_code, headers=headers)
        self.key = new_uuid() if key is None else key
        self._broker = broker
        self._owns_key = key is None
        self._timeout_s = checked_timeout(timeout, broker.settings.wait_default_s)
        self._timeout_result = timeout_result
        self._exclusive = exclusive
        if expires_in is None and self._owns_key:
            expires_in = min(self._timeout_s + OWN_KEY_SLACK_S, broker.settings.task_ttl_s)
        fields = {
            "uuid": self.key,
            "queue": queue,
            "payload": Raw(Resolver(broker, self.key).dump(payload, "payload")),
            "expires_in": expires_in,
            "retention": retention,
        }
        self._new = new_task(convert(fields, CreateRequest), broker.settings)
        self._resolver = OwnResolver(broker, self._new)
        self._was_held = False
        self._on_timeout: Callback | None = None
        self._on_error: ErrorCallback | None = None
        self._on_completion: Callback | None = None

    # Callbacks; each is also a decorator, and may be `async def`

    def on_timeout(self, callback: AnyCallback) -> AnyCallback:
        """Called once when the time is over and there is no result. It may set one, which is answered then."""
        self._on_timeout = callback
        return callback

    def on_error(self, callback: AnyCallback) -> AnyCallback:
        """Called once, with the exception, when the call cannot go on: the client has hung up (starlette's
        `ClientDisconnect`), or a `BrokerError`, such as Redis being away; then it may set a result, which is answered.
        """
        self._on_error = callback
        return callback

    def on_completion(self, callback: AnyCallback) -> AnyCallback:
        """Called once at the very end, whatever happened, after the answer was sent."""
        self._on_completion = callback
        return callback

    # Setting the result

    @staticmethod
    def of(broker: Broker, key: str) -> Resolver:
        """What sets the result of `key` from any process."""
        return Resolver(broker, key)

    async def open(self) -> DeferredResult:
        """Makes the key known now, before the call is held: a result that comes sooner is kept for it. Returns self.

        Raises:
            TaskConflictError: The key names a task of another queue or payload.
            QueueFullError, StoreUnavailableError
        """
        await self._resolver.open()
        return self

    async def set_result(self, result: Any = None) -> bool:
        """As `Resolver.set_result`; here the key need not be known yet."""
        return await self._resolver.set_result(result)

    async def set_error_result(self, message: str, *, code: str = "failed", details: Any = None) -> bool:
        """As `Resolver.set_error_result`; here the key need not be known yet."""
        return await self._resolver.set_error_result(message, code=code, details=details)

    # The call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Holds and answers, as ASGI asks for."""
        if self._was_held:
            raise RuntimeError("A DeferredResult answers one call: make one in each call of the endpoint.")
        self._was_held = True
        try:
            # An error is answered here, by the handlers of the application: `on_completion` comes after that.
            answered = wrap_app_handling_exceptions(self._respond, Request(scope, receive, send))
            await answered(scope, receive, send)
        except asyncio.CancelledError:
            _beside.spawn(self._close("cancelled", "The call was cancelled."), "end of a key")
            raise
        finally:
            if self._on_completion is not None:
                # Beside: it is called even where this call is being cancelled.
                await asyncio.shield(_beside.spawn(self._complete(), "on_completion"))

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(receive)
        if response is self:
            await super().__call__(scope, receive, send)
        else:
            await response(scope, receive, send)

    async def _answer(self, receive: Receive) -> Response:
        """What to send."""
        try:
            task = await self._hold(receive)
        except ClientGoneError:
            await self._give_up()
            return _Unheard()
        except BrokerError as error:
            _log_failure("on_error", await _failure_of(self._on_error, error))
            if self._resolver.outcome is None:
                _beside.spawn(self._close("unanswered", "The call has failed."), "end of a key")
                raise
            return self._answer_of(self._resolver.outcome)
        if task.state.is_terminal:
            return self._answer_of(Outcome(False, task.state, task.document))
        return await self._time_out()

    async def _hold(self, receive: Receive) -> StoredTask:
        creating = self._broker.exclusive if self._exclusive else self._broker.holding
        with DisconnectWatch(receive, self._broker.hub.deadlines):
            task = await creating.create(self._new, self._timeout_s)
        self._resolver.is_open = True
        return task

    async def _give_up(self) -> None:
        """The client has gone."""
        _log_failure("on_error", await _failure_of(self._on_error, ClientDisconnect()))
        await self._close("client-gone", "The caller has hung up.")

    async def _time_out(self) -> Response:
        failure = await _failure_of(self._on_timeout)
        if self._owns_key:
            await self._close("timeout", f"There was no result within {self._timeout_s:g} s.")
        elif self._on_timeout is not None and self._resolver.outcome is None:
            await self._look_again()
        if self._resolver.outcome is not None:
            _log_failure("on_timeout", failure)
            return self._answer_of(self._resolver.outcome)
        if self._timeout_result is not UNSET:
            _log_failure("on_timeout", failure)
            value = await _made(self._timeout_result)
            return (
                value if isinstance(value, Response) else self._with_body(self._resolver.dump(value, "timeout_result"))
            )
        raise failure or HTTPException(503, "There is no result yet; ask again.", {"Retry-After": "0"})

    async def _close(self, code: str, message: str) -> None:
        """Ends a key that nobody else can wait for, unless somebody was faster: that outcome stands then."""
        if not self._owns_key or self._resolver.outcome is not None:
            return
        error = ErrorRequest(code=code, message=message)
        try:
            outcome = await Resolver.finish(self._resolver, TaskState.CANCELLED, error=error)
        except BrokerError as failure:
            log.info("The key %s could not be ended (%s); it expires.", self.key, failure)
            return
        if not outcome.won:
            self._resolver.outcome = outcome

    async def _look_again(self) -> None:
        """`on_timeout` may have set the result by other ways than this object."""
        with contextlib.suppress(BrokerError):
            task = await self._broker.queries.read(self.key)
            if task.state.is_terminal:
                self._resolver.outcome = Outcome(False, task.state, task.document)

    async def _complete(self) -> None:
        _log_failure("on_completion", await _failure_of(self._on_completion))

    def _answer_of(self, outcome: Outcome) -> Response:
        if outcome.state is not TaskState.SUCCEEDED:
            raise TaskFailedError(task_from_json(outcome.document))
        result = _result_decoder.decode(outcome.document).result
        return self._with_body(bytes(result) if isinstance(result, Raw) else b"null")

    def _with_body(self, body: bytes) -> Response:
        self.body = body
        self.headers["content-length"] = str(len(body))
        return self


class _Unheard(Response):
    """The answer to a client that has gone: some middleware takes it for a defect when there is none."""

    def __init__(self) -> None:
        super().__init__(status_code=CLIENT_GONE_STATUS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(OSError):  # the word of some servers for a connection that is closed
            await super().__call__(scope, receive, send)


async def _failure_of(callback: Callable[..., object] | None, *arguments: object) -> Exception | None:
    """Calls a callback, async or not; what it raised."""
    try:
        if callback is not None and inspect.isawaitable(answer := callback(*arguments)):
            await answer
    except Exception as error:
        return error
    return None


async def _made(value: Any) -> Any:
    """The value, or what a function makes of nothing."""
    made = value() if callable(value) and not isinstance(value, Response) else value
    return await made if inspect.isawaitable(made) else made


def _log_failure(callback: str, failure: Exception | None) -> None:
    if failure is not None:
        log.error("The callback %s has failed.", callback, exc_info=failure)
