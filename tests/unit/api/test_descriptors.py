"""No more calls are held than there may be sockets."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

from broker import Settings
from broker_services.api.descriptors import fit_waiters

Limit = Callable[[int, int], list[tuple[int, int]]]


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """`limited(soft, hard)`: what the system allows; returns the limits that are asked for."""
    asked: list[tuple[int, int]] = []

    def limit(soft: int, hard: int) -> list[tuple[int, int]]:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
        return asked

    return limit


def test_the_limit_is_raised_and_the_setting_kept(limited: Limit) -> None:
    asked = limited(1_024, 100_000)
    settings = Settings()
    assert fit_waiters(settings) is settings
    assert asked == [(100_000, 100_000)]


@pytest.mark.parametrize(("hard", "room"), [(10_000, 9_488), (1_024, 768), (100, 75)])
def test_the_setting_is_lowered_with_a_warning(
    limited: Limit, caplog: pytest.LogCaptureFixture, hard: int, room: int
) -> None:
    limited(hard, hard)
    assert fit_waiters(Settings()).max_waiters == room
    assert f"At most {room} calls are held" in caplog.text


def test_no_limit_at_all(limited: Limit) -> None:
    limited(1_024, resource.RLIM_INFINITY)
    assert fit_waiters(Settings()).max_waiters == 15_000


def test_a_limit_that_is_not_granted(limited: Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(1_024, resource.RLIM_INFINITY)

    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert fit_waiters(Settings()).max_waiters == 768
