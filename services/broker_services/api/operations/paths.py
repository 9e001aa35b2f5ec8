"""Paths whose last segment is a parameter, such as `/publish/{namespace}`, and the methods of all paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from broker_services.api.operations.operation import Operation

_template = re.compile(r"(?P<parent>/[^{}]+)/\{(?P<name>\w+)\}")


class ParameterPath(msgspec.Struct, frozen=True):
    """One such path: the name of its parameter, and its operations by method. Several may share it."""

    name: str
    by_method: Mapping[str, Operation]

    def operation(self, method: str) -> Operation:
        """The one that takes `method`, else any, which then refuses it."""
        return self.by_method.get(method) or next(iter(self.by_method.values()))


def parameter_paths(operations: Iterable[Operation]) -> Mapping[str, ParameterPath]:
    """Those of `operations` that have a parameter, by what stands before its slash."""
    paths: dict[str, ParameterPath] = {}
    for operation in operations:
        if operation.parameter is not None:
            found = _template.fullmatch(operation.path)
            assert found is not None, operation.path  # noqa: S101  written in the table
            path = paths.get(found["parent"], ParameterPath(found["name"], {}))
            by_method = {**path.by_method, **dict.fromkeys(operation.methods, operation)}
            paths[found["parent"]] = ParameterPath(found["name"], by_method)
    return paths


def methods_by_path(operations: Iterable[Operation]) -> Mapping[str, tuple[str, ...]]:
    """The methods of every path, of all operations that share it."""
    methods: dict[str, tuple[str, ...]] = {}
    for operation in operations:
        methods[operation.path] = (*methods.get(operation.path, ()), *operation.methods)
    return methods
