"""What callers may ask: one typed, checked definition each, for HTTP, the OpenAPI document and Python alike."""

from broker.requests.fields import MOST_SECONDS, Queue, Uuid, convert, invalid, milliseconds, received
from broker.requests.queues import QueuesRequest
from broker.requests.tasks import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MOST_PENDING,
    CancelRequest,
    ChangeRequest,
    Completion,
    CreateRequest,
    ErrorRequest,
    ListRequest,
    NewTask,
    QueryRequest,
    Retry,
    RetryRequest,
    completion,
    is_outcome_of,
    new_task,
    retry,
)
from broker.requests.uploads import UploadRequest

__all__ = [
    "DEFAULT_MAX_ATTEMPTS",
    "DEFAULT_MOST_PENDING",
    "MOST_SECONDS",
    "CancelRequest",
    "ChangeRequest",
    "Completion",
    "CreateRequest",
    "ErrorRequest",
    "ListRequest",
    "NewTask",
    "QueryRequest",
    "Queue",
    "QueuesRequest",
    "Retry",
    "RetryRequest",
    "UploadRequest",
    "Uuid",
    "completion",
    "convert",
    "invalid",
    "is_outcome_of",
    "milliseconds",
    "new_task",
    "received",
    "retry",
]
