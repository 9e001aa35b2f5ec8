"""Health, the OpenAPI document, the documentation page."""

from __future__ import annotations

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.caller import Caller, code_of
from tests.support.promises import DOCUMENT


@pytest.mark.parametrize(("path", "status"), [("/healthz", "ok"), ("/readyz", "ready")])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_healthy_instance_says_so(a: Caller, path: str, status: str, method: str) -> None:
    answer = a.call(method, path)

    assert answer.status_code == 200
    if method == "GET":
        assert answer.json() == {"status": status}


@pytest.fixture
def served(a: Caller) -> httpx.Response:
    return a.call("GET", "/openapi.json")


def test_the_document_is_served(served: httpx.Response) -> None:
    assert served.status_code == 200
    assert served.headers["content-type"] == "application/json"


def test_the_document_is_the_one_that_the_tests_check_answers_against(served: httpx.Response) -> None:
    assert served.json()["paths"] == DOCUMENT["paths"]
    assert served.json()["components"] == DOCUMENT["components"]


def test_the_document_is_valid_openapi(served: httpx.Response) -> None:
    assert list(OpenAPIV31SpecValidator(served.json()).iter_errors()) == []


def _operations() -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item]


@pytest.mark.parametrize(("method", "path"), _operations(), ids=" ".join)
def test_every_documented_operation_is_served(a: Caller, method: str, path: str) -> None:
    """With something that every operation either serves or refuses, but knows."""
    answer = a.call(method, path, **({"content": b'{"x":1}'} if method == "POST" else {"params": {"x": 1}}))

    assert answer.status_code in (200, 415, 422)


def test_the_document_names_every_operation_of_this_version() -> None:
    assert {
        ("POST", "/createTask"),
        ("GET", "/createTask"),
        ("GET", "/queryTaskState"),
        ("POST", "/changeTaskState"),
        ("GET", "/changeTaskState"),
        ("POST", "/cancelTask"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
    } <= set(_operations())


def test_operation_names_are_unique() -> None:
    names = [operation["operationId"] for item in DOCUMENT["paths"].values() for operation in item.values()]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("path", "field", "default"),
    [
        ("/createTask", "queue", "createbranch"),
        ("/createTask", "priority", 0),
        ("/changeTaskState", "state", "succeeded"),
    ],
)
def test_defaults_are_documented(path: str, field: str, default: object) -> None:
    parameters = {one["name"]: one for one in DOCUMENT["paths"][path]["get"]["parameters"]}

    assert parameters[field]["schema"]["default"] == default


def test_the_raw_form_of_a_completion_is_documented() -> None:
    operation = DOCUMENT["paths"]["/changeTaskState"]["post"]

    assert {"uuid", "state", "lease", "raw"} <= {one["name"] for one in operation["parameters"]}
    assert {"application/x-www-form-urlencoded", "multipart/form-data"} <= set(operation["requestBody"]["content"])


def test_the_documentation_page_is_served(a: Caller) -> None:
    answer = a.call("GET", "/docs")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in answer.text


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
def test_the_documents_are_only_read(a: Caller, path: str) -> None:
    answer = a.call("POST", path)

    assert code_of(answer) == (405, "method-not-allowed")
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
def test_head_of_the_documents_is_served(a: Caller, path: str) -> None:
    assert a.call("HEAD", path).status_code == 200
