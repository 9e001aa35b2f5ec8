"""When calls are due, what they are measured from, and what counts."""

from __future__ import annotations

import asyncio
import time

import pytest

from broker_services.cli.bench.pace import NEVER_SENT, Over, Pace


async def test_at_a_fixed_rate_a_call_that_left_late_is_measured_from_when_it_was_due() -> None:
    pace = Pace(rate=200, warm_up_s=0, duration_s=0.1)
    first = await pace.begin()
    await asyncio.sleep(0.03)  # a deployment that stalls
    second = await pace.begin()
    assert second - first == pytest.approx(1 / 200)
    assert time.perf_counter() - second > 0.02


async def test_a_call_never_leaves_before_it_is_due() -> None:
    pace = Pace(rate=500, warm_up_s=0, duration_s=0.05)
    for _ in range(20):
        due = await pace.begin()
        assert time.perf_counter() >= due


async def test_calls_that_were_due_and_never_left_are_errors() -> None:
    pace = Pace(rate=1000, warm_up_s=0, duration_s=0.02)
    await pace.begin()
    await asyncio.sleep(0.03)
    with pytest.raises(Over):
        await pace.begin()
    pace.close()
    assert pace.errors == {NEVER_SENT: 19}


async def test_in_a_closed_loop_calls_begin_at_once_until_the_end() -> None:
    pace = Pace(rate=None, warm_up_s=0, duration_s=0.02)
    assert time.perf_counter() - await pace.begin() < 0.01
    await pace.until_over()
    with pytest.raises(Over):
        await pace.begin()
    pace.close()
    assert not pace.errors


async def test_the_warm_up_does_not_count_but_its_errors_do() -> None:
    pace = Pace(rate=None, warm_up_s=60, duration_s=60)
    begun = await pace.begin()
    pace.record(begun, begun + 0.001)
    pace.fail("503 draining")
    assert (len(pace.latencies), dict(pace.errors)) == (0, {"503 draining": 1})


async def test_stopping_wakes_who_waits() -> None:
    pace = Pace(rate=0.01, warm_up_s=0, duration_s=60)
    await pace.begin()
    waiting = asyncio.create_task(pace.begin())
    await asyncio.sleep(0)
    pace.stop()
    with pytest.raises(Over):
        await asyncio.wait_for(waiting, 1)


@pytest.mark.parametrize("clock", [1.0, 4_096.7, 98_765.4321, 8_388_607.3])
def test_a_rate_that_was_reached_exactly_is_not_missed_by_rounding(
    monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    """What the clock shows depends on how long the machine has been running."""
    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    pace = Pace(rate=100, warm_up_s=0, duration_s=0.3)
    for _ in range(30):
        pace.record(clock, clock + 0.001)
    assert pace.achieved == 100
