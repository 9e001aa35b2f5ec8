"""Damaged keys on a real server: a task that cannot be handled harms no other."""

from __future__ import annotations

import pytest

from broker import naming
from broker.errors import StoreError
from tests.support.store import Store, succeeded

ENDLESS = 10**12
LONG = b'"' + b"x" * 600 + b'"'
RETENTION_MS = {0: 60_000, ENDLESS: 0}
"""By the most tasks: either that limit or the end of the retention has them forgotten."""


def damage(store: Store, uuid: str) -> None:
    store.raw.hset(naming.tasks_key(), uuid, "no record")


def spoil_values(store: Store, uuid: str) -> None:
    """Makes the key of a task's long values one of another type."""
    store.raw.set(naming.values_key(uuid), "no hash")


async def test_a_claim_gives_the_others(store: Store) -> None:
    for uuid in "abc":
        await store.create(uuid)
    damage(store, "b")
    assert [claimed.uuid for claimed in await store.claim(9)] == ["a", "c"]
    assert store.indexes("a") == store.indexes("c") == {"leases", "expiring"}
    assert store.numbers()["running"] == 2
    assert await store.claim() == []


async def test_a_claim_passes_over_a_payload_that_cannot_be_read(store: Store) -> None:
    for uuid in "abc":
        await store.create(uuid, payload=LONG)
    spoil_values(store, "b")
    before = store.record("b")
    assert [claimed.uuid for claimed in await store.claim(9)] == ["a", "c"]
    assert (store.record("b"), store.indexes("b")) == (before, {"expiring"})
    assert store.numbers()["running"] == 2


async def test_a_lost_lease_is_found_behind_a_damaged_record(store: Store) -> None:
    for uuid in "ab":
        claimed = await store.created_and_claimed(uuid, lease_ms=1)
    await store.until_over(claimed.lease_end_ms)
    damage(store, "a")
    assert await store.housekeeping.sweep_leases() == 2
    assert store.indexes("b") == {"pending", "expiring"}
    assert await store.housekeeping.sweep_leases() == 0


async def test_a_delay_is_over_behind_a_damaged_record(store: Store) -> None:
    for uuid in "ab":
        await store.create(uuid, delay_ms=1)
    await store.until_over(int(store.record("b")["due"]))
    damage(store, "a")
    assert await store.housekeeping.sweep_delayed() == 2
    assert store.indexes("b") == {"pending", "expiring"}
    assert await store.housekeeping.sweep_delayed() == 0


async def test_a_task_expires_behind_a_damaged_record(store: Store) -> None:
    for uuid in "ab":
        await store.create(uuid, expires_ms=1)
    await store.until_expired("b")
    damage(store, "a")
    assert await store.housekeeping.sweep_expired() == 2
    assert store.indexes("b") == {"retained", "ended"}
    assert await store.housekeeping.sweep_expired() == 0


@pytest.mark.parametrize("most_tasks", [0, ENDLESS])
async def test_a_record_is_forgotten_behind_a_damaged_one(store: Store, most_tasks: int) -> None:
    for uuid in "ab":
        await store.create(uuid, retention_ms=RETENTION_MS[most_tasks])
        await store.transitions.finish(uuid, succeeded())
    await store.until_over(int(store.record("b")["finished"]) + 1)
    damage(store, "a")
    assert await store.housekeeping.sweep_retained(most_tasks, ENDLESS) == 2
    assert store.listed() == ["a"]
    assert store.indexes("a") == set()
    assert await store.housekeeping.sweep_retained(most_tasks, ENDLESS) == 0


async def test_a_list_has_the_others(store: Store) -> None:
    for uuid in "abc":
        await store.create(uuid)
    damage(store, "b")
    page = await store.queries.list_tasks()
    assert [item.uuid for item in page.items] == ["c", "a"]


async def test_what_has_ended_is_found_beside_a_damaged_record(store: Store) -> None:
    await store.create("a")
    damage(store, "b")
    assert await store.queries.find_ended(["b", "a", "gone"]) == ["gone"]


async def test_an_end_that_cannot_be_stored_changes_nothing(store: Store) -> None:
    claimed = await store.created_and_claimed(lease_ms=1)
    spoil_values(store, "t")
    before, numbers = store.record(), store.numbers()
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await store.transitions.finish("t", succeeded(LONG), lease=claimed.lease)
    assert (store.record(), store.numbers()) == (before, numbers)
    assert store.indexes() == {"leases", "expiring"}
    store.raw.delete(naming.values_key("t"))
    await store.until_over(claimed.lease_end_ms)
    assert await store.housekeeping.sweep_leases() == 1
    assert (await store.document())["state"] == "pending"


async def test_a_right_that_is_missing_is_no_damage(store: Store) -> None:
    """What cannot be handled for that is still there when the right is given."""
    await store.create(expires_ms=1)
    await store.until_expired()
    store.raw.acl_setuser("default", enabled=True, channels=[], reset_channels=True)
    try:
        with pytest.raises(StoreError, match="can't publish"):
            await store.housekeeping.sweep_expired()
    finally:
        store.raw.acl_setuser("default", enabled=True, channels=["*"])
    assert store.indexes() == {"pending", "expiring"}
    assert await store.housekeeping.sweep_expired() == 1
