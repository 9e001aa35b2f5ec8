"""A multi-instance task broker over Redis pub/sub: create a task anywhere, hold the call, finish it from anywhere."""

from broker.broker import Broker
from broker.errors import (
    BrokerError,
    ConfigurationError,
    IdempotencyMismatchError,
    InvalidRequestError,
    LeaseLostError,
    MalformedJsonError,
    PayloadTooLargeError,
    StoreError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskConflictError,
    TaskError,
    TaskNotFoundError,
)
from broker.settings import Settings
from broker.task import DEFERRED, Task, TaskFailure, TaskState
from broker.worker import Worker

__all__ = [
    "DEFERRED",
    "Broker",
    "BrokerError",
    "ConfigurationError",
    "IdempotencyMismatchError",
    "InvalidRequestError",
    "LeaseLostError",
    "MalformedJsonError",
    "PayloadTooLargeError",
    "Settings",
    "StoreError",
    "StoreUnavailableError",
    "Task",
    "TaskAlreadyFinalError",
    "TaskConflictError",
    "TaskError",
    "TaskFailure",
    "TaskNotFoundError",
    "TaskState",
    "Worker",
]
