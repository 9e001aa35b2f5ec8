"""find_fileless.lua on a real server."""

from __future__ import annotations

from broker import naming
from broker.store.queries import Fileless
from tests.support.store import Store, failed, new_task, succeeded


async def test_only_tasks_without_a_record_and_dropped_ones_need_no_file(store: Store) -> None:
    await store.create("open")
    await store.create("ended")
    await store.transitions.finish("ended", succeeded(b'"' + b"x" * 600 + b'"'))
    await store.create("failed")
    await store.transitions.finish("failed", failed(b'{"code":"queue-full"}'))
    await store.create("dropped", queue="full")
    await store.transitions.create(new_task("new", queue="full", most_pending=1, drops_oldest=True))

    found = await store.queries.find_fileless(["open", "never", "ended", "failed", "dropped", "new", "never-2"])

    assert found == Fileless(without_record=["never", "never-2"], dropped=["dropped"])


async def test_nothing_is_asked_about_nothing(store: Store) -> None:
    assert await store.queries.find_fileless([]) == Fileless([], [])


async def test_cleaning_has_a_turn_of_its_own(store: Store) -> None:
    assert await store.housekeeping.take_sweep_turn("a", 60_000)
    assert await store.housekeeping.take_upload_turn("b", 60_000)
    assert not await store.housekeeping.take_upload_turn("a", 60_000)
    assert store.raw.get(naming.upload_turn_key()) == "b"
