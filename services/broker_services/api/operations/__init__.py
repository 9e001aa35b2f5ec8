"""The one table of operations: the dispatcher serves from it, and the OpenAPI document is written from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker_services.api.operations import events, health, queues, tasks, uploads, watch, work
from broker_services.api.operations.operation import Operation, Outcome
from broker_services.api.operations.paths import ParameterPath, methods_by_path, parameter_paths

OPERATIONS: Final = (
    *tasks.OPERATIONS,
    *uploads.OPERATIONS,
    *events.OPERATIONS,
    *work.OPERATIONS,
    *queues.OPERATIONS,
    *watch.OPERATIONS,
    *health.OPERATIONS,
)
BY_PATH: Final[Mapping[str, Operation]] = {
    operation.path: operation for operation in OPERATIONS if operation.parameter is None
}
"""What is served at exactly this path: one operation each."""
BY_PARENT: Final[Mapping[str, ParameterPath]] = parameter_paths(OPERATIONS)
"""What is served below this path, where the last segment is a parameter."""
METHODS: Final[Mapping[str, tuple[str, ...]]] = methods_by_path(OPERATIONS)
"""All methods of a path, for whoever sent another one."""
DIRECT_PATHS: Final = frozenset(operation.path for operation in OPERATIONS if operation.begin is not None)
"""Whose calls may need no task."""
UNREAD_PATHS: Final = frozenset(operation.path for operation in OPERATIONS if operation.form)
"""Whose bodies are read in turns, and not as they come."""

__all__ = ["BY_PARENT", "BY_PATH", "DIRECT_PATHS", "METHODS", "OPERATIONS", "UNREAD_PATHS", "Operation", "Outcome"]
