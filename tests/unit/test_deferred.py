"""One held wait: the first of outcome, error and time wins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from broker.deadlines import Deadlines
from broker.deferred import DeferredResult


@pytest.fixture
async def deadlines() -> AsyncIterator[Deadlines]:
    deadlines = Deadlines(asyncio.get_running_loop())
    yield deadlines
    deadlines.close()


@pytest.fixture
async def deferred(deadlines: Deadlines) -> DeferredResult[str]:
    return DeferredResult(20, deadlines)


async def test_a_result_ends_the_wait(deferred: DeferredResult[str]) -> None:
    assert deferred.set_result("done")
    assert deferred.is_settled
    assert await deferred.wait() == "done"


async def test_a_result_wakes_who_waits_already(deferred: DeferredResult[str]) -> None:
    waiting = asyncio.ensure_future(deferred.wait())
    await asyncio.sleep(0)
    assert not deferred.is_settled
    deferred.set_result("done")
    assert await waiting == "done"


async def test_an_error_ends_the_wait(deferred: DeferredResult[str]) -> None:
    assert deferred.set_error(KeyError("gone"))
    with pytest.raises(KeyError):
        await deferred.wait()


async def test_time_ends_the_wait(deadlines: Deadlines) -> None:
    assert await DeferredResult[str](0.01, deadlines).wait() is None


async def test_the_first_wins(deadlines: Deadlines) -> None:
    ways: list[Callable[[DeferredResult[str]], bool]] = [
        lambda deferred: deferred.set_result("first"),
        lambda deferred: deferred.set_error(KeyError()),
        lambda deferred: deferred.expire(),
    ]
    for first in ways:
        deferred: DeferredResult[str] = DeferredResult(20, deadlines)
        assert first(deferred)
        assert [later(deferred) for later in ways] == [False, False, False]
        deferred.abandon()


async def test_an_abandoned_wait_takes_nothing_more(deferred: DeferredResult[str]) -> None:
    deferred.abandon()
    assert not deferred.set_result("late")
    assert not deferred.set_error(KeyError())
    assert not deferred.expire()
    with pytest.raises(asyncio.CancelledError):
        await deferred.wait()


async def test_a_cancelled_holder_leaves_a_wait_that_takes_nothing(deferred: DeferredResult[str]) -> None:
    waiting = asyncio.ensure_future(deferred.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not deferred.set_result("late")


async def test_whoever_waits_for_what_somebody_else_abandons_is_cancelled(deferred: DeferredResult[str]) -> None:
    waiting = asyncio.ensure_future(deferred.wait())
    await asyncio.sleep(0)
    deferred.abandon()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_listener_is_told_at_once_and_only_once(deferred: DeferredResult[str]) -> None:
    told: list[str] = []
    deferred.call_when_settled(lambda: told.append("told"))
    deferred.set_result("done")
    deferred.abandon()
    assert told == ["told"]
    deferred.call_when_settled(lambda: told.append("late"))
    assert told == ["told", "late"]


async def test_a_listener_of_an_abandoned_wait_is_not_told(deferred: DeferredResult[str]) -> None:
    told: list[str] = []
    deferred.call_when_settled(lambda: told.append("told"))
    deferred.abandon()
    assert told == []
