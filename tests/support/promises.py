"""What every answer of the API promises, whatever was asked: checked on each one that the tests see."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

import httpx
from openapi_schema_validator import OAS31Validator

from broker_services.api.openapi import openapi_document

PROBLEM_TYPE: Final = "application/problem+json"

DOCUMENT: Final[Mapping[str, Any]] = openapi_document("test")


def check_answer(method: str, path: str, answer: httpx.Response) -> None:
    """Fails the test unless `answer` has the headers, the shape and the documentation that it must have.

    Args:
        method: How it was asked.
        path: What was asked, without the query.
        answer: What came.
    """
    assert answer.status_code != 500, answer.text
    _check_caching(answer)
    if answer.status_code >= 400 and method != "HEAD":
        _check_problem(path, answer)
    documented = _documented(unquote(path))
    if documented is not None:
        _check_documented(method, documented, answer)


def _documented(path: str) -> str | None:
    """The path as the document has it: its last segment may be a parameter there."""
    parent = path.rpartition("/")[0]
    return next(
        (known for known in DOCUMENT["paths"] if known == path or known.rpartition("/{")[0] == parent != ""), None
    )


def _check_caching(answer: httpx.Response) -> None:
    assert answer.headers.get("vary") == "Accept-Language"
    assert answer.headers.get("cache-control") == ("no-cache" if "etag" in answer.headers else "no-store")


def _check_problem(path: str, answer: httpx.Response) -> None:
    assert answer.headers["content-type"] == PROBLEM_TYPE
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"].endswith(problem["code"])
    assert problem["title"]
    assert problem["detail"]
    # An answer to headers that were never read to their end can't name the path.
    assert unquote(problem["instance"]) == unquote(path) or (
        problem["instance"] == "" and answer.status_code in (408, 431)
    )
    assert ("retry-after" in answer.headers) == (answer.status_code in (429, 503))


def _check_documented(method: str, path: str, answer: httpx.Response) -> None:
    operations = DOCUMENT["paths"][path]
    operation = operations.get(method.lower())
    if operation is None:
        # A method that the path does not take is documented with those that it takes.
        assert answer.status_code in (405, 431)
        operation = next(iter(operations.values()))
    responses = operation["responses"]
    assert str(answer.status_code) in responses, f"{method} {path}: {answer.status_code} is not documented"
    response = responses[str(answer.status_code)]
    if answer.status_code >= 400 and method != "HEAD":
        assert f"`{answer.json()['code']}`" in response["description"]
    if method != "HEAD" and answer.status_code not in (204, 304):
        media_type = answer.headers["content-type"].partition(";")[0]
        schema = response["content"][media_type]["schema"]
        for content in _contents(media_type, schema, answer):
            _validator(json.dumps(schema)).validate(content)
    _check_headers(response, answer)


def _contents(media_type: str, schema: Mapping[str, Any], answer: httpx.Response) -> list[Any]:
    """What the schema is about: the document, or each event of a stream."""
    if media_type == "application/x-ndjson":
        return [json.loads(line) for line in answer.iter_lines() if line]
    if media_type == "text/event-stream":
        blocks = [
            dict(line.split(": ", 1) for line in block.split("\n")) for block in answer.text.split("\n\n") if block
        ]
        return [block for block in blocks if "data" in block]
    return [answer.text if schema == {"type": "string"} else json.loads(answer.content)]


def _check_headers(response: Mapping[str, Any], answer: httpx.Response) -> None:
    """Headers that tell a caller something are documented."""
    telling = {"location", "retry-after", "preference-applied", "etag", "allow", "www-authenticate"} & set(
        answer.headers
    )
    documented = {name.lower() for name in response.get("headers", {})}
    assert telling <= documented, f"{telling - documented} of {answer.status_code} are not documented"


@lru_cache(maxsize=64)
def _validator(schema: str) -> OAS31Validator:
    return OAS31Validator({**json.loads(schema), "components": DOCUMENT["components"]})
