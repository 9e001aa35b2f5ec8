"""What an answer about several tasks tells of each: the task, or why it cannot be told."""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import BrokerError, PayloadTooLargeError
from broker.store.queries import StoredTask

Item = StoredTask | BrokerError


def fitting(items: Sequence[Item], most_bytes: int) -> list[Item]:
    """The items of one answer; a task whose JSON has no place in it any more, or was not read for that reason, becomes
    a PayloadTooLargeError."""
    left = most_bytes
    told: list[Item] = []
    for item in items:
        if isinstance(item, StoredTask):
            left -= len(item.document)
            told.append(item if item.document and left >= 0 else _too_large(item, most_bytes))
        else:
            told.append(item)
    return told


def _too_large(task: StoredTask, most_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"The task {task.uuid} ({task.state}) has no place in this answer, which has at most {most_bytes} bytes: query "
        "it by itself."
    )
