"""Tasks, their states, and what a task JSON becomes."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from broker.task import DEFERRED, TRANSITIONS, Task, TaskFailure, TaskState, task_from_json

TERMINAL = {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED}


def test_the_states_are_the_contracts() -> None:
    assert [str(state) for state in TaskState] == ["pending", "running", "succeeded", "failed", "cancelled", "expired"]


def test_terminal_states() -> None:
    assert {state for state in TaskState if state.is_terminal} == TERMINAL


def test_which_state_may_follow_which() -> None:
    assert TRANSITIONS[TaskState.PENDING] == {TaskState.RUNNING, *TERMINAL}
    assert TRANSITIONS[TaskState.RUNNING] == {TaskState.PENDING, *TERMINAL}
    assert not any(TRANSITIONS[state] for state in TERMINAL)


def test_a_task_json() -> None:
    task = task_from_json(
        b'{"uuid":"084Tkjfh","queue":"q","state":"failed","attempt":2,"progress":{"percent":50},'
        b'"error":{"code":"x","message":"y","details":[1.0]},"created_at":"2026-11-20T16:20:00.123Z",'
        b'"expires_at":"2026-11-21T16:20:00.123Z","retry_of":"other","links":{},"message":"failed"}'
    )
    assert (task.uuid, task.queue, task.state, task.attempt, task.retry_of) == (
        *("084Tkjfh", "q", TaskState.FAILED, 2, "other"),
    )
    assert task.error == TaskFailure("x", "y", [1.0])
    assert task.last_progress == {"percent": 50}
    assert task.created_at == datetime(2026, 11, 20, 16, 20, 0, 123_000, UTC)
    assert (task.started_at, task.finished_at, task.result, task.payload) == (None, None, None, None)


@pytest.mark.parametrize("document", [b"", b"{}", b'{"uuid":"t","queue":"q","state":"odd"}'])
def test_what_is_no_task_json(document: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        task_from_json(document)


class Actions:
    """What a task is bound to."""

    def __init__(self, is_cancelled: bool) -> None:
        self._is_cancelled = is_cancelled
        self.reported: list[Any] = []

    async def wait(self, task: Task, timeout: float) -> Task:
        return msgspec.structs.replace(task, state=TaskState.SUCCEEDED, attempt=int(timeout))

    async def report_progress(self, task: Task, value: Any) -> None:
        self.reported.append(value)

    def is_cancelled(self, task: Task) -> bool:
        return self._is_cancelled


def bound(actions: Any, state: TaskState = TaskState.RUNNING) -> Task:
    return Task(uuid="t", queue="q", state=state, actions=actions)


async def test_a_task_acts_through_what_it_is_bound_to() -> None:
    actions = Actions(is_cancelled=False)
    task = bound(actions)
    assert (await task.wait(7)).attempt == 7
    await task.progress({"percent": 50})
    assert actions.reported == [{"percent": 50}]


@pytest.mark.parametrize(
    ("state", "actions", "expected"),
    [
        (TaskState.RUNNING, Actions(is_cancelled=True), True),
        (TaskState.RUNNING, Actions(is_cancelled=False), False),
        (TaskState.CANCELLED, Actions(is_cancelled=False), True),
        (TaskState.CANCELLED, None, True),
        (TaskState.SUCCEEDED, None, False),
        (TaskState.RUNNING, None, False),
    ],
)
def test_whether_a_task_was_cancelled(state: TaskState, actions: Any, expected: bool) -> None:
    assert bound(actions, state).cancelled is expected


async def test_a_snapshot_can_do_nothing() -> None:
    for act in (bound(None).wait(1), bound(None).progress(1)):
        with pytest.raises(RuntimeError, match="snapshot"):
            await act


def test_deferred_names_itself() -> None:
    assert repr(DEFERRED) == "DEFERRED"
    assert repr(DEFERRED.within(1.5)) == "DEFERRED.within(1.5)"


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_a_deferral_needs_a_real_deadline(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        DEFERRED.within(seconds)
