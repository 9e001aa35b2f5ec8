"""FastAPI's part of the application: the documents, and what is served nowhere."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from broker_services.api.answers import Answer
from broker_services.api.messages import preferred_language
from broker_services.api.openapi import openapi_document
from broker_services.api.problems import HttpError, problem_answer
from broker_services.version import service_version


def build_face(*, needs_keys: bool) -> FastAPI:
    """What answers paths that are no operations.

    Args:
        needs_keys: Whether the instance has keys, which the document says.
    """
    face = FastAPI(title="createbranch-broker", version=service_version(), docs_url="/docs", redoc_url=None)
    face.openapi = lambda: openapi_document(service_version(), needs_keys=needs_keys)  # type: ignore[method-assign]
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
