"""take_exclusive_wait.lua and release_exclusive_wait.lua on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from broker import naming
from broker.requests import NewTask
from broker.store.exclusive_waits import MARKER_MS, read_taken, release_command, take_command
from tests.support.store import QUEUE, Store, new_task, succeeded, until


async def take(store: Store, new: NewTask, who: str = "me", *, will_wait: bool = True) -> tuple[bool, str]:
    return read_taken(await store.link.send(take_command(new, who, will_wait=will_wait)))


async def release(store: Store, uuid: str = "t", who: str = "me", idempotency: str | None = None) -> int:
    return int(await store.link.send(release_command(uuid, idempotency, who)))


@contextmanager
def somebody_waits(store: Store, uuid: str = "t", queue: str = QUEUE) -> Iterator[None]:
    with store.ear("unused"), store.raw.pubsub() as pubsub:  # type: ignore[no-untyped-call]
        pubsub.subscribe(naming.response_channel(queue, uuid))
        assert pubsub.get_message(timeout=5)
        yield


async def test_the_first_of_two_is_let_in(store: Store) -> None:
    assert await take(store, new_task(), "first") == (True, "t")
    assert await take(store, new_task(), "second") == (False, "t")
    assert store.raw.get(naming.exclusive_key("t")) == "first"
    assert 0 < int(store.raw.pttl(naming.exclusive_key("t"))) <= MARKER_MS


async def test_a_marker_goes_by_itself_or_when_its_owner_says_so(store: Store) -> None:
    await take(store, new_task())
    assert await release(store, who="somebody else") == 0
    assert not (await take(store, new_task()))[0]

    assert await release(store) == 1
    assert (await take(store, new_task()))[0]

    store.raw.pexpire(naming.exclusive_key("t"), 1)
    await until(lambda: store.raw.get(naming.exclusive_key("t")) is None, "the marker is gone")
    assert (await take(store, new_task()))[0]


@pytest.mark.parametrize("is_created", [True, False])
async def test_whoever_is_subscribed_waits(store: Store, is_created: bool) -> None:
    if is_created:
        await store.create()
    with somebody_waits(store):
        assert await take(store, new_task()) == (False, "t")
    assert store.raw.exists(naming.exclusive_key("t")) == 0


async def test_a_subscription_elsewhere_does_not_count(store: Store) -> None:
    with somebody_waits(store, uuid="another"), somebody_waits(store, queue="other"):
        assert (await take(store, new_task()))[0]


@pytest.mark.parametrize("fields", [{"payload": b"1"}, {"queue": "other"}])
async def test_what_the_create_refuses_is_left_to_it(store: Store, fields: dict[str, object]) -> None:
    await store.create()
    with somebody_waits(store), somebody_waits(store, queue="other"):
        assert (await take(store, new_task(**fields)))[0]  # type: ignore[arg-type]
    assert store.raw.exists(naming.exclusive_key("t")) == 0


async def test_an_ended_task_is_nobodys_to_wait_for(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", succeeded())
    with somebody_waits(store):
        assert (await take(store, new_task(), "a"))[0]
        assert (await take(store, new_task(), "b"))[0]
    assert store.raw.exists(naming.exclusive_key("t")) == 0


async def test_who_will_not_wait_keeps_nobody_out(store: Store) -> None:
    assert (await take(store, new_task(), will_wait=False))[0]
    assert store.raw.exists(naming.exclusive_key("t")) == 0
    await take(store, new_task())
    assert not (await take(store, new_task(), will_wait=False))[0]


async def test_a_key_that_stands_for_no_task_yet(store: Store) -> None:
    assert (await take(store, new_task("a", chosen=False, idempotency="k"), "first"))[0]
    assert not (await take(store, new_task("b", chosen=False, idempotency="k"), "second"))[0]
    assert store.raw.exists(naming.exclusive_key("a")) == 0

    assert await release(store, "a", "first", "k") == 1
    assert (await take(store, new_task("b", chosen=False, idempotency="k"), "second"))[0]


async def test_a_key_that_stands_for_a_task(store: Store) -> None:
    await store.create("t", idempotency="k")
    again = new_task("made-now", chosen=False, idempotency="k")
    with somebody_waits(store, "t"):
        assert await take(store, again) == (False, "t")
    assert await take(store, again) == (True, "t")
    # By uuid or by key: it is the same task.
    assert not (await take(store, new_task("t"), "other"))[0]
    assert await release(store, "t", "me", "k") == 2


async def test_a_key_and_a_uuid_that_disagree_are_left_to_the_create(store: Store) -> None:
    await store.create("t", idempotency="k")
    with somebody_waits(store, "t"):
        assert (await take(store, new_task("u", idempotency="k")))[0]


async def test_nothing_is_left_of_a_refused_call(store: Store) -> None:
    with somebody_waits(store):
        await take(store, new_task(idempotency="k"))
    assert store.remaining() == set()


async def test_a_full_server_still_releases(store: Store) -> None:
    await take(store, new_task())
    with store.full():
        assert await release(store) == 1
