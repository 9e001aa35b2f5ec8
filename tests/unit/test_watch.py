"""Watches on a real server: what is told, what is never told, lost messages, resets, outages, and many at once."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest
import redis

from broker import Broker, Settings, watched
from broker import watch as watch_module
from broker.errors import InvalidRequestError, QueueFullError, StoreUnavailableError, TooManyWaitersError
from broker.published import Published
from broker.watched import Seen, Wanted
from tests.support.proxy import Proxy
from tests.support.store import until

OpenBroker = Callable[..., Awaitable[Broker]]


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    """Closes at the end what the test opened, latest first."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def open_broker(closing: AsyncExitStack) -> OpenBroker:
    """`open_broker(url)`: one more process's access, which closes with the test."""

    async def opened(url: str, **settings: Any) -> Broker:
        return await closing.enter_async_context(Broker(Settings(redis_url=url, **settings), sweeps=False))

    return opened


@pytest.fixture
async def a(redis_url: str, open_broker: OpenBroker) -> Broker:
    return await open_broker(redis_url)


@pytest.fixture
async def b(redis_url: str, open_broker: OpenBroker) -> Broker:
    return await open_broker(redis_url)


@pytest.fixture
async def proxy(redis_url: str, closing: AsyncExitStack) -> Proxy:
    return await closing.enter_async_context(Proxy(redis_url))


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    """The server, as an onlooker reaches it."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost messages are looked for more often."""
    monkeypatch.setattr(watch_module, "CHECK_EVERY_S", 0.05)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch, often: None) -> None:
    """Every message is lost."""
    monkeypatch.setattr(watch_module.Watches, "take", lambda _self, _message: None)


def watching(broker: Broker, version: str | None = None, timeout: float = 20) -> asyncio.Task[Published | None]:
    return asyncio.create_task(broker.watch("n", version, timeout=timeout))


async def until_read(broker: Broker, watches: int = 1, namespace: str = "n") -> None:
    """Returns once so many watches are held and were read for."""

    def are_read() -> bool:
        found = broker.watches._namespaces.get(namespace)
        return found is not None and [entry.is_read for entry in found.entries] == [True] * watches

    await until(are_read, "the watches are held")


# What is told


async def test_a_publish_on_one_process_is_told_on_another(a: Broker, b: Broker) -> None:
    held = watching(b, "0")
    await until_read(b)
    version = await a.publish("n", {"x": [1.5]})
    told = await held
    assert told is not None
    assert (told.namespace, told.version, told.value, told.exists) == ("n", version, {"x": [1.5]}, True)
    assert told.changed_at is not None
    assert b.watches.held == b.watches.namespaces == 0


async def test_who_knows_another_version_is_told_at_once(a: Broker, b: Broker) -> None:
    first = await a.publish("n", 1)
    second = await a.publish("n", 2)
    for known in ("0", first, "of-another-store"):
        told = await b.watch("n", known)
        assert told is not None
        assert told.version == second


async def test_who_names_no_version_is_told_of_the_next_publish(a: Broker, b: Broker) -> None:
    await a.publish("n", "before")
    held = watching(b)
    await until_read(b)
    assert not held.done()
    await a.publish("n", "after")
    told = await held
    assert told is not None
    assert told.value == "after"


async def test_without_a_change_the_wait_ends_with_nothing(a: Broker) -> None:
    version = await a.publish("n", 1)
    assert await a.watch("n", version, timeout=0.01) is None
    assert await a.watch("n", version, timeout=0) is None
    assert await a.watch("n", timeout=0) is None
    assert await a.watch("never", "0", timeout=0) is None


async def test_a_deleted_namespace_ends_watches_and_the_next_publish_is_new(a: Broker, b: Broker) -> None:
    first = await a.publish("n", 1)
    held = watching(b, first)
    await until_read(b)
    assert await a.unpublish("n")
    told = await held
    assert told is not None
    assert (told.version, told.exists, told.value, told.changed_at) == ("0", False, None, None)
    again = watching(b, told.version)
    await until_read(b)
    assert await a.publish("n", 1) not in ("0", first)
    assert (await again) is not None


async def test_several_namespaces_are_watched_in_one_call(a: Broker, b: Broker) -> None:
    one = await a.publish("one", 1)
    wanted = [Wanted("none", "0"), Wanted("one", one), Wanted("two", None)]
    held = asyncio.create_task(b.watches.watch(wanted, 20))
    await until_read(b, namespace="two")
    two = await a.publish("two", 2)
    seen = await held
    assert [changed.version for changed in seen.changed] == [two]
    seen = await b.watches.watch([Wanted("none", "0"), Wanted("one", "0"), Wanted("two", one)], 20)
    assert [changed.version for changed in seen.changed] == [one, two]
    assert await b.watches.watch([Wanted("none", "0"), Wanted("one", one), Wanted("two", two)], 0.01) == Seen([], "0")


async def test_long_values_come_in_several_answers(a: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "MOST_ANSWER_BYTES", 1_000)
    names = [f"n{number}" for number in range(5)]
    known = dict.fromkeys(names, "0")
    for name in names:
        await a.publish(name, "x" * 600)
    answers = 0
    while "0" in known.values():
        for changed in (await a.watches.watch([Wanted(*pair) for pair in known.items()], 5)).changed:
            known[next(name for name in names if f'"{name}"'.encode() in changed.document)] = changed.version
        answers += 1
    assert answers == 3


async def test_following_echoes_the_version(a: Broker, b: Broker) -> None:
    await a.publish("n", 1)
    told = []
    async for published in b.follow("n"):
        told.append(published.value)
        if len(told) == 5:
            break
        await a.publish("n", len(told) + 1)
    assert told == [1, 2, 3, 4, 5]


async def test_what_cannot_be_is_refused(a: Broker, b: Broker) -> None:
    for namespace in ("", "-a", "a/b", "a" * 129, "a\n"):
        for call in (a.publish(namespace, 1), a.unpublish(namespace), a.watch(namespace)):
            with pytest.raises(InvalidRequestError, match="namespace"):
                await call
    with pytest.raises(InvalidRequestError, match="version"):
        await a.watch("n", 'a"b')
    with pytest.raises(InvalidRequestError):
        await a.publish("n", float("nan"))


# Bounds


async def test_watches_count_as_held_calls(redis_url: str, open_broker: OpenBroker) -> None:
    broker = await open_broker(redis_url, max_waiters=1, namespaces_max=1)
    await broker.publish("n", 1)
    held = watching(broker)
    await until_read(broker)
    with pytest.raises(TooManyWaitersError):
        await broker.watch("other", timeout=1)
    task = await broker.create("q")
    with pytest.raises(TooManyWaitersError):
        await task.wait(timeout=1)
    assert await broker.watch("n", "0", timeout=0) is not None
    with pytest.raises(QueueFullError, match="BROKER_NAMESPACES_MAX"):
        await broker.publish("other", 1)
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    assert broker.watches.held == broker.watches.namespaces == broker.capacity.held == 0


async def test_many_are_answered_a_few_at_a_time_from_one_read(
    a: Broker, b: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = b.watches._values.read

    async def counted(known: list[tuple[str, str]]) -> Any:
        nonlocal reads
        reads += 1
        return await read(known)

    monkeypatch.setattr(b.watches._values, "read", counted)
    held = [watching(b, "0") for _ in range(1_000)]
    await until_read(b, 1_000)
    reads_before = reads
    await a.publish("n", 1)
    released = [0]
    while released[-1] < len(held):
        await asyncio.sleep(0)
        released.append(sum(one.done() for one in held))
    steps = [after - before for before, after in pairwise(released)]
    assert max(steps) <= watch_module.RELEASED_PER_TURN
    assert reads - reads_before <= 2
    told = await asyncio.gather(*held)
    assert len({id(one.raw) for one in told if one is not None}) == 1


async def test_what_has_ended_leaves_nothing_for_the_garbage_collector(a: Broker) -> None:
    gc.collect()
    gc.disable()
    try:
        version = await a.publish("n", 1)
        given_up = [watching(a, version) for _ in range(3)]
        await asyncio.sleep(0)
        for one in given_up:
            one.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        held = [watching(a, known) for known in (version, None, "0")]
        await until_read(a, 2)
        await a.publish("n", 2)
        await asyncio.gather(*held)
        await a.watch("n", "0", timeout=0)
        del given_up, held, one
        left = [one for one in gc.get_objects() if type(one).__module__ == watched.__name__]
    finally:
        gc.enable()
    assert not left


async def test_an_ending_process_answers_all_and_holds_no_more(a: Broker) -> None:
    version = await a.publish("n", 1)
    held = [watching(a, version) for _ in range(10)]
    await until_read(a, 10)
    a.end_waits()
    assert await asyncio.gather(*held) == [None] * 10
    assert await a.watch("n", version, timeout=20) is None


# Nothing is missed, and nothing older comes after something newer


async def poll(brokers: list[Broker], chance: random.Random, last: int) -> list[int]:
    """The values that a caller sees who asks any process, and echoes the version."""
    version, seen = "0", [-1]
    while seen[-1] < last:
        published = await chance.choice(brokers).watch("n", version, timeout=5)
        if published is not None:
            version = published.version
            seen.append(published.value)
    return seen


async def publish_all(broker: Broker, chance: random.Random, count: int) -> None:
    for number in range(count):
        await broker.publish("n", number)
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.01)


@pytest.mark.parametrize("hearing", ["all", "nothing"])
async def test_a_polling_caller_sees_the_last_value_and_never_an_older_one(
    a: Broker, b: Broker, hearing: str, request: pytest.FixtureRequest
) -> None:
    if hearing == "nothing":
        request.getfixturevalue("deaf")
    chance = random.Random(11)
    polls = [asyncio.create_task(poll([a, b], chance, 199)) for _ in range(3)]
    await publish_all(a, chance, 200)
    for seen in await asyncio.gather(*polls):
        assert seen == sorted(set(seen))
        assert seen[-1] == 199


async def test_over_reconnects_too(a: Broker, proxy: Proxy, open_broker: OpenBroker, often: None) -> None:
    b = await open_broker(proxy.url)
    chance = random.Random(13)
    polls = [asyncio.create_task(poll([a, b], chance, 149)) for _ in range(4)]
    publishing = asyncio.create_task(publish_all(a, chance, 150))
    while not publishing.done():
        proxy.cut()
        await asyncio.sleep(chance.random() * 0.2)
    await publishing
    for seen in await asyncio.gather(*polls):
        assert seen == sorted(set(seen))
        assert seen[-1] == 149


async def test_a_read_that_began_before_does_not_answer(a: Broker, proxy: Proxy, open_broker: OpenBroker) -> None:
    """The caller has seen the newer value elsewhere while the older one was still on its way to this process."""
    b = await open_broker(proxy.url)
    old = await a.publish("n", "old")
    proxy.keep_replies()
    first = watching(b, "0")
    await until(lambda: any(b"published" in data or b"EVALSHA" in data for data in proxy.received[-3:]), "it reads")
    await asyncio.sleep(0)
    new = await a.publish("n", "new")
    second = watching(b, new, timeout=0.3)
    await until(lambda: b.watches.held == 2, "both are held")
    proxy.thaw()
    told = await first
    assert told is not None
    assert told.version in (old, new)
    assert await second is None


async def test_a_lost_message_is_made_up_for_and_counted(a: Broker, b: Broker, deaf: None) -> None:
    other = asyncio.create_task(b.watch("other", timeout=60))
    async with asyncio.timeout(15):
        # A read that somebody else has asked for may find it first.
        while b.watches.missed == 0:
            held = watching(b, await a.publish("n", 0))
            await until_read(b)
            await a.publish("n", 1)
            assert await held is not None
    other.cancel()


async def test_a_reset_store_ends_watches(a: Broker, b: Broker, raw: redis.Redis, often: None) -> None:
    version = await a.publish("n", 1)
    held = watching(b, version)
    await until_read(b)
    raw.flushall()
    told = await held
    assert told is not None
    assert told.version == "0"


async def test_a_reset_store_that_counts_on_ends_watches(a: Broker, b: Broker, raw: redis.Redis, deaf: None) -> None:
    version = await a.publish("n", 1)
    held = watching(b, version)
    await until_read(b)
    await until(lambda: b.watches._place is not None, "it looks")
    with raw.pipeline() as at_once:
        at_once.flushall()
        at_once.execute()
    assert await a.publish("n", 2) != version
    told = await held
    assert told is not None
    assert told.version != version


# Redis away


async def test_an_outage_is_waited_out(a: Broker, proxy: Proxy, open_broker: OpenBroker) -> None:
    b = await open_broker(proxy.url)
    held = watching(b, "0")
    await until_read(b)
    await proxy.refuse()
    version = await a.publish("n", 1)
    await proxy.listen()
    told = await held
    assert told is not None
    assert told.version == version


async def test_who_was_never_told_anything_gets_an_error(
    proxy: Proxy, open_broker: OpenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "LOOK_S", 0.1)
    b = await open_broker(proxy.url)
    version = await b.publish("n", 1)
    held = watching(b, version, timeout=0.3)
    await until_read(b)
    await proxy.refuse()
    assert await held is None
    for timeout in (0, 0.01):
        with pytest.raises(StoreUnavailableError):
            await b.watch("n", version, timeout=timeout)
