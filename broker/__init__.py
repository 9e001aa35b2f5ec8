"""A multi-instance task broker over Redis pub/sub: create a task anywhere, hold the call, finish it from anywhere.

Names are imported when they are first asked for: a program that only talks HTTP loads no Redis code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.broker import Broker
    from broker.errors import (
        ApiError,
        BrokerError,
        ConfigurationError,
        IdempotencyMismatchError,
        InvalidRequestError,
        LeaseLostError,
        MalformedJsonError,
        PayloadTooLargeError,
        QueueFullError,
        StoreError,
        StoreUnavailableError,
        TaskAlreadyFinalError,
        TaskConflictError,
        TaskError,
        TaskFailedError,
        TaskNotFoundError,
        TooManyWaitersError,
        WaiterExistsError,
    )
    from broker.settings import Settings
    from broker.task import DEFERRED, Task, TaskFailure, TaskState
    from broker.task_event import EventKind, TaskEvent
    from broker.worker import Worker

_HOMES = {
    "Broker": "broker.broker",
    "Settings": "broker.settings",
    "Worker": "broker.worker",
    **dict.fromkeys(("EventKind", "TaskEvent"), "broker.task_event"),
    **dict.fromkeys(("DEFERRED", "Task", "TaskFailure", "TaskState"), "broker.task"),
}

__all__ = [
    "DEFERRED",
    "ApiError",
    "Broker",
    "BrokerError",
    "ConfigurationError",
    "EventKind",
    "IdempotencyMismatchError",
    "InvalidRequestError",
    "LeaseLostError",
    "MalformedJsonError",
    "PayloadTooLargeError",
    "QueueFullError",
    "Settings",
    "StoreError",
    "StoreUnavailableError",
    "Task",
    "TaskAlreadyFinalError",
    "TaskConflictError",
    "TaskError",
    "TaskEvent",
    "TaskFailedError",
    "TaskFailure",
    "TaskNotFoundError",
    "TaskState",
    "TooManyWaitersError",
    "WaiterExistsError",
    "Worker",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'broker' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "broker.errors")), name)
    globals()[name] = value
    return value
