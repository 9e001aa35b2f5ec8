"""Problems: a status and a title for each code, and nothing that tells too much."""

from __future__ import annotations

import json

import pytest

from broker.errors import (
    BrokerError,
    InvalidRequestError,
    StoreError,
    StoreUnavailableError,
    TaskAlreadyFinalError,
    TaskNotFoundError,
)
from broker.fastapi.installation import STATUS
from broker.task import TaskState
from broker_services.api.messages import Language
from broker_services.api.operations import OPERATIONS, Operation
from broker_services.api.problems import PROBLEMS, HttpError, problem_answer

STATUS_CODES = {
    400: {"malformed-json"},
    401: {"unauthorized"},
    403: {"forbidden"},
    404: {"task-not-found", "not-found"},
    405: {"method-not-allowed"},
    408: {"request-timeout"},
    409: {"task-conflict", "task-already-final", "lease-lost", "waiter-exists"},
    413: {"payload-too-large"},
    415: {"unsupported-media-type"},
    422: {"invalid-request", "idempotency-mismatch"},
    429: {"queue-full"},
    431: {"headers-too-large"},
    503: {"too-many-waiters", "draining", "store-unavailable"},
}


@pytest.mark.parametrize("code", sorted(PROBLEMS.keys() - {"internal-error"}))
def test_every_code_is_one_of_the_contract_with_its_status(code: str) -> None:
    assert code in STATUS_CODES[PROBLEMS[code].status]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_code_that_an_operation_documents_exists(operation: Operation) -> None:
    assert set(operation.problems) <= PROBLEMS.keys()


def _document(error: BrokerError, language: Language = Language.ENGLISH) -> dict[str, object]:
    document: dict[str, object] = json.loads(problem_answer(error, path="/x", language=language).body)
    return document


def test_a_problem_is_rfc_9457() -> None:
    answer = problem_answer(HttpError("forbidden", "No."), path="/x", language=Language.ENGLISH)

    assert answer.status == 403
    assert answer.content_type == b"application/problem+json"
    assert json.loads(answer.body) == {
        "type": "urn:createbranch-broker:problem:forbidden",
        "title": PROBLEMS["forbidden"].title,
        "status": 403,
        "detail": "No.",
        "instance": "/x",
        "code": "forbidden",
    }


def test_the_field_at_fault_is_named() -> None:
    assert _document(InvalidRequestError("No.", field="wait"))["field"] == "wait"


def test_the_winner_is_a_member() -> None:
    error = TaskAlreadyFinalError("a", TaskState.CANCELLED, b'{"uuid":"a","n":1.0}')

    answer = problem_answer(error, path="/x", language=Language.CHINESE)

    assert b'"task":{"uuid":"a","n":1.0,"message":"\xe5\xb7\xb2\xe5\x8f\x96\xe6\xb6\x88","links":' in answer.body


def test_an_unknown_task_is_told_in_the_callers_language() -> None:
    assert _document(TaskNotFoundError("a"), Language.CHINESE)["detail"] == "未查询到任务"


def test_headers_of_a_problem_come_along() -> None:
    error = HttpError("method-not-allowed", "No.", (b"allow", b"POST"))

    assert (b"allow", b"POST") in problem_answer(error, path="/x", language=Language.ENGLISH).asgi_headers()


def test_clients_are_asked_to_come_back_at_different_times() -> None:
    answers = [problem_answer(StoreUnavailableError("No."), path="/x", language=Language.ENGLISH) for _ in range(60)]

    times = {dict(answer.asgi_headers())[b"retry-after"] for answer in answers}
    assert len(times) > 1
    assert all(int(time) >= 1 for time in times)


def test_an_error_of_redis_is_not_shown() -> None:
    document = _document(StoreError("WRONGPASS secret"))

    assert (document["status"], document["code"]) == (503, "store-unavailable")
    assert "secret" not in str(document)


def test_an_unknown_code_is_a_defect() -> None:
    assert _document(BrokerError("No."))["code"] == "internal-error"


def test_users_applications_answer_with_the_same_statuses() -> None:
    assert {code: PROBLEMS[code].status for code in STATUS if code != StoreError.code} == {
        code: status for code, status in STATUS.items() if code != StoreError.code
    }
