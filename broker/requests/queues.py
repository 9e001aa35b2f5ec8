"""What callers may ask of queues."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta

from broker.requests.fields import Queue


class QueuesRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Reads the numbers of all queues."""


class QueueRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Names a queue in a path."""

    queue: Queue


class LimitsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The limits of a queue. All of them are given: what is absent is no limit, as `null` is."""

    max_running: (
        Annotated[int, Meta(ge=0, le=1_000_000, description="Tasks that workers have at a time; 0: none are started.")]
        | None
    ) = None
    max_rate_per_s: (
        Annotated[
            float,
            Meta(ge=0.0001, le=1_000_000, description="Tasks that are started in any second; below 1: one in a while."),
        ]
        | None
    ) = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is limited."""
        return self.max_running is None and self.max_rate_per_s is None

    @property
    def window(self) -> tuple[int, int] | None:
        """The rate as most tasks started within so many milliseconds, which are a second or a little more."""
        if self.max_rate_per_s is None:
            return None
        most = math.ceil(self.max_rate_per_s)
        return most, math.ceil(most * 1_000 / self.max_rate_per_s)
