"""trim_finished.lua on a real server."""

from __future__ import annotations

from broker import naming
from broker.store.transitions import SWEEP_BATCH
from tests.support.store import Store, succeeded

NO_LIMIT = 10**12


async def ended(store: Store, *uuids: str, size: int = 2) -> None:
    """Ends one task after the other, each in a millisecond of its own."""
    for uuid in uuids:
        await store.create(uuid, payload=b"[1]", idempotency=f"key-of-{uuid}")
        await store.transitions.finish(uuid, succeeded(b'"' + b"x" * (size - 2) + b'"'))
        await store.until_over(store.score(naming.finished_key(), uuid) + 1)


async def test_what_is_within_the_limits_stays(store: Store) -> None:
    await ended(store, "a", "b")
    assert await store.transitions.trim_finished(2, NO_LIMIT) == 0
    assert await store.transitions.trim_finished(NO_LIMIT, store.finished_bytes()) == 0


async def test_beyond_the_count_the_oldest_go(store: Store) -> None:
    await ended(store, "a", "b", "c", "d")
    await store.create("open")
    assert await store.transitions.trim_finished(2, NO_LIMIT) == 2
    assert [store.record(uuid) == {} for uuid in ("a", "b", "c", "d", "open")] == [True, True, False, False, False]
    assert store.finished_bytes() == sum(int(store.record(uuid)["kept"]) for uuid in ("c", "d"))


async def test_beyond_the_bytes_the_oldest_go(store: Store) -> None:
    await ended(store, "a", "b", "c", size=10_000)
    assert await store.transitions.trim_finished(NO_LIMIT, 25_000) == 1
    assert store.record("a") == {}
    assert store.finished_bytes() <= 25_000


async def test_nothing_is_left_of_what_goes(store: Store) -> None:
    await ended(store, "a", "b")
    with store.ear() as ear:
        await store.transitions.trim_finished(0, NO_LIMIT)
        assert ear.messages() == []
    assert store.remaining() == set()
    assert store.finished_bytes() == 0


async def test_a_wrong_count_of_bytes_heals(store: Store) -> None:
    """A counter that outlived its tasks must not trim for ever."""
    store.raw.set(naming.finished_bytes_key(), 10**9)
    assert await store.transitions.trim_finished(NO_LIMIT, 1_000) < SWEEP_BATCH
    assert store.finished_bytes() == 0


async def test_leftovers_in_the_index_go(store: Store) -> None:
    store.raw.zadd(naming.finished_key(), {"gone": 1})
    await store.transitions.trim_finished(0, NO_LIMIT)
    assert store.remaining() == set()


async def test_open_tasks_are_not_counted(store: Store) -> None:
    for uuid in ("a", "b"):
        await store.create(uuid)
    await store.claim()
    assert await store.transitions.trim_finished(0, 0) == 0
    assert store.indexes("b") == {"pending", "deadlines"}


async def test_a_full_server_still_trims(store: Store) -> None:
    await ended(store, "a")
    with store.full():
        assert await store.transitions.trim_finished(0, 0) == 1
    assert store.remaining() == set()
