"""The operations on queues."""

from __future__ import annotations

from typing import Final

from broker.requests import QueuesRequest
from broker_services.api import schemas
from broker_services.api.calls import queues
from broker_services.api.operations.operation import READ_PROBLEMS, Operation, Outcome

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
)
