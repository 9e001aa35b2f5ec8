"""Serves the operations below FastAPI: path → guard → call → answer. What is no operation goes on to FastAPI."""

from __future__ import annotations

import logging
from typing import Any, Final

from broker.errors import BrokerError
from broker_services.api.answers import COMMON_HEADERS, Answer
from broker_services.api.asgi import ClientGoneError, Message, Receive, Scope, Send
from broker_services.api.calls import Api
from broker_services.api.http_request import HttpRequest
from broker_services.api.operations import BY_PATH, Operation
from broker_services.api.problems import HttpError, problem_answer

log = logging.getLogger("broker.api")

_UNEXPECTED: Final = "The service has a defect here; its log has the reason."


class Dispatcher:
    """The ASGI application.

    Args:
        api: What the calls share.
        face: The FastAPI application, for the documents and for unknown paths.
    """

    def __init__(self, api: Api, face: Any) -> None:
        self._api = api
        self._face = face

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = BY_PATH.get(scope["path"]) if scope["type"] == "http" else None
        if operation is None:
            await self._face(scope, receive, with_common_headers(send))
            return
        request = HttpRequest(scope, receive, self._api.bodies)
        try:
            answer = await self._answer(operation, request)
        except ClientGoneError:
            return
        await write(answer, send)

    async def _answer(self, operation: Operation, request: HttpRequest) -> Answer:
        try:
            self._guard(operation, request)
            return await operation.call(self._api, request)
        except BrokerError as error:
            return problem_answer(error, path=request.path, language=request.language)
        except ClientGoneError:
            raise
        except Exception:
            log.exception("%s %s failed.", request.method, request.path)
            return problem_answer(
                HttpError("internal-error", _UNEXPECTED), path=request.path, language=request.language
            )

    def _guard(self, operation: Operation, request: HttpRequest) -> None:
        """Refuses methods that the operation does not take, and GETs that no person or program meant to send."""
        allowed = operation.methods
        if operation.writes and self._api.settings.get_writes == "off":
            allowed = tuple(method for method in allowed if method != "GET")
        if request.method not in allowed:
            raise HttpError(
                "method-not-allowed",
                f"{operation.path} takes {' and '.join(allowed)}, not {request.method[:32]}.",
                (b"allow", ", ".join(allowed).encode()),
            )
        if operation.writes and request.method == "GET":
            _refuse_unmeant(request)


def _refuse_unmeant(request: HttpRequest) -> None:
    """A browser's prefetch, or a page of another site, must change nothing."""
    purpose = request.header(b"sec-purpose") or request.header(b"purpose") or ""
    if "prefetch" in purpose.lower():
        raise HttpError("forbidden", "A prefetch changes nothing; send the request when it is meant.")
    if (request.header(b"sec-fetch-site") or "").strip().lower() == "cross-site":
        raise HttpError("forbidden", "A page of another site may not change tasks by GET; use POST.")


def with_common_headers(send: Send) -> Send:
    """A `send` that adds to FastAPI's own answers (documents) what every answer carries."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(pair for pair in COMMON_HEADERS if pair[0] not in present)]
        await send(message)

    return send_with_headers


async def write(answer: Answer, send: Send) -> None:
    """Sends an answer by ASGI."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.asgi_headers()})
    await send({"type": "http.response.body", "body": answer.body})
