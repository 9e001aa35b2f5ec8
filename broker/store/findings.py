"""What `broker doctor` says, and of whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

Status = Literal["ok", "warn", "fail", "skipped"]
Role = Literal["api", "worker"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `skipped` is what this user isn't allowed to see."""

    name: str
    status: Status
    message: str


class Patient(NamedTuple):
    """The server under examination."""

    client: Any  # redis-py leaves its answers untyped
    address: str
    user: str
    queues: Sequence[str]
    role: Role | None
    wait_replicas: int = 0
    is_watched: bool = False

    def info(self, section: str) -> Mapping[str, Any]:
        """A section of INFO."""
        answer: Mapping[str, Any] = self.client.execute_command("INFO", section)
        return answer
