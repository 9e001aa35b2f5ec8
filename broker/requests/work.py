"""What workers over HTTP may ask; `Claim` and `Release` are what the store takes of it, checked."""

from __future__ import annotations

import random
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from broker import values
from broker.errors import InvalidRequestError
from broker.requests.fields import Delay, JsonValue, Lease, Queue, Uuid, Wait, milliseconds, received
from broker.requests.tasks import ErrorRequest, error_json

MOST_CLAIMED: Final = 100
"""Tasks of one claim: with payloads at their limit that is 25 MB."""
MOST_QUEUES_OF_A_CLAIM: Final = 32
"""Each costs the server a look per claim, and a subscription per instance."""
BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MOST_S: Final = 60.0


class ClaimRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Asks for tasks to work on, waiting for them where `wait` asks for it."""

    queues: Annotated[
        list[Queue],
        Meta(
            min_length=1,
            max_length=MOST_QUEUES_OF_A_CLAIM,
            description="Where to look: what the first one holds goes first.",
            examples=[["createbranch"]],
        ),
    ]
    wait: Wait | None = None
    max: Annotated[int, Meta(ge=1, le=MOST_CLAIMED, description="Tasks at most.")] = 1


class HeartbeatRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Renews a lease."""

    uuid: Uuid
    lease: Lease
    progress: JsonValue | UnsetType = UNSET


class ReleaseRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Lets go of a claimed task without ending it."""

    uuid: Uuid
    lease: Lease
    error: ErrorRequest | None = None
    delay: Delay | None = None
    defer: Annotated[bool, Meta(description="Leave the task to a third party.")] = False


class Claim(msgspec.Struct, frozen=True):
    """How many tasks of which queues to take, checked."""

    queues: tuple[str, ...]
    most: int


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """How a task is let go of, checked: after a failed attempt, unharmed, or to a third party.

    With `longest_delay_ms`, the delay doubles with each attempt after the first, up to that.
    """

    uuid: str
    lease: str
    has_failed: bool = False
    error: bytes = values.ABSENT
    delay_ms: int = 0
    longest_delay_ms: int | None = None
    defers: bool = False


def claim(request: ClaimRequest) -> Claim:
    """The same with each queue once."""
    return Claim(tuple(dict.fromkeys(request.queues)), request.max)


def progress(request: HeartbeatRequest, *, max_bytes: int) -> bytes:
    """The progress, at most `max_bytes` long; `values.ABSENT` for none.

    Raises:
        InvalidRequestError, PayloadTooLargeError
    """
    raw = received(request.progress)
    if raw != values.ABSENT:
        values.check(raw, "progress", max_bytes=max_bytes)
    return raw


def release(request: ReleaseRequest, *, max_bytes: int) -> Release:
    """Checks the error, and chooses the pause before the next attempt where the caller does not.

    Raises:
        InvalidRequestError: Fields that exclude each other, or an error that is not acceptable.
        PayloadTooLargeError: The error is longer than `max_bytes`.
    """
    if request.defer:
        _refuse_beside_defer(request)
        return Release(uuid=request.uuid, lease=request.lease, defers=True)
    if request.error is None:
        return Release(uuid=request.uuid, lease=request.lease, delay_ms=milliseconds(request.delay or 0))
    delay_ms, longest_delay_ms = _pause() if request.delay is None else (milliseconds(request.delay), None)
    return Release(
        uuid=request.uuid,
        lease=request.lease,
        has_failed=True,
        error=error_json(request.error, max_bytes),
        delay_ms=delay_ms,
        longest_delay_ms=longest_delay_ms,
    )


def _pause() -> tuple[int, int]:
    """The first and the longest pause after a failed attempt, as handlers have them, jittered alike."""
    jitter = random.uniform(0.5, 1.0)  # noqa: S311
    return milliseconds(BACKOFF_FIRST_S * jitter), milliseconds(BACKOFF_MOST_S * jitter)


def _refuse_beside_defer(request: ReleaseRequest) -> None:
    for field, value in (("error", request.error), ("delay", request.delay)):
        if value is not None:
            raise InvalidRequestError(
                f"`{field}` says how a task is tried again; one with `defer` is not, so send one of the two.",
                field=field,
            )
