"""The operations of workers over HTTP."""

from __future__ import annotations

from typing import Final

from broker.requests import ClaimRequest, HeartbeatRequest, ReleaseRequest
from broker_services.api import schemas
from broker_services.api.calls import work
from broker_services.api.operations.operation import BODY_PROBLEMS, Operation, Outcome

OPERATIONS: Final = (
    Operation(
        path="/claimTask",
        name="claimTask",
        summary="Takes tasks to work on, and with `wait` holds until there are some. They are the caller's as long as "
        "their leases; nobody gets those that a caller who has left did not hear of.",
        methods=("POST",),
        call=work.claim_task,
        scope="work",
        request=ClaimRequest,
        outcomes={200: Outcome("The tasks; none when the wait is over.", schemas.Claim, ("Preference-Applied",))},
        problems=(*BODY_PROBLEMS, "too-many-waiters", "method-not-allowed"),
        headers=("Prefer", "Accept-Language"),
        example={"queues": ["createbranch"], "wait": 30, "max": 1},
    ),
    Operation(
        path="/heartbeatTask",
        name="heartbeatTask",
        summary="Renews the lease of a claimed task, and tells when somebody else has ended it.",
        methods=("POST",),
        call=work.heartbeat_task,
        scope="work",
        request=HeartbeatRequest,
        outcomes={200: Outcome("The new end of the lease, or that there is no more to do.", schemas.Heartbeat)},
        problems=(*BODY_PROBLEMS, "task-not-found", "lease-lost", "method-not-allowed"),
        example={"uuid": "084Tkjfh", "lease": "…", "progress": {"percent": 50}},
    ),
    Operation(
        path="/releaseTask",
        name="releaseTask",
        summary="Lets go of a claimed task: with `error` after a failed attempt, which is retried while attempts are "
        "left; with `defer` to a third party; else unharmed, not counted as an attempt.",
        methods=("POST",),
        call=work.release_task,
        scope="work",
        request=ReleaseRequest,
        outcomes={200: Outcome("The task as it is now: `failed` when no attempt was left.", schemas.Task)},
        problems=(*BODY_PROBLEMS, "task-not-found", "task-already-final", "lease-lost", "method-not-allowed"),
        headers=("Accept-Language",),
        example={"uuid": "084Tkjfh", "lease": "…", "error": {"code": "no-space"}, "delay": 5},
    ),
)
