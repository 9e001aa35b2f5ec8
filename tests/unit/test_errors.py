"""Errors: one tree, codes that never change and never coincide."""

from __future__ import annotations

from collections.abc import Iterator

import broker
from broker import errors
from broker.task import TaskState

CODES = {
    errors.BrokerError: "broker-error",
    errors.ConfigurationError: "configuration",
    errors.InvalidRequestError: "invalid-request",
    errors.MalformedJsonError: "malformed-json",
    errors.PayloadTooLargeError: "payload-too-large",
    errors.TaskNotFoundError: "task-not-found",
    errors.TaskConflictError: "task-conflict",
    errors.QueueFullError: "queue-full",
    errors.WaiterExistsError: "waiter-exists",
    errors.TooManyWaitersError: "too-many-waiters",
    errors.IdempotencyMismatchError: "idempotency-mismatch",
    errors.TaskAlreadyFinalError: "task-already-final",
    errors.LeaseLostError: "lease-lost",
    errors.StoreUnavailableError: "store-unavailable",
    errors.StoreError: "store-error",
    errors.TaskError: "failed",
    errors.TaskFailedError: "task-failed",
    errors.ApiError: "unexpected-answer",
}


def tree(root: type[errors.BrokerError]) -> Iterator[type[errors.BrokerError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def test_codes_are_stable_and_unique() -> None:
    assert {error: error.code for error in tree(errors.BrokerError)} == CODES
    assert len(set(CODES.values())) == len(CODES)


def test_every_error_is_public() -> None:
    assert {error.__name__ for error in CODES} <= set(broker.__all__)


def test_what_errors_carry() -> None:
    assert errors.InvalidRequestError("m", field="f").field == "f"
    assert "084Tkjfh" in str(errors.TaskNotFoundError("084Tkjfh"))
    final = errors.TaskAlreadyFinalError("t", TaskState.FAILED, b"{}")
    assert (final.uuid, final.state, final.document) == ("t", TaskState.FAILED, b"{}")
    assert errors.QueueFullError("m").retry_after_s is None
    assert errors.StoreUnavailableError("m").may_have_run is False
    assert errors.StoreUnavailableError("m", may_have_run=True).may_have_run


def test_a_task_error_has_its_own_code_or_the_common_one() -> None:
    own = errors.TaskError("m", code="own", details=[1], retry=True)
    assert (own.code, own.details, own.retry) == ("own", [1], True)
    common = errors.TaskError("m")
    assert (common.code, common.details, common.retry) == ("failed", None, False)
