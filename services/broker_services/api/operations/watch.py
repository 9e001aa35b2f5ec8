"""The operations on published values."""

from __future__ import annotations

from typing import Final

from msgspec import Raw

from broker.requests import (
    NamespaceRequest,
    PublishRequest,
    UnpublishRequest,
    WatchRequest,
    WatchSeveralRequest,
)
from broker_services.api import schemas
from broker_services.api.calls import watch
from broker_services.api.operations.operation import BODY_PROBLEMS, READ_PROBLEMS, Operation, Outcome

OPERATIONS: Final = (
    Operation(
        path="/watch/{namespace}",
        name="watch",
        summary="Holds until the namespace has another version than the caller knows.",
        methods=("GET", "HEAD"),
        call=watch.watch,
        scope="read",
        parameter=NamespaceRequest,
        request=WatchRequest,
        outcomes={
            200: Outcome("Another version.", schemas.Published, ("ETag", "Preference-Applied")),
            304: Outcome("The wait is over, and nothing has changed.", None, ("ETag", "Preference-Applied")),
        },
        problems=(*READ_PROBLEMS, "too-many-waiters"),
        headers=("If-None-Match", "Prefer", "Accept-Language"),
        example={"version": "0"},
    ),
    Operation(
        path="/watch",
        name="watchSeveral",
        summary="Holds until one of several namespaces has another version than the caller knows.",
        methods=("GET", "HEAD"),
        call=watch.watch_several,
        scope="read",
        request=WatchSeveralRequest,
        outcomes={
            200: Outcome("Those that have another version.", list[schemas.Published], ("Preference-Applied",)),
            304: Outcome("The wait is over, and nothing has changed.", None, ("Preference-Applied",)),
        },
        problems=(*READ_PROBLEMS, "too-many-waiters"),
        headers=("Prefer", "Accept-Language"),
        example={"namespace": ["prices:0", "features:0"]},
    ),
    Operation(
        path="/publish/{namespace}",
        name="publish",
        summary="Publishes a value: the body. It is kept, and answers whoever watches, on all instances.",
        methods=("POST", "GET"),
        call=watch.publish,
        scope="publish",
        parameter=NamespaceRequest,
        request=PublishRequest,
        body=Raw,
        writes=True,
        outcomes={200: Outcome("Published.", schemas.Publication)},
        problems=(*BODY_PROBLEMS, "queue-full", "method-not-allowed"),
        headers=("Accept-Language",),
        example={"value": {"EUR": 1.1}},
    ),
    Operation(
        path="/publish/{namespace}",
        name="unpublish",
        summary="Deletes a namespace, if there is one: its version is `0` again, and whoever watches is told.",
        methods=("DELETE",),
        call=watch.unpublish,
        scope="publish",
        parameter=NamespaceRequest,
        request=UnpublishRequest,
        outcomes={204: Outcome("There is nothing now.")},
        problems=READ_PROBLEMS,
        headers=("Accept-Language",),
    ),
)
