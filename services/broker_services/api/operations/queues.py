"""The operations on queues."""

from __future__ import annotations

from typing import Final

from broker.requests import LimitsRequest, QueueRequest, QueuesRequest
from broker_services.api import schemas
from broker_services.api.calls import queues
from broker_services.api.operations.operation import BODY_PROBLEMS, READ_PROBLEMS, Operation, Outcome

OPERATIONS: Final = (
    Operation(
        path="/queues",
        name="queues",
        summary="What each queue holds, and who is there for it.",
        methods=("GET", "HEAD"),
        call=queues.list_queues,
        scope="read",
        request=QueuesRequest,
        outcomes={
            200: Outcome("The queues in use: with open tasks, workers or held calls, now or lately.", schemas.Queues)
        },
        problems=READ_PROBLEMS,
    ),
    Operation(
        path="/queues/{queue}",
        name="setQueueLimits",
        summary="Sets all limits of a queue, for all its workers together; what is absent is not limited any more.",
        methods=("PUT",),
        call=queues.set_limits,
        scope="work",
        request=LimitsRequest,
        parameter=QueueRequest,
        outcomes={200: Outcome("What the queue holds, with its limits.", schemas.Queue)},
        problems=(*BODY_PROBLEMS, "method-not-allowed"),
        example={"max_running": 10, "max_rate_per_s": 2.5},
    ),
)
