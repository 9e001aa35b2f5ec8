"""publish_value.lua, delete_value.lua, read_values.lua and read_changes.lua on a real server."""

from __future__ import annotations

import random
import re

import pytest

from broker import naming
from broker.errors import QueueFullError, StoreUnavailableError
from broker.store import published
from broker.store.published import NOT_READ, UNCHANGED, Place, PublishedValues, Read, StoredValue
from broker.values import check
from tests.support.store import Store

MOST = 1_000


@pytest.fixture
def values(store: Store) -> PublishedValues:
    return PublishedValues(store.link, store.link)


async def publish(values: PublishedValues, namespace: str, value: bytes = b"1") -> str:
    return await values.publish(namespace, value, most_namespaces=MOST)


async def read(values: PublishedValues, namespace: str, known: str = "") -> Read:
    (found,) = await values.read([(namespace, known)])
    return found


def version_of(found: Read) -> str:
    assert isinstance(found, StoredValue)
    return found.version


async def test_a_value_is_kept_byte_for_byte(values: PublishedValues) -> None:
    version = await publish(values, "prices", b'{"n": 1.0, "big":9007199254740993,"e":[]}')
    found = await read(values, "prices")
    assert isinstance(found, StoredValue)
    assert found.version == version
    start = f'{{"namespace":"prices","version":"{version}","value":{{"n": 1.0, "big":9007199254740993,"e":[]}},'
    assert found.document.startswith(start.encode())
    assert re.fullmatch(rb'.*,"changed_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"\}', found.document)
    check(found.document, "document", max_bytes=1_000)


async def test_what_was_never_published_has_the_version_nothing(values: PublishedValues) -> None:
    assert await read(values, "prices") == StoredValue("0", b'{"namespace":"prices","version":"0"}')
    assert await read(values, "prices", "0") is UNCHANGED


async def test_what_is_known_is_not_read_again(values: PublishedValues) -> None:
    version = await publish(values, "prices")
    assert await read(values, "prices", version) is UNCHANGED
    assert version_of(await read(values, "prices", "other")) == version


async def test_a_read_ends_when_it_is_long(values: PublishedValues, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        await publish(values, name, b'"%s"' % (b"x" * 100))
    monkeypatch.setattr(published, "READ_BYTES", 150)
    found = await values.read([(name, "") for name in ("a", "b", "c")])
    assert [isinstance(one, StoredValue) for one in found] == [True, True, False]
    assert found[2] is NOT_READ


async def test_everybody_is_told_by_one_internal_channel(store: Store, values: PublishedValues) -> None:
    with store.ear() as ear:
        await publish(values, "a-request-b")
        await values.delete("a-request-b")
        assert ear.messages() == [(naming.published_channel(), "a-request-b")] * 2


async def test_one_namespace_too_many_is_refused_and_no_value_goes(store: Store, values: PublishedValues) -> None:
    await values.publish("a", b"1", most_namespaces=2)
    await values.publish("b", b"1", most_namespaces=2)
    with pytest.raises(QueueFullError, match="BROKER_NAMESPACES_MAX"):
        await values.publish("c", b"1", most_namespaces=2)
    await values.publish("a", b"2", most_namespaces=2)
    await values.delete("b")
    await values.publish("c", b"1", most_namespaces=2)
    assert store.raw.zcard(naming.namespaces_key()) == 2


async def test_a_deleted_namespace_is_as_if_never_published(store: Store, values: PublishedValues) -> None:
    first = await publish(values, "a")
    assert await values.delete("a")
    assert not await values.delete("a")
    assert version_of(await read(values, "a", first)) == "0"
    assert store.raw.exists(naming.published_key("a")) == 0
    assert await publish(values, "a") != first


async def test_a_store_that_numbers_anew_repeats_no_version(store: Store, values: PublishedValues) -> None:
    first = await publish(values, "a")
    store.raw.flushall()
    second = await publish(values, "a")
    assert first.partition("-")[0] == second.partition("-")[0]
    assert first != second


async def test_a_full_server_takes_no_value_but_lets_one_go(store: Store, values: PublishedValues) -> None:
    await publish(values, "a")
    with store.full():
        with pytest.raises(StoreUnavailableError):
            await publish(values, "b")
        assert await values.delete("a")


# What has changed


async def test_who_knows_nothing_looks_at_everything(values: PublishedValues) -> None:
    assert await values.changes_since(None) == published.Changes(Place("", 0), None)


async def test_changes_are_found_once(values: PublishedValues) -> None:
    start = (await values.changes_since(None)).place
    assert (await values.changes_since(start)).versions == {}
    first = await publish(values, "a")
    # The first publish of a store begins an epoch.
    everything = await values.changes_since(start)
    assert everything.versions is None
    second, third = await publish(values, "a"), await publish(values, "b")
    changes = await values.changes_since(everything.place)
    assert changes.versions == {"a": second, "b": third}
    assert first not in changes.versions.values()
    assert (await values.changes_since(changes.place)).versions == {}
    await values.delete("a")
    assert (await values.changes_since(changes.place)).versions == {"a": "0"}


async def test_a_store_that_was_reset_is_noticed(store: Store, values: PublishedValues) -> None:
    await publish(values, "a")
    place = (await values.changes_since(None)).place
    store.raw.flushall()
    assert (await values.changes_since(place)).versions is None
    for _ in range(3):
        await publish(values, "a")
    assert (await values.changes_since(place)).versions is None


async def test_a_store_that_has_lost_writes_is_noticed(store: Store, values: PublishedValues) -> None:
    for _ in range(3):
        await publish(values, "a")
    place = (await values.changes_since(None)).place
    store.raw.hincrby(naming.publications_key(), "changes", -2)
    assert (await values.changes_since(place)).versions is None


async def test_forgotten_deletions_are_noticed(store: Store, values: PublishedValues) -> None:
    names = [f"n{number}" for number in range(1_002)]
    for name in names:
        await values.publish(name, b"1", most_namespaces=2_000)
    place = (await values.changes_since(None)).place
    await values.delete(names[0])
    later = (await values.changes_since(place)).place
    for name in names[1:]:
        await values.delete(name)
    assert store.raw.zcard(naming.deleted_namespaces_key()) == 1_000
    assert (await values.changes_since(place)).versions is None
    assert (await values.changes_since(later)).versions is None
    known = Place(later.epoch, later.number + 1)
    assert len((await values.changes_since(known)).versions or {}) == published.CHANGES_PER_SCRIPT


async def test_no_change_is_missed_whatever_happens_between_two_looks(
    store: Store, values: PublishedValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "CHANGES_PER_SCRIPT", 3)
    chance = random.Random(7)
    truth: dict[str, str] = {}
    seen: dict[str, str] = {}
    place: Place | None = None
    for _ in range(300):
        name = f"n{chance.randrange(12)}"
        if chance.random() < 0.3:
            if await values.delete(name):
                truth[name] = "0"
        else:
            truth[name] = await publish(values, name)
        if chance.random() < 0.2:
            more = True
            while more:
                changes = await values.changes_since(place)
                place, more = changes.place, changes.more
                seen.update(truth if changes.versions is None else changes.versions)
            assert seen == truth
