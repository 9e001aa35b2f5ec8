"""Each rule of the checker on small histories: what it finds, and what it must not take for a violation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.faults.checker import RULES, check
from tests.faults.history import Call, Disturbance, Execution, Exit, History

LEASE_S = 2.0


def document(state: str = "succeeded", *, uuid: str = "t", finished: float = 10.0, **members: Any) -> dict[str, Any]:
    task = {"uuid": uuid, "state": state, "attempt": 1, **members}
    if state not in ("pending", "running"):
        task["finished_at"] = datetime.fromtimestamp(finished, UTC).isoformat()
    return task


def call(
    operation: str = "query",
    start: float = 10.0,
    end: float = 10.1,
    *,
    status: int | None = 200,
    answer: Any = None,
    wait: float = 0.0,
    instance: str = "api1",
    **fields: Any,
) -> Call:
    request = fields.pop("request", {"uuid": "t", "payload": {"most_attempts": 3}})
    return Call(
        client="c",
        instance=instance,
        operation=operation,
        request=request,
        started=start,
        ended=end,
        wait_s=wait,
        status=status,
        answer=document() if answer is None and status == 200 else answer,
        **fields,
    )


def execution(fence: int, claimed: float, ended: float | None, *, worker: str = "worker1", **fields: Any) -> Execution:
    return Execution(
        uuid="t",
        queue="q",
        attempt=1,
        lease=f"{fence}.x",
        claimed=claimed,
        started=claimed,
        ended=ended,
        pid=1,
        worker=worker,
        **fields,
    )


def fault(kind: str, target: str, start: float, end: float) -> Disturbance:
    return Disturbance(kind=kind, target=target, start=start, end=end)


def violated(*calls: Call, **parts: Any) -> set[str]:
    return {violation.rule for violation in check(History(lease_s=LEASE_S, calls=list(calls), **parts))}


def test_a_history_without_faults() -> None:
    created = call("create", 1, 1.1, status=202, answer=document("pending"))
    assert violated(created, call(wait=20), executions=[execution(1, 2, 9.9)]) == set()


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [
        ("create", 500, "internal-error"),
        ("create", 409, "task-conflict"),
        ("create", 404, "task-not-found"),
        ("query", 202, None),
        ("query", 502, None),
        ("change", 409, "lease-lost"),
        ("create", 503, "internal-error"),
    ],
)
def test_undocumented_answers(operation: str, status: int, code: str | None) -> None:
    answer = {"code": code} if code else {}
    assert "only documented answers" in violated(call(operation, status=status, answer=answer))


def test_documented_answers() -> None:
    away = call("create", status=503, answer={"code": "store-unavailable"})
    unknown = call(status=404, answer={"code": "task-not-found"})
    final = call("change", status=409, answer={"code": "task-already-final", "task": document()})
    assert violated(away, unknown, final) == set()


def test_an_answer_after_the_deadline() -> None:
    late = call(start=10, end=13.2, wait=2, status=503, answer={"code": "store-unavailable"})
    assert violated(late) == {"answered in time"}
    # Time in which the instance, or the whole machine, stood still is added; other instances' time is not.
    assert violated(late, disturbances=[fault("api-stop", "api1", 11, 11.5)]) == set()
    assert violated(late, disturbances=[fault("stall", "machine", 11, 11.5)]) == set()
    assert violated(late, disturbances=[fault("api-stop", "api2", 11, 11.5)]) == {"answered in time"}
    assert violated(late, disturbances=[fault("redis-stop", "redis", 9, 14)]) == {"answered in time"}


def test_no_answer() -> None:
    lost = call(status=None, start=10, end=12, wait=20)
    assert violated(lost) == {"answered at all"}
    assert violated(lost, disturbances=[fault("api-kill", "api1", 11.9, 14)]) == set()
    assert violated(call(status=None, left=True)) == set()


def test_no_answer_when_the_instance_was_told_to_end() -> None:
    lost = call(status=None, start=10, end=12, wait=20)
    told = fault("api-term", "api1", 11, 13)
    assert violated(lost, disturbances=[told]) == {"answered at all"}
    assert violated(lost, disturbances=[told, fault("redis-stop", "redis", 9, 12)]) == set()
    just_sent = call(status=None, start=10.9, end=11.1, wait=20)
    assert violated(just_sent, disturbances=[told]) == set()


def test_a_wait_that_hangs_after_its_task_has_ended() -> None:
    hung = call("create", 9, 16, wait=20)
    assert violated(hung) == {"told promptly"}
    assert violated(hung, disturbances=[fault("kill-pubsub", "all", 10, 10.1)]) == {"told promptly"}
    assert violated(hung, disturbances=[fault("kill-pubsub", "all", 14, 14.1)]) == set()
    assert violated(hung, disturbances=[fault("redis-kill", "redis", 9, 11)]) == set()
    assert violated(hung, disturbances=[fault("drop-quietly", "all", 9, 10.5)]) == set()
    assert violated(hung, disturbances=[fault("freeze", "api2", 9, 15)]) == {"told promptly"}


def test_not_yet_after_the_end() -> None:
    ended = call(start=20, end=20.1)
    not_yet = call("create", 11, 12, status=202, answer=document("running"))
    assert violated(ended, not_yet) == {"not yet is true"}
    waited = call("create", 9, 25, wait=16, status=202, answer=document("running"))
    assert violated(call(start=30, end=30.1), waited) == {"not yet is true"}
    assert violated(call(start=30, end=30.1), waited, disturbances=[fault("redis-stop", "redis", 20, 26)]) == set()


def test_two_outcomes() -> None:
    first, second = call(answer=document(result=1)), call(answer=document(result=2))
    assert violated(first, second) == {"one outcome"}
    final = call("change", status=409, answer={"code": "task-already-final", "task": document("failed")})
    assert violated(first, final) == {"one outcome"}


def test_an_end_that_does_not_last() -> None:
    # The record that the last observer finds says that it ended later than somebody had been told.
    told, open_again = call(end=10.1), call(start=10.2, end=10.3, answer=document("running"))
    assert "ended stays ended" in violated(told, open_again)


def test_an_acknowledged_task_that_is_lost() -> None:
    created = call("create", 1, 2, status=202, answer=document("pending"))
    assert violated(created) == {"nothing acknowledged is lost"}
    gone = call(start=3, end=4, status=404, answer={"code": "task-not-found"})
    assert violated(created, gone, call()) == {"nothing acknowledged is lost"}
    not_yet_there = call(start=1.5, end=3, status=404, answer={"code": "task-not-found"})
    assert violated(created, not_yet_there, call()) == set()


def test_two_changes() -> None:
    changed = call("change", answer={**document(), "changed": True})
    repeated = call("change", answer={**document(), "changed": False})
    assert violated(changed, repeated) == set()
    assert violated(changed, changed) == {"one change"}


def test_two_tasks_of_one_key() -> None:
    first, second = call(idempotency_key="k"), call(idempotency_key="k", answer=document(uuid="u"))
    assert violated(first, second) == {"one task per key"}


def test_too_many_attempts() -> None:
    created = call("create", answer={**document(), "attempt": 4})
    assert violated(created) == {"attempts are bounded"}


def test_an_outcome_of_a_lease_that_was_replaced() -> None:
    executions = [execution(1, 5, 9), execution(2, 8, 9.5, worker="worker2")]
    stopped = [fault("worker-stop", "worker1", 5, 9)]
    by_second = call(answer=document(result={"by": "2.x"}))
    assert violated(by_second, executions=executions, disturbances=stopped) == set()
    by_first = call(answer=document(result={"by": "1.x"}))
    assert violated(by_first, executions=executions, disturbances=stopped) == {"the last claim decides"}


def test_a_claim_while_another_is_valid() -> None:
    found = {"one valid lease"}
    assert violated(executions=[execution(1, 5, 9), execution(2, 6, 9)]) == found
    # Its length has passed, but nothing kept the worker from renewing it.
    assert violated(executions=[execution(1, 5, 9), execution(2, 8, 9)]) == found
    stopped = [fault("worker-stop", "worker1", 5.5, 8)]
    assert violated(executions=[execution(1, 5, 9), execution(2, 8, 9)], disturbances=stopped) == set()
    assert violated(executions=[execution(1, 5, 9), execution(2, 6, 9)], disturbances=stopped) == found
    assert violated(executions=[execution(1, 5, 5.5), execution(2, 6, 9)]) == set()
    assert violated(executions=[execution(1, 5, None, in_thread=True), execution(2, 6, 9)]) == set()


def test_a_claim_after_the_end() -> None:
    assert violated(call(), executions=[execution(1, 11, 12)]) == {"none after the end"}


def test_an_end_out_of_order() -> None:
    exits = [Exit(target="api1", started=0, seconds=1, allowed_s=4, exit_code=0)]
    assert violated(exits=exits) == set()
    assert violated(exits=[Exit(target="api1", started=0, seconds=5, allowed_s=4, exit_code=0)]) == {"ends in order"}
    assert violated(exits=[Exit(target="api1", started=0, seconds=1, allowed_s=4, exit_code=-9)]) == {"ends in order"}


def test_leftovers() -> None:
    assert violated(leftovers=["channel q-response-t"]) == {"nothing is left over"}


def test_defects() -> None:
    assert violated(defects=["api1: Traceback"]) == {"no defect is logged"}


def test_every_rule_says_what_it_demands() -> None:
    assert all(rule.__doc__ for rule in RULES.values())
