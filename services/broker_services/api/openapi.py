"""The OpenAPI document, written from the table of operations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from broker.naming import IDEMPOTENCY_KEY_MAX_CHARS
from broker_services.api import schemas
from broker_services.api.calls.raw_change import RAW_FIELDS, RAW_FORMS
from broker_services.api.operations import OPERATIONS, Operation, Outcome
from broker_services.api.problems import PROBLEMS

_REF: Final = "#/components/schemas/{name}"
_DESCRIPTION: Final = (
    "A task is created by any instance and its call is held until the task ends, by a worker or by whoever calls "
    "`changeTaskState` on any other instance."
)
_HEADERS: Final[Mapping[str, str]] = {
    "Idempotency-Key": "A repeated call attaches to the first one's task; quoted or bare, up to 255 characters.",
    "Prefer": "`wait=N`: seconds to hold (RFC 7240); the body's `wait` beats it.",
    "Accept-Language": "`zh` for Chinese messages.",
    "If-None-Match": "The ETag of the last answer: 304 when nothing has changed.",
    "Last-Event-ID": "The `id` of the last event that was seen: what followed it comes first.",
    "Location": "Where to ask for the task.",
    "Retry-After": "Seconds until asking again makes sense.",
    "Preference-Applied": "The `Prefer` that was followed.",
    "ETag": "Changes with the answer.",
    "Allow": "The methods that the path takes.",
    "WWW-Authenticate": "`Bearer`.",
}
_KEY: Final = "key"
_SECURITY_SCHEME: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "Where the instance has keys (`BROKER_API_KEYS_FILE`), an operation needs one with the scope that "
    "it names. Elsewhere everybody may call.",
}
_HEADER_BOUNDS: Final[Mapping[str, Mapping[str, int]]] = {
    "Idempotency-Key": {"minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX_CHARS},
}
WITH_BODY: Final = ("POST", "PUT")
_RAW: Final = "With `raw=1` the body is the result, and the other fields are read from the query."
_PROBLEM_HEADERS: Final[Mapping[int, str]] = {
    401: "WWW-Authenticate",
    405: "Allow",
    429: "Retry-After",
    503: "Retry-After",
}


@cache
def openapi_document(version: str, *, needs_keys: bool = False) -> dict[str, Any]:
    """The whole document for this version of the service.

    Args:
        version: Of the service.
        needs_keys: Whether the instance has keys; without, they may be sent and nobody looks.
    """
    types = {operation.request for operation in OPERATIONS if operation.request is not None}
    types |= {
        schema
        for operation in OPERATIONS
        for outcome in operation.outcomes.values()
        for schema in outcome.schemas
        if schema is not str
    }
    ordered = sorted(types | {schemas.Problem}, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "createbranch-broker", "version": version, "description": _DESCRIPTION},
        "paths": _paths(components, needs_keys),
        "components": {"schemas": components, "securitySchemes": {_KEY: _SECURITY_SCHEME}},
    }


def _paths(components: Mapping[str, Any], needs_keys: bool) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {}).update(_path(operation, components, needs_keys))
    return paths


def _path(operation: Operation, components: Mapping[str, Any], needs_keys: bool) -> dict[str, Any]:
    security = _security(operation.scope, needs_keys)
    return {method.lower(): {**_method(operation, method, components), **security} for method in operation.methods}


def _security(scope: str | None, needs_keys: bool) -> dict[str, Any]:
    """An empty alternative means that the key may be left out."""
    if scope is None:
        return {}
    return {"security": [{_KEY: [scope]}] if needs_keys else [{_KEY: [scope]}, {}]}


def _method(operation: Operation, method: str, components: Mapping[str, Any]) -> dict[str, Any]:
    name = operation.name if method == operation.methods[0] else f"{operation.name}By{method.capitalize()}"
    document: dict[str, Any] = {
        "operationId": name,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation), *(_header_parameter(header) for header in operation.headers)],
        "responses": _responses(operation, method),
    }
    if operation.body is not None and method in WITH_BODY:
        document["requestBody"] = _value_body(operation)
        return document
    if operation.request is None:
        return document
    schema = components[operation.request.__name__]
    if method in WITH_BODY:
        # PUT takes away what is absent, so it needs a body even where no field is required.
        is_required = "required" in schema or method == "PUT"
        document["requestBody"] = {"required": is_required, **_request_body(operation)}
    else:
        document["parameters"] += list(_query_parameters(schema))
    if operation.raw:
        document["parameters"] += _raw_parameters(schema if method == "POST" else {"properties": {}})
    return document


def _path_parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    if operation.parameter is not None:
        _, components = msgspec.json.schema_components([operation.parameter], ref_template=_REF)
        for name, member in components[operation.parameter.__name__]["properties"].items():
            yield {"name": name, "in": "path", "required": True, "schema": member}


def _value_body(operation: Operation) -> dict[str, Any]:
    schema = msgspec.json.schema_components([operation.body], ref_template=_REF)[0][0]
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _header_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "string", **_HEADER_BOUNDS.get(name, {})}
    return {"name": name, "in": "header", "description": _HEADERS[name], "schema": schema}


def _query_parameters(schema: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name, member in schema["properties"].items():
        parameter: dict[str, Any] = {"name": name, "in": "query", "required": name in schema.get("required", [])}
        if _is_plain(member):
            parameter["schema"] = member
        else:
            parameter["content"] = {"application/json": {"schema": member}}
        yield parameter


def _raw_parameters(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`raw`, and the fields that are read from the query when the body is the result."""
    fields = {name: member for name, member in schema["properties"].items() if name in RAW_FIELDS}
    return [
        {"name": name, "in": "query", "description": _RAW, "schema": member}
        for name, member in {"raw": {"enum": ["1", "true"]}, **fields}.items()
    ]


def _is_plain(member: Mapping[str, Any]) -> bool:
    """Whether a member is a word or a number in the query; any other is JSON text."""
    if member.get("type") == "array":
        # Repeated: that is how OpenAPI writes a list in a query unless told otherwise.
        return _is_plain(member["items"])
    options = member.get("anyOf", [member])
    plain = ("string", "number", "integer", "boolean", "null")
    return all(option.get("type") in plain or "enum" in option for option in options)


def _request_body(operation: Operation) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name=operation.request.__name__)}
    content: dict[str, Any] = {"schema": schema}
    if operation.example:
        content["example"] = dict(operation.example)
    if operation.form:
        return {"content": {"multipart/form-data": {"schema": schema}}}
    others: dict[str, Any] = {name: {"schema": {"type": "object"}} for name in RAW_FORMS} if operation.raw else {}
    return {"content": {"application/json": content, **others}}


def _responses(operation: Operation, method: str) -> dict[str, Any]:
    responses = {str(status): _success(outcome, method) for status, outcome in operation.outcomes.items()}
    by_status: dict[int, list[str]] = {}
    for code in operation.all_problems:
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    for status, codes in by_status.items():
        responses[str(status)] = _problem(status, codes)
    return dict(sorted(responses.items()))


def _success(outcome: Outcome, method: str) -> dict[str, Any]:
    response: dict[str, Any] = {"description": outcome.description}
    if outcome.headers:
        response["headers"] = {name: _response_header(name) for name in outcome.headers}
    if outcome.schemas and method != "HEAD":
        schemas, _ = msgspec.json.schema_components(outcome.schemas, ref_template=_REF)
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
        response["content"] = {media_type: {"schema": schema} for media_type in outcome.media_types}
    return response


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": "; ".join(f"`{code}`: {PROBLEMS[code].title}" for code in codes),
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
    }
    if status in _PROBLEM_HEADERS:
        name = _PROBLEM_HEADERS[status]
        response["headers"] = {name: _response_header(name)}
    return response


def _response_header(name: str) -> dict[str, Any]:
    return {"description": _HEADERS[name], "schema": {"type": "string"}}
