"""The operation that takes files."""

from __future__ import annotations

from typing import Final

from broker.requests import UploadRequest
from broker_services.api import schemas
from broker_services.api.calls import uploads
from broker_services.api.operations.operation import Operation, Outcome

OPERATIONS: Final = (
    Operation(
        path="/asyncUpload",
        name="asyncUpload",
        summary="Stores a picture, makes a task of the queue `uploadpicture` for it, and holds until it has ended.",
        methods=("POST",),
        call=uploads.async_upload,
        scope="create",
        request=UploadRequest,
        form=True,
        outcomes={
            200: Outcome("The task has ended, one way or another.", schemas.Task, ("Preference-Applied",)),
            202: Outcome(
                "The wait is over and the task goes on: ask again at `Location`.",
                schemas.Task,
                ("Location", "Retry-After", "Preference-Applied"),
            ),
        },
        problems=(
            "payload-too-large",
            "unsupported-media-type",
            "invalid-request",
            "queue-full",
            "too-many-waiters",
            "draining",
            "store-unavailable",
            "method-not-allowed",
        ),
        headers=("Prefer", "Accept-Language"),
    ),
)
