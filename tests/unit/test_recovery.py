"""What time alone changes, on a real server: every process sweeps, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from broker import naming, recovery
from broker.errors import StoreError, StoreUnavailableError
from broker.recovery import Recovery
from broker.settings import Settings
from broker.store.housekeeping import SWEEP_BATCH
from tests.support.store import Store, open_store, succeeded, until


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    async with open_store(redis_url) as store:
        yield store


def sweeping(store: Store, **settings: int) -> Recovery:
    return Recovery(store.housekeeping, Settings(**settings), "sweeper")  # type: ignore[arg-type]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "SWEEP_EVERY_S", 0.01)
    monkeypatch.setattr(recovery, "TURN_MS", 5)


async def test_one_sweep_does_all_that_is_due(store: Store) -> None:
    lost = await store.created_and_claimed("lost", lease_ms=1)
    await store.create("due", delay_ms=1)
    await store.create("over", expires_ms=1)
    await store.create("forgotten", retention_ms=0)
    await store.transitions.finish("forgotten", succeeded())
    await store.until_over(lost.lease_end_ms)
    await store.until_over(int(store.record("due")["due"]))
    await store.until_expired("over")
    await store.until_retention_is_over("forgotten")
    await sweeping(store).sweep()
    assert store.indexes("lost") == store.indexes("due") == {"pending", "expiring"}
    assert store.record("over")["state"] == "expired"
    assert store.record("forgotten") == {}


async def test_a_sweep_goes_on_while_there_is_more(store: Store) -> None:
    count = 2 * SWEEP_BATCH + 1
    await asyncio.gather(*[store.create(f"t{number}", delay_ms=1) for number in range(count)])
    await store.until_over(int(store.record(f"t{count - 1}")["due"]))
    await sweeping(store).sweep()
    assert len(store.pending()) == count


async def test_the_limits_of_what_is_kept(store: Store) -> None:
    for number in range(5):
        await store.create(f"t{number}")
        await store.transitions.finish(f"t{number}", succeeded(b'"' + b"x" * 300_000 + b'"'))
    await sweeping(store, finished_max=4).sweep()
    assert store.raw.zcard(naming.retained_key()) == 4
    await sweeping(store, finished_max_mb=1).sweep()
    assert store.raw.zcard(naming.retained_key()) == 3


@pytest.mark.usefixtures("often")
async def test_it_sweeps_until_it_is_cancelled(store: Store) -> None:
    sweeper = asyncio.create_task(sweeping(store).run_forever())
    for uuid in ("a", "b", "c"):
        await store.create(uuid, delay_ms=1)
        await until(lambda uuid=uuid: uuid in store.pending(), f"{uuid} is claimable")  # type: ignore[misc]
    sweeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeper


async def test_a_due_task_is_claimable_within_a_second(store: Store) -> None:
    sweepers = [asyncio.create_task(sweeping(store).run_forever()) for _ in range(3)]
    await store.create(delay_ms=1)
    await until(lambda: store.pending() == ["t"], "the task is claimable", deadline_s=1)
    for sweeper in sweepers:
        sweeper.cancel()
    await asyncio.wait(sweepers)


@pytest.mark.usefixtures("often")
async def test_many_processes_sweep_one_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "TURN_MS", 60_000)
    sweeps: list[int] = []

    async def noted(self: Recovery) -> None:
        sweeps.append(1)

    monkeypatch.setattr(Recovery, "sweep", noted)
    sweepers = [asyncio.create_task(sweeping(store).run_forever()) for _ in range(10)]
    calls = await _calls_of_turns(store)
    await until(lambda: _more_turns(store, calls + 30), "they have asked for many turns")
    for sweeper in sweepers:
        sweeper.cancel()
    await asyncio.wait(sweepers)
    assert sweeps == [1]


async def _calls_of_turns(store: Store) -> int:
    stats = store.raw.info("commandstats").get("cmdstat_evalsha", {"calls": 0})
    return int(stats["calls"])


async def _more_turns(store: Store, count: int) -> bool:
    return await _calls_of_turns(store) >= count


@pytest.mark.usefixtures("often")
async def test_a_full_server_is_swept_until_it_is_not_full(store: Store) -> None:
    await store.create(retention_ms=0)
    await store.transitions.finish("t", succeeded())
    await store.create("due", delay_ms=1)
    with store.full():
        sweeper = asyncio.create_task(sweeping(store).run_forever())
        await until(lambda: store.record() == {}, "the ended task is forgotten")
        await until(lambda: store.pending() == ["due"], "the due task is claimable")
        sweeper.cancel()
        await asyncio.wait({sweeper})


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("error", [StoreUnavailableError("away"), StoreError("odd")])
async def test_a_failed_sweep_is_not_the_last(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    failures = [error] * 3
    sweep_delayed = store.housekeeping.sweep_delayed

    async def failing_at_first() -> int:
        if failures:
            raise failures.pop()
        return await sweep_delayed()

    monkeypatch.setattr(store.housekeeping, "sweep_delayed", failing_at_first)
    await store.create(delay_ms=1)
    with caplog.at_level(logging.ERROR):
        sweeper = asyncio.create_task(sweeping(store).run_forever())
        await until(lambda: store.pending() == ["t"], "the task is claimable")
    assert bool(caplog.records) is isinstance(error, StoreError)
    sweeper.cancel()
    await asyncio.wait({sweeper})


async def test_one_sweep_that_fails_does_not_hold_up_the_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in one index must not stop retries, expiry and retention for the whole deployment."""

    async def broken() -> int:
        raise StoreError("a defect")

    monkeypatch.setattr(store.housekeeping, "sweep_leases", broken)
    await store.create(delay_ms=1)
    await store.until_over(int(store.record()["due"]))
    with contextlib.suppress(StoreError):
        await sweeping(store).sweep()
    assert store.pending() == ["t"]
