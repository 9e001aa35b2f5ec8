"""Paths that end with a parameter."""

from __future__ import annotations

import msgspec

from broker_services.api.answers import Answer
from broker_services.api.calls.shared import Api
from broker_services.api.http_request import HttpRequest
from broker_services.api.operations import METHODS, OPERATIONS, Operation
from broker_services.api.operations.paths import methods_by_path, parameter_paths


class _Name(msgspec.Struct):
    name: str


async def _call(_api: Api, _request: HttpRequest) -> Answer:
    return Answer(200)


def _operation(name: str, path: str, *methods: str) -> Operation:
    parameter = _Name if "{" in path else None
    return Operation(
        path=path, name=name, summary="", methods=methods, call=_call, scope=None, parameter=parameter, outcomes={}
    )


TABLE = (
    _operation("things", "/things", "GET"),
    _operation("put", "/things/{name}", "PUT", "GET"),
    _operation("remove", "/things/{name}", "DELETE"),
)


def test_operations_share_a_path_by_method() -> None:
    (path,) = parameter_paths(TABLE).items()

    assert path[0] == "/things"
    assert path[1].name == "name"
    assert [path[1].operation(method).name for method in ("PUT", "GET", "DELETE")] == ["put", "put", "remove"]


def test_any_of_them_refuses_another_method() -> None:
    assert parameter_paths(TABLE)["/things"].operation("PATCH").name == "put"


def test_a_path_has_the_methods_of_all_its_operations() -> None:
    assert methods_by_path(TABLE) == {"/things": ("GET",), "/things/{name}": ("PUT", "GET", "DELETE")}


def test_no_two_operations_take_the_same_method_of_a_path() -> None:
    assert all(len(set(methods)) == len(methods) for methods in METHODS.values())


def test_every_path_with_a_parameter_says_of_which_type() -> None:
    for operation in OPERATIONS:
        fields = operation.parameter.__struct_fields__ if operation.parameter else ()
        assert operation.path.count("{") == len(fields)
        assert all(operation.path.endswith(f"/{{{field}}}") for field in fields)
