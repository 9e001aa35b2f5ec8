"""The operations on tasks."""

from __future__ import annotations

from typing import Final

from broker.requests import (
    BatchRequest,
    CancelRequest,
    ChangeRequest,
    CreateRequest,
    ListRequest,
    QuerySeveralRequest,
    RetryRequest,
)
from broker_services.api import schemas
from broker_services.api.calls import several, tasks
from broker_services.api.operations.operation import BODY_PROBLEMS, READ_PROBLEMS, Operation, Outcome

OPERATIONS: Final = (
    Operation(
        path="/createTask",
        name="createTask",
        summary="Creates a task, or attaches to the one of this uuid or key, and holds until it has ended.",
        methods=("POST", "GET"),
        call=tasks.create_task,
        begin=tasks.begin_create,
        scope="create",
        request=CreateRequest,
        writes=True,
        outcomes={
            200: Outcome("The task has ended, one way or another.", schemas.Task, ("Preference-Applied",)),
            202: Outcome(
                "The wait is over and the task goes on: ask again at `Location`.",
                schemas.Task,
                ("Location", "Retry-After", "Preference-Applied"),
            ),
        },
        problems=(
            *BODY_PROBLEMS,
            "task-conflict",
            "waiter-exists",
            "idempotency-mismatch",
            "queue-full",
            "too-many-waiters",
            "method-not-allowed",
        ),
        headers=("Idempotency-Key", "Prefer", "Accept-Language"),
        example={"queue": "createbranch", "payload": {"repository": "demo", "branch": "feature-1"}, "wait": 30},
    ),
    Operation(
        path="/createTasks",
        name="createTasks",
        summary="Creates up to 1,000 tasks, each as `createTask` does with `wait` 0; one that fails harms no other.",
        methods=("POST",),
        call=several.create_tasks,
        scope="create",
        request=BatchRequest,
        outcomes={200: Outcome("Each task, or why there is none, in order.", schemas.Items)},
        problems=(*BODY_PROBLEMS, "too-many-waiters", "method-not-allowed"),
        headers=("Accept-Language",),
        example={
            "tasks": [
                {"uuid": "batch-1", "payload": {"repository": "demo", "branch": "feature-1"}},
                {"uuid": "batch-2", "payload": {"repository": "demo", "branch": "feature-2"}},
            ]
        },
    ),
    Operation(
        path="/queryTaskState",
        name="queryTaskState",
        summary="Reads a task, or several in one call; with `wait`, holds until it has, all have or any has ended.",
        methods=("GET", "HEAD"),
        call=tasks.query_task_state,
        begin=tasks.begin_query,
        scope="read",
        request=QuerySeveralRequest,
        outcomes={
            200: Outcome(
                "The task, whatever its state; where `uuid` is repeated or `until` given, each of them, in order.",
                (schemas.Task, schemas.Items),
                ("ETag", "Preference-Applied"),
            ),
            304: Outcome("Unchanged since `If-None-Match`.", None, ("ETag",)),
        },
        problems=(*READ_PROBLEMS, "task-not-found", "too-many-waiters"),
        headers=("If-None-Match", "Prefer", "Accept-Language"),
        example={"uuid": "084Tkjfh"},
    ),
    Operation(
        path="/changeTaskState",
        name="changeTaskState",
        summary="Ends a task; the first outcome wins. With `?uuid=…&raw=1` any JSON or form body is the result.",
        methods=("POST", "GET"),
        call=tasks.change_task_state,
        begin=tasks.begin_change,
        scope="complete",
        request=ChangeRequest,
        raw=True,
        writes=True,
        outcomes={200: Outcome("Ended, now or with the same outcome before.", schemas.ChangedTask)},
        problems=(*BODY_PROBLEMS, "task-not-found", "task-already-final", "lease-lost", "method-not-allowed"),
        headers=("Accept-Language",),
        example={"uuid": "084Tkjfh", "state": "succeeded", "result": {"paid": True}},
    ),
    Operation(
        path="/cancelTask",
        name="cancelTask",
        summary="Cancels a task; a handler that runs it is told.",
        methods=("POST",),
        call=tasks.cancel_task,
        scope="complete",
        request=CancelRequest,
        outcomes={200: Outcome("Cancelled, now or before.", schemas.ChangedTask)},
        problems=(*BODY_PROBLEMS, "task-not-found", "task-already-final", "method-not-allowed"),
        headers=("Accept-Language",),
        example={"uuid": "084Tkjfh"},
    ),
    Operation(
        path="/retryTask",
        name="retryTask",
        summary="Makes a new task of a failed or expired one, which itself never changes.",
        methods=("POST",),
        call=tasks.retry_task,
        scope="create",
        request=RetryRequest,
        outcomes={200: Outcome("The new task, with the other one as its `retry_of`.", schemas.Task)},
        problems=(
            *BODY_PROBLEMS,
            "task-not-found",
            "task-conflict",
            "task-already-final",
            "queue-full",
            "method-not-allowed",
        ),
        headers=("Idempotency-Key", "Accept-Language"),
        example={"uuid": "084Tkjfh"},
    ),
    Operation(
        path="/tasks",
        name="tasks",
        summary="Lists tasks, newest created first. A page may be short, or empty, while it has a cursor.",
        methods=("GET", "HEAD"),
        call=tasks.list_tasks,
        scope="read",
        request=ListRequest,
        outcomes={200: Outcome("A page.", schemas.Tasks)},
        problems=READ_PROBLEMS,
        headers=("Accept-Language",),
        example={"queue": "createbranch", "state": "failed"},
    ),
)
