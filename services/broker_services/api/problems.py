"""Every way a call can fail, as RFC 9457 problem details: a stable code, its status, its title."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson

from broker.errors import (
    BrokerError,
    InvalidRequestError,
    StoreError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskNotFoundError,
)
from broker_services.api.answers import Answer, Header
from broker_services.api.messages import Language, unknown_task
from broker_services.api.task_body import task_body


class ProblemType(msgspec.Struct, frozen=True):
    """What all problems of one code share."""

    code: str
    status: int
    title: str


_ALL: Final = (
    ProblemType("malformed-json", 400, "The body is not JSON"),
    ProblemType("unauthorized", 401, "The call needs a known key"),
    ProblemType("forbidden", 403, "The call is not allowed"),
    ProblemType("task-not-found", 404, "Unknown task"),
    ProblemType("not-found", 404, "Unknown path"),
    ProblemType("method-not-allowed", 405, "The path does not take this method"),
    ProblemType("request-timeout", 408, "The request did not arrive in time"),
    ProblemType("task-conflict", 409, "The task of this uuid is not one for this call"),
    ProblemType("task-already-final", 409, "The task has ended with another outcome"),
    ProblemType("lease-lost", 409, "The lease no longer holds"),
    ProblemType("waiter-exists", 409, "Somebody already waits for the task"),
    ProblemType("payload-too-large", 413, "The body or a value is too long"),
    ProblemType("unsupported-media-type", 415, "The body is of a type that is not read"),
    ProblemType("invalid-request", 422, "A field cannot be used"),
    ProblemType("idempotency-mismatch", 422, "The idempotency key stands for another request"),
    ProblemType("headers-too-large", 431, "The headers are too long"),
    ProblemType("queue-full", 429, "The queue takes no more tasks now"),
    ProblemType("internal-error", 500, "A defect of the service"),
    ProblemType("draining", 503, "This instance ends"),
    ProblemType("too-many-waiters", 503, "This instance holds no more calls now"),
    ProblemType("store-unavailable", 503, "Redis cannot serve this now"),
)
PROBLEMS: Final[Mapping[str, ProblemType]] = {problem.code: problem for problem in _ALL}


class HttpError(BrokerError):
    """A failure that only HTTP knows.

    Args:
        code: One of `PROBLEMS`.
        message: The sentence for `detail`.
        headers: Further headers, such as `Allow`.
    """

    def __init__(self, code: str, message: str, *headers: Header) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers


def problem_answer(error: BrokerError, *, path: str, language: Language) -> Answer:
    """The answer to a call that failed with `error`."""
    if isinstance(error, StoreError):
        error = StoreUnavailableError("Redis refused a command of this service; its log has the reason.")
    problem = PROBLEMS.get(error.code, PROBLEMS["internal-error"])
    document: dict[str, Any] = {
        "type": f"urn:createbranch-broker:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": unknown_task(language) if isinstance(error, TaskNotFoundError) else str(error),
        "instance": path,
        "code": problem.code,
    }
    headers: list[Header] = list(error.headers) if isinstance(error, HttpError) else []
    if isinstance(error, InvalidRequestError) and error.field:
        document["field"] = error.field
    if isinstance(error, TaskAlreadyFinalError):
        document["task"] = orjson.Fragment(task_body(error.document, error.uuid, error.state, language))
    if problem.status in (429, 503):
        headers.append((b"retry-after", _spread_retry_after()))
    return Answer(
        problem.status,
        orjson.dumps(document),
        headers,
        content_type=b"application/problem+json",
        problem=problem.code,
    )


def _spread_retry_after() -> bytes:
    """One to three seconds, so that callers who were refused at once do not come back at once (Nacos does the same)."""
    return b"%d" % random.randint(1, 3)  # noqa: S311
