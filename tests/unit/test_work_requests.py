"""What workers over HTTP may ask, and how long a failed attempt pauses."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from broker import values
from broker.errors import InvalidRequestError, PayloadTooLargeError
from broker.requests import (
    ClaimRequest,
    HeartbeatRequest,
    Release,
    ReleaseRequest,
    claim,
    convert,
    progress,
    release,
)

MOST = 1_000


def released(**fields: Any) -> Release:
    return release(convert({"uuid": "t", "lease": "1.x", **fields}, ReleaseRequest), max_bytes=MOST)


def test_each_queue_counts_once_and_keeps_its_place() -> None:
    asked = claim(convert({"queues": ["b", "a", "b"], "max": 7}, ClaimRequest))
    assert (asked.queues, asked.most) == (("b", "a"), 7)


def test_a_release_without_more_gives_back_at_once() -> None:
    assert released() == Release(uuid="t", lease="1.x")
    assert released(delay=1.5) == Release(uuid="t", lease="1.x", delay_ms=1_500)


def test_a_release_with_an_error_has_failed() -> None:
    failed = released(error={"details": Raw(b"[1.0]")}, delay=0)
    assert (failed.has_failed, failed.error) == (True, b'{"code":"failed","details":[1.0]}')
    assert (failed.delay_ms, failed.longest_delay_ms) == (0, None)


def test_without_a_delay_it_pauses_as_handlers_do() -> None:
    for failed in [released(error={}) for _ in range(50)]:
        assert 500 <= failed.delay_ms <= 1_000
        assert failed.longest_delay_ms == pytest.approx(60 * failed.delay_ms, abs=60)


def test_a_deferral_takes_nothing_beside_it() -> None:
    assert released(defer=True) == Release(uuid="t", lease="1.x", defers=True)
    for field, value in (("error", {}), ("delay", 0)):
        with pytest.raises(InvalidRequestError, match=f"`{field}`"):
            released(defer=True, **{field: value})


def test_values_are_checked() -> None:
    with pytest.raises(PayloadTooLargeError):
        released(error={"details": Raw(b'"' + b"x" * MOST + b'"')})
    heartbeat = {"uuid": "t", "lease": "1.x"}
    assert progress(convert(heartbeat, HeartbeatRequest), max_bytes=MOST) == values.ABSENT
    assert progress(convert({**heartbeat, "progress": Raw(b"1.0")}, HeartbeatRequest), max_bytes=MOST) == b"1.0"
    with pytest.raises(InvalidRequestError):
        progress(convert({**heartbeat, "progress": Raw(b"NaN")}, HeartbeatRequest), max_bytes=MOST)
