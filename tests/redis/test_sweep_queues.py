"""sweep_queues.lua on a real server: what is known of queues goes when nobody uses them."""

from __future__ import annotations

import pytest

from broker import naming
from broker.store import housekeeping
from tests.support.store import Store, cancelled, succeeded


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue is looked at whenever a sweep comes."""
    monkeypatch.setattr(housekeeping, "QUEUE_KEPT_MS", 0)


def known(store: Store) -> list[str]:
    return store.raw.zrange(naming.queues_key(), 0, -1)  # type: ignore[return-value]


async def test_a_queue_is_kept_for_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "QUEUE_KEPT_MS", 3_600_000)
    await store.create()
    await store.transitions.finish("t", succeeded())
    assert await store.housekeeping.sweep_queues() == 0
    assert known(store) == ["q"]


async def test_nothing_is_left_of_an_idle_queue(store: Store) -> None:
    claimed = await store.created_and_claimed(retention_ms=0)
    await store.transitions.finish("t", succeeded(), lease=claimed.lease)
    assert await store.housekeeping.sweep_queues() == 1
    assert known(store) == []
    assert not store.raw.exists(naming.queue_key("q"))


async def test_it_is_known_again_with_its_next_task(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", cancelled())
    await store.housekeeping.sweep_queues()
    await store.create("next")
    assert known(store) == ["q"]


@pytest.mark.parametrize("kind", ["pending", "delayed", "running", "deferred", "worker", "held call"])
async def test_a_queue_in_use_stays(store: Store, kind: str) -> None:
    if kind in ("pending", "delayed"):
        await store.create(delay_ms=60_000 if kind == "delayed" else 0)
    elif kind in ("running", "deferred"):
        claimed = await store.created_and_claimed()
        if kind == "deferred":
            await store.transitions.defer("t", claimed.lease)
    elif kind == "worker":
        await store.housekeeping.report_workers("w", {"q": 1}, 60_000)
    else:
        await store.housekeeping.report_waiters("i", {"q": 1}, 60_000)
    noted = store.score(naming.queues_key(), "q")
    await store.until_over(noted + 1)
    assert await store.housekeeping.sweep_queues() == 1
    assert known(store) == ["q"]
    assert store.score(naming.queues_key(), "q") > noted


async def test_a_full_server_still_forgets(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", succeeded())
    with store.full():
        await store.housekeeping.sweep_queues()
    assert known(store) == []
