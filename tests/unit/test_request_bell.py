"""The worker's ear on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack

import pytest
import redis

from broker import naming
from broker.errors import StoreUnavailableError
from broker.request_bell import RequestBell
from broker.store.topology import Topology
from tests.support.proxy import Proxy
from tests.support.store import Store, open_store, until


class Heard:
    """What a bell told."""

    def __init__(self) -> None:
        self.rings: list[str] = []
        self.bells = 0
        self.ended: list[str] = []
        self.note: Callable[[], object] = bool

    def ring(self, queues: Collection[str], bells: int) -> None:
        self.note()
        self.rings += queues
        self.bells += bells


OpenBell = Callable[..., Awaitable[RequestBell]]


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    """Closes at the end what the test opened, latest first."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def store(redis_url: str, closing: AsyncExitStack) -> Store:
    return await closing.enter_async_context(open_store(redis_url))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def open_bell(heard: Heard, closing: AsyncExitStack) -> OpenBell:
    """`open_bell(url, *queues)`: a bell that closes with the test, after its first rings."""

    async def opened(url: str, *queues: str) -> RequestBell:
        bell = RequestBell(
            Topology.from_url(url),
            worker="w",
            queues=queues,
            on_rings=heard.ring,
            on_ended=heard.ended.append,
        )
        closing.push_async_callback(bell.close)
        await bell.open()
        assert sorted(heard.rings) == sorted(queues)
        heard.rings.clear()
        heard.bells = 0
        return bell

    return opened


async def test_a_new_task_rings(redis_url: str, store: Store, heard: Heard, open_bell: OpenBell) -> None:
    await open_bell(redis_url, "q", "r")
    await store.create("a", queue="q")
    await store.create("b", queue="r")
    await store.create("c", queue="other")
    await until(lambda: heard.bells >= 2, "both were heard")
    assert (sorted(heard.rings), heard.bells) == (["q", "r"], 2)


async def test_what_rings_in_one_turn_is_told_together(
    redis_url: str, store: Store, heard: Heard, open_bell: OpenBell
) -> None:
    await open_bell(redis_url, "q", "r")
    store.raw.eval("for i = 1, 20 do redis.call('PUBLISH', 'q-request-' .. i, '') end", 0)
    await until(lambda: heard.bells >= 20, "all were heard")
    assert (set(heard.rings), heard.bells) == ({"q"}, 20)
    assert len(heard.rings) < 20


async def test_queues_whose_names_begin_alike_ring_apart(
    redis_url: str, store: Store, heard: Heard, open_bell: OpenBell
) -> None:
    await open_bell(redis_url, "a", "a-b", "a.b")
    await store.create("request-t", queue="a-b")
    await until(lambda: heard.rings, "it was heard")
    assert heard.rings == ["a-b"]


async def test_a_task_that_somebody_ended(redis_url: str, store: Store, heard: Heard, open_bell: OpenBell) -> None:
    await open_bell(redis_url, "q")
    store.raw.publish(naming.worker_channel("other"), "not mine")
    store.raw.publish(naming.worker_channel("w"), "084Tkjfh")
    await until(lambda: heard.ended, "it was heard")
    assert heard.ended == ["084Tkjfh"]


@pytest.mark.parametrize("message", [b"", b"\xff\xfe", b"garbage", b"{" * 10_000])
async def test_a_forged_message_crashes_nothing(
    redis_url: str, store: Store, heard: Heard, open_bell: OpenBell, message: bytes
) -> None:
    await open_bell(redis_url, "q")
    store.raw.publish(naming.worker_channel("w"), message)
    store.raw.publish("q-request-", message)
    store.raw.publish("q-request-\n", message)
    await store.create()
    await until(lambda: heard.bells == 3, "all were heard")


async def test_after_a_reconnect_every_queue_is_asked(
    redis_url: str, store: Store, heard: Heard, open_bell: OpenBell
) -> None:
    """Rings may have been missed meanwhile."""
    await open_bell(redis_url, "q", "r")
    store.raw.client_kill_filter(_type="pubsub")
    await until(lambda: sorted(heard.rings) == ["q", "r"], "every queue was asked")
    assert store.raw.pubsub_numpat() == 2
    await store.create()
    await until(lambda: len(heard.rings) == 3, "heard as before")


async def test_the_rings_of_a_reconnect_come_behind_the_subscriptions(
    redis_url: str, heard: Heard, closing: AsyncExitStack, open_bell: OpenBell
) -> None:
    proxy = await closing.enter_async_context(Proxy(redis_url))
    await open_bell(proxy.url, "q")
    with redis.Redis.from_url(redis_url) as raw:
        seen: list[object] = []
        heard.note = lambda: seen.append(raw.pubsub_numpat())
        proxy.cut()
        await until(lambda: seen, "the queue was asked")
        assert seen[0] == 1


async def test_nobody_answers(redis_url: str) -> None:
    async with Proxy(redis_url) as proxy:
        proxy.freeze()
        bell = RequestBell(
            Topology.from_url(proxy.url), worker="w", queues=["q"], on_rings=lambda *_: None, on_ended=lambda _: None
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("broker.store.link.Link.open.__defaults__", (0.2,))
            with pytest.raises(StoreUnavailableError):
                await bell.open()


async def test_closing_leaves_no_subscription(redis_url: str, store: Store, open_bell: OpenBell) -> None:
    bell = await open_bell(redis_url, "q")
    assert store.raw.pubsub_numpat() == 1
    await bell.close()
    await until(lambda: store.raw.pubsub_numpat() == 0, "the subscription is gone")
