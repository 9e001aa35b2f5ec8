"""take_turn.lua on a real server."""

from __future__ import annotations

from broker import naming
from tests.support.store import Store, until


async def test_one_asker_gets_the_turn(store: Store) -> None:
    assert await store.housekeeping.take_sweep_turn("a", 60_000)
    assert not await store.housekeeping.take_sweep_turn("b", 60_000)
    assert not await store.housekeeping.take_sweep_turn("a", 60_000)
    assert store.raw.get(naming.sweep_turn_key()) == "a"


async def test_a_turn_ends_by_itself(store: Store) -> None:
    await store.housekeeping.take_sweep_turn("a", 20)
    await until(lambda: store.housekeeping.take_sweep_turn("b", 60_000), "the turn has passed on")


async def test_a_full_server_still_gives_turns(store: Store) -> None:
    with store.full():
        assert await store.housekeeping.take_sweep_turn("a", 60_000)
