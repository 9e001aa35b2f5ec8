"""The one table of operations: the dispatcher serves from it, and the OpenAPI document is written from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker_services.api.operations import health, queues, tasks
from broker_services.api.operations.operation import Operation, Outcome

OPERATIONS: Final = (*tasks.OPERATIONS, *queues.OPERATIONS, *health.OPERATIONS)
BY_PATH: Final[Mapping[str, Operation]] = {operation.path: operation for operation in OPERATIONS}

__all__ = ["BY_PATH", "OPERATIONS", "Operation", "Outcome"]
