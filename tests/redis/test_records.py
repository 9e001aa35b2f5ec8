"""record.lua on a real server: numbers as they were, and records of other deployments."""

from __future__ import annotations

from typing import Final

import pytest

from broker import naming
from broker.errors import StoreError
from tests.support.store import Store, succeeded

RARE_PARTS: Final = ("error", "progress", "last_error", "large", "due", "idempotency", "retry_of", "events", "limited")
REFORMAT: Final = """
local text = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], string.char(ARGV[2]) .. string.sub(text, 2) .. ARGV[3])
"""
FORMAT_OF: Final = "return string.byte(redis.call('HGET', KEYS[1], ARGV[1]))"
LENGTH_OF: Final = "return #redis.call('HGET', KEYS[1], ARGV[1])"


def reformat(store: Store, number: int, more: str) -> None:
    """Makes the record one of another format, with more behind."""
    store.raw.eval(REFORMAT, 1, naming.tasks_key(), "t", number, more)


def format_of(store: Store) -> int:
    return int(store.raw.eval(FORMAT_OF, 1, naming.tasks_key(), "t"))


def length_of(store: Store) -> int:
    return int(store.raw.eval(LENGTH_OF, 1, naming.tasks_key(), "t"))


@pytest.mark.parametrize("number", [1, 255, 2**31 + 1, 2**53 - 1, 2**53])
async def test_whole_numbers_come_back_as_they_were(store: Store, number: int) -> None:
    await store.create()
    store.put_field("seq", str(number))
    assert store.record()["seq"] == str(number)


@pytest.mark.parametrize("name", RARE_PARTS)
async def test_a_rare_part_comes_back_and_leaves_no_room_behind(store: Store, name: str) -> None:
    await store.create()
    short, before = length_of(store), store.record()
    store.put_field(name, "1")
    assert {**store.record(), **store.values()} == {**before, **({} if name == "large" else {name: "1"})}
    assert length_of(store) > short
    store.put_field(name, "")
    assert store.record() == before
    assert length_of(store) == short


async def test_parts_that_a_later_version_has_are_passed_over_and_given_up(store: Store) -> None:
    await store.create(payload=b"[1]", idempotency="d")
    own = format_of(store)
    reformat(store, own + 1, "later\0")
    assert (await store.document())["state"] == "pending"
    assert store.record()["idempotency"] == "d"
    assert (await store.claim_one()).payload == b"[1]"
    assert format_of(store) == own


async def test_a_record_of_the_format_before_is_read(store: Store) -> None:
    """It has all parts, absent or not."""
    await store.create(payload=b"[1]")
    before, own, length = store.record(), format_of(store), length_of(store)
    reformat(store, 2, "\0" * 17)
    assert store.record() == before
    assert (await store.claim_one()).payload == b"[1]"
    await store.transitions.finish("t", succeeded())
    assert (format_of(store), length_of(store) - length) == (own, 2)


async def test_a_lower_number_is_no_record(store: Store) -> None:
    await store.create()
    reformat(store, 1, "")
    with pytest.raises(StoreError, match="no record of a task"):
        await store.document()
