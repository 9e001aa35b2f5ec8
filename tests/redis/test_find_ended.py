"""find_ended.lua on a real server."""

from __future__ import annotations

from tests.support.store import Store, cancelled, failed, succeeded


async def test_ended_and_missing_tasks_are_found(store: Store) -> None:
    for uuid, completion in (("s", succeeded()), ("f", failed()), ("c", cancelled())):
        await store.create(uuid)
        await store.transitions.finish(uuid, completion)
    await store.create("x", expires_ms=1)
    await store.until_expired("x")
    await store.housekeeping.sweep_expired()
    await store.create("running")
    await store.claim_one()
    await store.create("pending")
    await store.create("delayed", delay_ms=60_000)
    asked = ["s", "running", "f", "pending", "c", "delayed", "x", "missing"]
    assert await store.queries.find_ended(asked) == ["s", "f", "c", "x", "missing"]


async def test_nobody_asked(store: Store) -> None:
    assert await store.queries.find_ended([]) == []


async def test_as_many_as_the_hub_asks_at_once(store: Store) -> None:
    uuids = [f"t{number}" for number in range(500)]
    await store.create("t7")
    assert await store.queries.find_ended(uuids) == [uuid for uuid in uuids if uuid != "t7"]


async def test_a_full_server_still_answers(store: Store) -> None:
    with store.full():
        assert await store.queries.find_ended(["t"]) == ["t"]
