"""Every error that this package raises: one tree, a stable `code` per class, a sentence per message."""

from __future__ import annotations

from typing import Any

from broker.task import Task, TaskState


class BrokerError(Exception):
    """Base of everything raised here on purpose. `code` never changes; the message is for people."""

    code = "broker-error"


class ConfigurationError(BrokerError):
    """A setting, a URL or a handler was declared in a way that cannot work."""

    code = "configuration"


class InvalidRequestError(BrokerError):
    """A value the caller sent is not acceptable. The message names the field and what would be right."""

    code = "invalid-request"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class MalformedJsonError(InvalidRequestError):
    """What should have been JSON is not JSON at all."""

    code = "malformed-json"


class PayloadTooLargeError(BrokerError):
    """A body or a value is longer than its limit."""

    code = "payload-too-large"


class TaskNotFoundError(BrokerError):
    """No record of that uuid: it was never created, or its retention is over."""

    code = "task-not-found"

    def __init__(self, uuid: str) -> None:
        super().__init__(
            f"There is no task with the uuid {uuid}: it was never created, or its record is no longer kept."
        )
        self.uuid = uuid


class TaskConflictError(BrokerError):
    """The uuid already names a task with another queue or payload, or one that is still open and must not be."""

    code = "task-conflict"


class QueueFullError(BrokerError):
    """The queue has as many pending tasks as it may have. `retry_after_s`: when to try again, if an API said so."""

    code = "queue-full"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class WaiterExistsError(BrokerError):
    """An exclusive call found somebody who already waits for the task. The call has changed nothing."""

    code = "waiter-exists"

    def __init__(self, uuid: str) -> None:
        super().__init__(
            f"Somebody already waits for the task {uuid}, and this call wants to be the only one: wait for that call's "
            "answer, or call without `exclusive` to wait beside it."
        )
        self.uuid = uuid


class TooManyWaitersError(BrokerError):
    """This process holds as many waits as it may. The task, if there is one, goes on; calls that do not wait work."""

    code = "too-many-waiters"


class IdempotencyMismatchError(BrokerError):
    """The Idempotency-Key already stands for another request."""

    code = "idempotency-mismatch"


class TaskAlreadyFinalError(BrokerError):
    """The task has ended with another outcome: `state`, and `document`, the winner's task JSON as stored."""

    code = "task-already-final"

    def __init__(self, uuid: str, state: TaskState, document: bytes) -> None:
        super().__init__(f"Task {uuid} has already ended ({state}) with another outcome, which stays.")
        self.uuid = uuid
        self.state = state
        self.document = document


class LeaseLostError(BrokerError):
    """The lease ran out, was replaced or was given back: somebody else may run the task now."""

    code = "lease-lost"


class StoreUnavailableError(BrokerError):
    """Redis did not answer in time. `may_have_run` tells whether the command may have taken effect."""

    code = "store-unavailable"

    def __init__(self, message: str, *, may_have_run: bool = False) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run


class StoreError(BrokerError):
    """Redis answered a command with an error of its own, which is a defect here or a wrong setting there."""

    code = "store-error"


class TaskError(BrokerError):
    """What a handler raises to end its task as `failed` with a code of its own.

    Args:
        message: A sentence for people; becomes `error.message`.
        code: A stable word for programs; becomes `error.code`.
        details: Any JSON-serializable value; becomes `error.details`.
        retry: Whether another attempt could help. False ends the task at once, whatever attempts are left.
    """

    code = "failed"

    def __init__(self, message: str, *, code: str | None = None, details: Any = None, retry: bool = False) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.details = details
        self.retry = retry


class TaskFailedError(BrokerError):
    """What `run` raises for a task that ended without success. Attributes, beside the `code` and text of its error:

    Args:
        task: As it ended; its `error` may be None where it was cancelled or expired, and `code` is its state then.
    """

    code = "task-failed"

    def __init__(self, task: Task) -> None:
        failure = task.error
        self.task = task
        self.code = task.state.value if failure is None else failure.code
        self.details = None if failure is None else failure.details
        reason = None if failure is None else failure.message
        super().__init__(reason or f"The task {task.uuid} has {_ENDED[task.state]}.")


def result_of(task: Task, waited_s: float) -> Any:
    """What `run` returns or raises for a task that was waited for so many seconds.

    Raises:
        TaskFailedError: It ended without success.
        TimeoutError: It has not ended.
    """
    if task.state is TaskState.SUCCEEDED:
        return task.result
    if task.state.is_terminal:
        raise TaskFailedError(task)
    raise TimeoutError(f"The task {task.uuid} is still {task.state} after {waited_s:g} s. It goes on.")


_ENDED = {TaskState.FAILED: "failed", TaskState.CANCELLED: "been cancelled", TaskState.EXPIRED: "expired"}


class ApiError(BrokerError):
    """What `BrokerClient` met where no other class fits: a problem of another code, no broker's answer, or none at all.

    Args:
        message: A sentence for people.
        status: The HTTP status; None when nothing answered.
        code: The problem's own `code`, `unexpected-answer` or `unreachable`.
        retry_after_s: The seconds after which the API asked to try again, if it did.
    """

    code = "unexpected-answer"

    def __init__(
        self, message: str, *, status: int | None, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s
