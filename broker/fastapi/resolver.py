"""Setting a held result, in whichever process."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi.encoders import jsonable_encoder
from msgspec import Raw

from broker import values
from broker.broker import Broker
from broker.errors import TaskAlreadyFinalError, TaskNotFoundError
from broker.requests import ChangeRequest, ErrorRequest, NewTask
from broker.task import TaskState


class Outcome(msgspec.Struct, frozen=True):
    """How a key has ended: whether the call that asked made it so, and the task JSON."""

    won: bool
    state: TaskState
    document: bytes


class Resolver:
    """Sets the result that some call, on any instance, waits for, or will.

    Args:
        broker: Open.
        key: What the result is known by: the uuid of a task.
    """

    def __init__(self, broker: Broker, key: str) -> None:
        self._broker = broker
        self.key = key

    async def set_result(self, result: Any = None) -> bool:
        """Answers those who wait, and those who come later.

        Args:
            result: What FastAPI could answer: JSON, models, dates.

        Returns:
            Whether this call set the result: False when there is one already.

        Raises:
            TaskNotFoundError: Nobody has waited for this key yet, or its record is no longer kept.
            StoreUnavailableError: Redis did not confirm; calling again is safe.
            InvalidRequestError, PayloadTooLargeError: The result cannot be stored.
        """
        return (await self.finish(TaskState.SUCCEEDED, result=self.dump(result, "result"))).won

    async def set_error_result(self, message: str, *, code: str = "failed", details: Any = None) -> bool:
        """Ends the wait as failed: the endpoint's call raises `TaskFailedError`, for the application's handlers.

        Args:
            message: A sentence for people.
            code: A stable word for programs.
            details: As a result.

        Returns:
            Whether this call set the result. Raises as `set_result` does.
        """
        error = ErrorRequest(code=code, message=message)
        if details is not None:
            error.details = Raw(self.dump(details, "error.details"))
        return (await self.finish(TaskState.FAILED, error=error)).won

    async def finish(
        self, state: TaskState, *, result: bytes | None = None, error: ErrorRequest | None = None
    ) -> Outcome:
        """Ends the task of this key, or tells how it has ended; values as JSON text. Raises as `set_result` does."""
        request = ChangeRequest(uuid=self.key, state=state.value, error=error)  # type: ignore[arg-type]
        if result is not None:
            request.result = Raw(result)
        try:
            changed = await self._broker.finish(request)
        except TaskAlreadyFinalError as final:
            return Outcome(False, final.state, final.document)
        return Outcome(changed.changed, changed.state, changed.document or b"{}")

    def dump(self, value: Any, what: str) -> bytes:
        """A value as JSON text."""
        return values.dump(jsonable_encoder(value), what, max_bytes=self._broker.settings.max_body_bytes)


class OwnResolver(Resolver):
    """A resolver that can make its key known, and remembers how it has ended."""

    def __init__(self, broker: Broker, new: NewTask) -> None:
        super().__init__(broker, new.uuid)
        self._new = new
        self.is_open = False
        self.outcome: Outcome | None = None

    async def open(self) -> None:
        """See `DeferredResult.open`."""
        await self._broker.transitions.create(self._new)
        self.is_open = True

    async def finish(
        self, state: TaskState, *, result: bytes | None = None, error: ErrorRequest | None = None
    ) -> Outcome:
        """As any resolver does, for a key that need not be known yet."""
        try:
            self.outcome = await super().finish(state, result=result, error=error)
        except TaskNotFoundError:
            if self.is_open:
                raise
            await self.open()
            self.outcome = await super().finish(state, result=result, error=error)
        return self.outcome
