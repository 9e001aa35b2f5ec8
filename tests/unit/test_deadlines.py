"""Many timeouts on one timer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.deadlines import TICK_S, TICKS_AHEAD, Deadlines
from tests.support.store import until


class Item:
    """Notes when its time was over."""

    def __init__(self) -> None:
        self.expired_at: list[float] = []

    def expire(self) -> None:
        self.expired_at.append(time.monotonic())


@pytest.fixture
async def deadlines() -> AsyncIterator[Deadlines]:
    deadlines = Deadlines(asyncio.get_running_loop())
    yield deadlines
    deadlines.close()


@pytest.mark.parametrize("timeout", [0, 0.001, TICK_S, 0.12, 0.3])
async def test_nothing_ends_early(deadlines: Deadlines, timeout: float) -> None:
    item = Item()
    started = time.monotonic()
    deadlines.start(item, timeout)
    await until(lambda: item.expired_at, "its time is over")
    assert item.expired_at[0] - started >= timeout


async def test_each_ends_once_and_in_order(deadlines: Deadlines) -> None:
    items = [Item() for _ in range(4)]
    for number, item in enumerate(items):
        deadlines.start(item, number * 2 * TICK_S)
    await until(lambda: items[-1].expired_at, "all are over")
    times = [moment for item in items for moment in item.expired_at]
    assert len(times) == 4
    assert times == sorted(times)


@pytest.fixture
async def wakes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the loop's timers are set to, in the loop's time."""
    found: list[float] = []
    loop = asyncio.get_running_loop()
    call_at = loop.call_at

    def noted(when: float, *arguments: Any, **context: Any) -> asyncio.TimerHandle:
        found.append(when)
        return call_at(when, *arguments, **context)

    monkeypatch.setattr(loop, "call_at", noted)
    return found


async def test_the_timer_is_set_a_second_ahead_at_most(deadlines: Deadlines, wakes: list[float]) -> None:
    deadlines.start(Item(), 1_000_000_000)
    assert len(wakes) == 1
    assert wakes[0] - deadlines.loop.time() <= TICKS_AHEAD * TICK_S


async def test_one_that_is_sooner_than_all_others_sets_it_anew(deadlines: Deadlines, wakes: list[float]) -> None:
    near = Item()
    deadlines.start(Item(), 1_000_000_000)
    deadlines.start(near, 2 * TICK_S)
    deadlines.start(Item(), 3 * TICK_S)
    assert len(wakes) == 2
    assert wakes[1] < wakes[0]
    await until(lambda: near.expired_at, "its time is over")


async def test_a_stopped_one_never_ends(deadlines: Deadlines) -> None:
    stopped, other = Item(), Item()
    tick = deadlines.start(stopped, 0.01)
    deadlines.start(other, 0.01 + TICK_S)
    deadlines.stop(stopped, tick)
    deadlines.stop(stopped, tick)
    await until(lambda: other.expired_at, "a later one is over")
    assert stopped.expired_at == []


async def test_stopping_what_is_over_is_harmless(deadlines: Deadlines) -> None:
    item = Item()
    tick = deadlines.start(item, 0)
    await until(lambda: item.expired_at, "it is over")
    deadlines.stop(item, tick)


async def test_a_time_that_is_over_already_ends_soon(deadlines: Deadlines) -> None:
    item = Item()
    deadlines.start(item, -1)
    await until(lambda: item.expired_at, "it is over", deadline_s=2)


async def test_an_end_may_start_another(deadlines: Deadlines) -> None:
    second = Item()

    class First:
        def expire(self) -> None:
            deadlines.start(second, 0)

    deadlines.start(First(), 0)
    await until(lambda: second.expired_at, "the second is over")


async def test_the_timer_rests_when_nothing_is_due(deadlines: Deadlines) -> None:
    item = Item()
    deadlines.start(item, 0)
    await until(lambda: item.expired_at, "it is over")
    again = Item()
    deadlines.start(again, 0)
    await until(lambda: again.expired_at, "a pause later it works still")


async def test_an_end_that_fails_leaves_the_others_their_time(deadlines: Deadlines) -> None:
    """One defect must not take the time from every held call of the process."""
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))

    class Defect:
        def expire(self) -> None:
            raise RuntimeError

    later = Item()
    deadlines.start(Defect(), 0)
    deadlines.start(later, 3 * TICK_S)
    await until(lambda: later.expired_at, "the later one is over", deadline_s=2)


async def test_after_closing_nothing_ends(deadlines: Deadlines) -> None:
    closed, witness = Item(), Item()
    others = Deadlines(asyncio.get_running_loop())
    deadlines.start(closed, 0)
    deadlines.close()
    others.start(witness, 3 * TICK_S)
    await until(lambda: witness.expired_at, "its time has passed")
    assert closed.expired_at == []
    others.close()
