"""Serves the operations below FastAPI: path → guard → call → answer. What is no operation goes on to FastAPI."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

from broker.disconnect import ClientGoneError
from broker_services.api.answers import COMMON_HEADERS, Answer
from broker_services.api.asgi import Message, Receive, Scope, Send
from broker_services.api.calls.shared import Api
from broker_services.api.delivery import connection_of
from broker_services.api.direct import DirectCall, Line, failure_answer
from broker_services.api.http_request import HttpRequest
from broker_services.api.measures import DOCUMENTS
from broker_services.api.operations import BY_PARENT, BY_PATH, METHODS, Operation
from broker_services.api.problems import HttpError
from broker_services.api.request_head import RequestHead
from broker_services.api.whole_answer import write_whole
from broker_services.api.whole_request import WholeRequest

_TOLD_BY_BROWSERS: Final = frozenset({b"sec-purpose", b"purpose", b"sec-fetch-site"})
"""Headers that say why a browser asks."""


class Dispatcher:
    """The ASGI application.

    Args:
        api: What the calls share.
        face: The FastAPI application, for the documents and for unknown paths.
    """

    def __init__(self, api: Api, face: Any) -> None:
        self._api = api
        self._measures = api.measures
        self._face = face

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = (BY_PATH.get(scope["path"]) or _with_parameter(scope)) if scope["type"] == "http" else None
        if operation is None:
            await self._face(scope, receive, self._documents(send))
            return
        started = perf_counter()
        request = HttpRequest.of_asgi(scope, receive, self._api.bodies)
        try:
            self._guard(operation, request)
            answer = await operation.call(self._api, request)
        except ClientGoneError:
            self._measures.callers_gone[operation.name] += 1
            return
        except Exception as error:
            answer = failure_answer(request, error)
        self._measures.answered(operation.name, answer.status, perf_counter() - started, was_held=request.is_held)
        if answer.problem is not None:
            self._measures.problems[answer.problem] += 1
        if answer.on_lost is not None:
            if not await _write_followed(answer, answer.on_lost, scope, send):
                self._measures.callers_gone[operation.name] += 1
        elif not write_whole(answer, send):
            await answer.write(send)

    def begin(self, line: Line, request: WholeRequest) -> DirectCall | None:
        """Begins a call that needs no task of its own, or answers it.

        Args:
            line: The connection.
            request: To a path of `DIRECT_PATHS`.

        Returns:
            The call; None where it does need one, and nothing has been done for it.
        """
        operation = BY_PATH[request.path]
        call = DirectCall(line, request, operation.name, self._measures, perf_counter())
        try:
            self._guard(operation, request)
            if operation.begin is None or not operation.begin(self._api, call):
                return None
        except Exception as error:
            call.refuse(error)
        return call

    def _guard(self, operation: Operation, request: RequestHead) -> None:
        """Refuses methods that the operation does not take, callers whose key does not allow it, and GETs that nobody
        meant to send. All of that is in the head: no byte of the body has been read."""
        get_is_off = operation.writes and self._api.settings.get_writes == "off"
        if request.method not in operation.methods or (get_is_off and request.method == "GET"):
            raise _not_allowed(operation, request.method, get_is_off)
        if self._api.access is not None and operation.scope is not None:
            self._api.access.check(request.header(b"authorization"), operation.scope)
        if operation.writes and request.method == "GET" and not _TOLD_BY_BROWSERS.isdisjoint(request.headers):
            _refuse_unmeant(request)

    def _documents(self, send: Send) -> Send:
        """A `send` that adds to FastAPI's own answers what every answer carries, and counts them."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in COMMON_HEADERS if pair[0] not in present)]
                self._measures.calls[DOCUMENTS, message["status"]] += 1
            await send(message)

        return send_with_headers


def _with_parameter(scope: Scope) -> Operation | None:
    """The operation whose path ends with a parameter; its value goes where ASGI frameworks put it."""
    parent, _, value = scope["path"].rpartition("/")
    path = BY_PARENT.get(parent)
    if path is None:
        return None
    scope["path_params"] = {path.name: value}
    return path.operation(scope["method"])


def _not_allowed(operation: Operation, method: str, get_is_off: bool) -> HttpError:
    allowed = [known for known in METHODS[operation.path] if not (get_is_off and known == "GET")]
    return HttpError(
        "method-not-allowed",
        f"{operation.path} takes {' and '.join(allowed)}, not {method[:32]}.",
        (b"allow", ", ".join(allowed).encode()),
    )


def _refuse_unmeant(request: RequestHead) -> None:
    """A browser's prefetch, or a page of another site, must change nothing."""
    purpose = request.header(b"sec-purpose") or request.header(b"purpose") or ""
    if "prefetch" in purpose.lower():
        raise HttpError("forbidden", "A prefetch changes nothing; send the request when it is meant.")
    if (request.header(b"sec-fetch-site") or "").strip().lower() == "cross-site":
        raise HttpError("forbidden", "A page of another site may not change anything by GET; use POST.")


async def _write_followed(answer: Answer, on_lost: Callable[[], None], scope: Scope, send: Send) -> bool:
    """Sends an answer unless its caller has left, and has its fate followed; whether there was somebody to send it to.

    Another server than the product's own, such as a test's, does not follow.
    """
    connection = connection_of(scope)
    if connection is None:
        await answer.write(send)
        return True
    following = connection.follow(on_lost)
    if following is not None:
        await answer.write(send)
        following.is_written = True
    return following is not None
