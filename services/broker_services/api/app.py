"""The application: FastAPI as its face and documentation, the dispatcher below it for the operations."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from broker import Broker
from broker_services.api.access import Access
from broker_services.api.answers import Answer
from broker_services.api.calls.shared import Api
from broker_services.api.dispatcher import Dispatcher
from broker_services.api.messages import preferred_language
from broker_services.api.openapi import openapi_document
from broker_services.api.problems import HttpError, problem_answer


def build_app(broker: Broker, access: Access | None = None) -> tuple[Dispatcher, Api]:
    """The ASGI application of one instance, and what its calls share.

    Args:
        broker: Open for as long as the application serves.
        access: Who may call; None where everybody may.
    """
    api = Api(broker, access)
    return Dispatcher(api, _face(needs_keys=access is not None)), api


def _face(*, needs_keys: bool) -> FastAPI:
    face = FastAPI(title="createbranch-broker", version=_version(), docs_url="/docs", redoc_url=None)
    face.openapi = lambda: openapi_document(_version(), needs_keys=needs_keys)  # type: ignore[method-assign]
    face.add_exception_handler(HTTPException, _problem)
    return face


async def _problem(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    # As it was sent: `request.url` also parses the Host header, which may hold anything.
    path = request.scope["raw_path"].decode("ascii")
    if status == 405:
        allow = (getattr(error, "headers", None) or {}).get("Allow", "GET")
        found = HttpError("method-not-allowed", f"{path} takes {allow}.", (b"allow", allow.encode()))
    else:
        found = HttpError("not-found", "Nothing is served here; /docs shows what is.")
    language = preferred_language(request.headers.get("accept-language", ""))
    return _response(problem_answer(found, path=path, language=language))


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.asgi_headers()
    return response


def _version() -> str:
    try:
        return version("createbranch-broker")
    except PackageNotFoundError:
        return "0+unknown"


__all__: list[Any] = ["build_app"]
