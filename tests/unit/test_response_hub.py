"""The hub on a real server: joining, leaving, forgeries, lost messages, lost connections."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from broker import naming, probe, response_hub
from broker import subscriptions as subscriptions_module
from broker.capacity import Capacity
from broker.creation import begin_creation
from broker.errors import StoreUnavailableError, TaskNotFoundError
from broker.response_hub import Channel, ResponseHub, Waiter
from broker.store import scripts
from broker.store.queries import Queries, StoredTask
from broker.store.topology import Topology
from broker.subscriptions import Subscriptions
from broker.task import TaskState
from tests.support.proxy import Proxy
from tests.support.store import Store, new_task, open_store, succeeded, until

OpenHub = Callable[..., Awaitable[ResponseHub]]


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    """Closes at the end what the test opened, latest first."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def store(redis_url: str, closing: AsyncExitStack) -> Store:
    return await closing.enter_async_context(open_store(redis_url))


@pytest.fixture
async def open_hub(store: Store, closing: AsyncExitStack) -> OpenHub:
    """`open_hub(url)`: a hub that closes with the test."""

    async def opened(url: str, queries: Queries | None = None) -> ResponseHub:
        queries = queries or store.queries
        subscriptions = Subscriptions(
            Topology.from_url(url), name="h", queries=queries, scripts=(scripts.CREATE_TASKS.source,)
        )
        hub = ResponseHub(subscriptions, queries, Capacity(1_000))
        await subscriptions.open()
        hub.start()
        closing.push_async_callback(subscriptions.close)
        closing.push_async_callback(hub.close)
        closing.callback(hub.end_all)
        return hub

    return opened


@pytest.fixture
async def hub(redis_url: str, open_hub: OpenHub) -> ResponseHub:
    return await open_hub(redis_url)


@pytest.fixture
async def proxy(redis_url: str, closing: AsyncExitStack) -> Proxy:
    return await closing.enter_async_context(Proxy(redis_url))


async def waiting(hub: ResponseHub, store: Store, uuid: str = "t", timeout: float = 20) -> Waiter:
    """A wait for a new task, subscribed and confirmed."""
    created = await store.create(uuid)
    waiter = hub.join("q", uuid, created.seal, timeout)
    waiter.confirm(created.seal)
    await hub.confirm()
    return waiter


async def settled(waiter: Waiter) -> StoredTask:
    async with asyncio.timeout(15):
        task = await waiter.wait()
    assert task is not None
    return task


def subscribers(store: Store, uuid: str = "t") -> int:
    channel = naming.response_channel("q", uuid)
    return dict(store.raw.pubsub_numsub(channel))[channel]


# A message ends a wait


async def test_an_outcome_ends_the_wait_with_what_a_query_would_say(hub: ResponseHub, store: Store) -> None:
    waiter = await waiting(hub, store)
    await store.transitions.finish("t", succeeded(b'{"a":[1.0]}'))
    task = await settled(waiter)
    assert task == await store.queries.read("t")
    assert hub.rescued == 0


async def test_joining_and_creating_leave_together(proxy: Proxy, store: Store, open_hub: OpenHub) -> None:
    hub = await open_hub(proxy.url)
    await until(lambda: hub.subscriptions.is_delivering, "all is quiet")
    proxy.received.clear()
    creation = begin_creation(hub, new_task(), 20)
    assert (await creation.created()).is_new
    # The reply came behind the subscription, on one connection.
    assert subscribers(store) == 1
    assert len(proxy.received) == 1
    await store.transitions.finish("t", succeeded())
    assert (await settled(creation.waiter)).state is TaskState.SUCCEEDED


async def test_many_waiters_share_one_subscription(hub: ResponseHub, store: Store) -> None:
    first = await waiting(hub, store)
    others = [hub.join("q", "t", first.seal, 20) for _ in range(9)]
    await hub.confirm()
    assert (hub.held, hub.subscriptions.desired, hub.subscriptions.actual, subscribers(store)) == (10, 1, 1, 1)
    await store.transitions.finish("t", succeeded())
    assert {(await settled(waiter)).state for waiter in [first, *others]} == {TaskState.SUCCEEDED}


@pytest.mark.parametrize("result", [b"", b"1", b'{"omitted":true}'])
@pytest.mark.parametrize("progress", [None, b"0.5"])
async def test_a_success_is_told_with_its_values(
    hub: ResponseHub, store: Store, result: bytes, progress: bytes | None
) -> None:
    waiter = await waiting(hub, store)
    if progress is not None:
        claimed = await store.claim_one()
        await store.transitions.extend("t", claimed.lease, 30_000, progress)
    await store.transitions.finish("t", succeeded(result))
    assert await settled(waiter) == await store.queries.read("t")
    assert hub.rescued == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message[: message.index(b',"attempt"')],
        lambda message: message[: message.index(b'"attempt"')],
        lambda message: message[: message.index(b'"attempt"') + 4],
        lambda message: message.replace(b',"attempt"', b',"omitted":true,"attempt"'),
    ],
    ids=range(4),
)
async def test_what_only_begins_like_a_success_is_none(
    hub: ResponseHub, store: Store, change: Callable[[bytes], bytes]
) -> None:
    waiter = await waiting(hub, store)
    message = b'{"seal":"%s","uuid":"t","queue":"q","state":"succeeded","attempt":0}' % waiter.seal.encode()
    store.raw.publish("q-response-t", change(message))
    await hub.confirm()
    assert not waiter.is_settled


async def test_a_message_of_another_order_is_decoded(hub: ResponseHub, store: Store) -> None:
    waiter = await waiting(hub, store)
    store.raw.publish("q-response-t", b'{"seal":"%s","state":"failed","queue":"q","uuid":"t"}' % waiter.seal.encode())
    assert (await settled(waiter)).state is TaskState.FAILED


async def test_waiters_with_other_seals_are_not_told(hub: ResponseHub, store: Store) -> None:
    others = [hub.join("q", "t", seal, 20) for seal in "abc"]
    waiter = await waiting(hub, store)
    others += [hub.join("q", "t", seal, 20) for seal in "def"]
    message = b'{"seal":"%s","uuid":"t","queue":"q","state":"succeeded","attempt":1}' % waiter.seal.encode()
    store.raw.publish("q-response-t", message)
    assert (await settled(waiter)).state is TaskState.SUCCEEDED
    assert not any(other.is_settled for other in others)


async def test_a_long_outcome_is_read_from_the_store(hub: ResponseHub, store: Store) -> None:
    waiter = await waiting(hub, store)
    await store.transitions.finish("t", succeeded(b'"' + b"x" * 5_000 + b'"'))
    assert json.loads((await settled(waiter)).document)["result"] == "x" * 5_000


async def test_each_wait_gets_its_own_task(hub: ResponseHub, store: Store) -> None:
    uuids = [f"t{number}" for number in range(600)]
    seals = {task.uuid: task.seal for task in await asyncio.gather(*[store.create(uuid) for uuid in uuids])}
    waiters = {uuid: hub.join("q", uuid, seals[uuid], 20) for uuid in uuids}
    await hub.confirm()
    assert hub.subscriptions.actual == hub.subscriptions.desired == 600
    results = {uuid: str(number).encode() for number, uuid in enumerate(uuids)}
    await asyncio.gather(*[store.transitions.finish(uuid, succeeded(result)) for uuid, result in results.items()])
    for uuid, waiter in waiters.items():
        assert json.loads((await settled(waiter)).document)["result"] == int(results[uuid])


async def test_a_wait_ends_with_its_time(hub: ResponseHub, store: Store) -> None:
    waiter = await waiting(hub, store, timeout=0.01)
    assert await waiter.wait() is None


async def test_all_waits_can_be_ended(hub: ResponseHub, store: Store) -> None:
    waiters = [await waiting(hub, store, uuid) for uuid in ("a", "b")]
    hub.end_all()
    assert [await waiter.wait() for waiter in waiters] == [None, None]


# Leaving


async def test_a_channel_is_left_two_seconds_after_its_last_waiter(hub: ResponseHub, store: Store) -> None:
    first = await waiting(hub, store)
    second = hub.join("q", "t", first.seal, 20)
    hub.leave(first)
    assert hub.subscriptions.desired == 1
    hub.leave(second)
    left_at = time.monotonic()
    await until(lambda: subscribers(store) == 0, "nobody is subscribed any more")
    assert time.monotonic() - left_at < 2
    await until(lambda: hub.subscriptions.actual == 0, "the hub knows")
    assert (hub.held, hub.subscriptions.desired, hub.subscriptions.leaked) == (0, 0, 0)


async def test_the_channel_of_an_ended_task_is_left_at_once(hub: ResponseHub, store: Store) -> None:
    waiter = await waiting(hub, store)
    await store.transitions.finish("t", succeeded())
    await settled(waiter)
    hub.leave(waiter)
    assert hub.subscriptions.desired == 0
    await until(lambda: subscribers(store) == 0, "nobody is subscribed any more", deadline_s=1)
    await until(lambda: hub.subscriptions.actual == hub.subscriptions.leaked == 0, "the hub knows")


async def test_a_channel_that_is_being_left_is_not_leaked(hub: ResponseHub, store: Store) -> None:
    """Or the gauge would show a leak in a healthy process whenever somebody looks at the wrong moment."""
    waiters = [await waiting(hub, store, f"t{number}") for number in range(20)]
    seen = set()
    for number, waiter in enumerate(waiters):
        await store.transitions.finish(f"t{number}", succeeded(b"1"))
        await settled(waiter)
        hub.leave(waiter)
        seen.add(hub.subscriptions.leaked)
    while hub.subscriptions.actual:
        seen.add(hub.subscriptions.leaked)
        await asyncio.sleep(0)
    assert seen == {0}
    assert not hub.subscriptions._leaving


async def test_who_joins_while_the_channel_is_being_left_is_subscribed(hub: ResponseHub, store: Store) -> None:
    waiter = await waiting(hub, store)
    await store.transitions.finish("t", succeeded())
    await settled(waiter)
    for _ in range(5):
        hub.leave(waiter)
        waiter = hub.join("q", "t", waiter.seal, 20)
        waiter.channel.has_ended = True
    await hub.confirm()
    assert (hub.subscriptions.actual, hub.subscriptions.desired, subscribers(store)) == (1, 1, 1)
    hub.leave(waiter)
    await until(lambda: subscribers(store) == 0, "nobody is subscribed any more")
    await until(lambda: hub.subscriptions.actual == 0, "the hub knows")


async def test_who_comes_back_at_once_finds_the_subscription(hub: ResponseHub, store: Store) -> None:
    first = await waiting(hub, store)
    subscribed = store.raw.info("commandstats")["cmdstat_subscribe"]["calls"]
    hub.leave(first)
    second = hub.join("q", "t", first.seal, 20)
    await hub.confirm()
    assert store.raw.info("commandstats")["cmdstat_subscribe"]["calls"] == subscribed
    await store.transitions.finish("t", succeeded())
    assert (await settled(second)).state is TaskState.SUCCEEDED


async def test_who_comes_back_keeps_the_channel_for_long(
    hub: ResponseHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions_module, "LEAVE_AFTER_S", 0.02)
    monkeypatch.setattr(subscriptions_module, "LEAVE_CHECK_S", 0.01)
    first = await waiting(hub, store)
    hub.leave(first)
    back = hub.join("q", "t", first.seal, 20)
    other = await waiting(hub, store, "other")
    hub.leave(other)
    await until(lambda: subscribers(store, "other") == 0, "a later leave has been done")
    assert subscribers(store) == 1
    hub.leave(back)
    await until(lambda: subscribers(store) == 0, "nobody is subscribed any more")


async def test_leaving_twice_is_leaving_once(hub: ResponseHub, store: Store) -> None:
    waiter = await waiting(hub, store)
    other = hub.join("q", "t", waiter.seal, 20)
    hub.leave(waiter)
    hub.leave(waiter)
    assert hub.held == 1
    hub.leave(other)
    assert hub.held == 0


async def test_nothing_leaks_whatever_the_order(
    hub: ResponseHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions_module, "LEAVE_AFTER_S", 0.01)
    monkeypatch.setattr(subscriptions_module, "LEAVE_CHECK_S", 0.005)

    async def come_and_go(number: int) -> None:
        for _ in range(20):
            waiter = hub.join("q", f"t{number % 7}", "seal", 20)
            if number % 3:
                await hub.confirm()
            hub.leave(waiter)

    await asyncio.gather(*[come_and_go(number) for number in range(30)])
    await until(lambda: hub.subscriptions.actual == hub.subscriptions.desired == 0, "all were left")
    assert (hub.held, hub.subscriptions.leaked) == (0, 0)
    assert store.raw.pubsub_channels("*-response-*") == []


# Messages that are none

FORGERIES = [
    b"",
    b"garbage",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe\xfd",
    b"[" * 5_000,
    b'{"seal":1,"uuid":2,"queue":3,"state":4}',
    b'{"seal":"wrong","uuid":"t","queue":"q","state":"succeeded","attempt":0}',
    b'{"seal":"wrong","uuid":"other","queue":"q","state":"failed"}',
    b'{"seal":"wrong","uuid":"t","queue":"q","state":"no-such-state"}',
    b'{"seal":"wrong","uuid":"t","queue":"q","state":"succeeded","omitted":true}',
    b'{"seal":"wrong","uuid":"t","queue":"q","state":"succeeded","result":' + b"9" * 100_000 + b"}",
    '{"seal":"\ud800"}'.encode("utf-8", "surrogatepass"),
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=range(len(FORGERIES)))
async def test_a_forgery_ends_no_wait(hub: ResponseHub, store: Store, forgery: bytes) -> None:
    waiter = await waiting(hub, store)
    for _ in range(3):
        store.raw.publish("q-response-t", forgery)
    await hub.confirm()
    assert not waiter.is_settled
    await store.transitions.finish("t", succeeded(b"1"))
    assert json.loads((await settled(waiter)).document)["result"] == 1
    assert hub.subscriptions.reconnects == 0


async def test_a_forgery_never_gets_past_the_store(hub: ResponseHub, store: Store) -> None:
    """A message without the seal is a reason to read, and what is read is what the waiter gets."""
    created = await store.create()
    await store.transitions.finish("t", succeeded(b"1"))
    waiter = hub.join("q", "t", created.seal, 20)
    waiter.confirm(created.seal)
    await hub.confirm()
    forged = {"seal": "wrong", "uuid": "t", "queue": "q", "state": "succeeded", "result": 2}
    store.raw.publish("q-response-t", json.dumps(forged))
    assert (await settled(waiter)) == await store.queries.read("t")


async def test_a_doubled_message_is_as_good_as_one(hub: ResponseHub, store: Store) -> None:
    waiter = await waiting(hub, store)
    with store.ear("q-response-*") as ear:
        await store.transitions.finish("t", succeeded())
        ((channel, text),) = ear.messages()
    for _ in range(3):
        store.raw.publish(channel, text)
    await hub.confirm()
    assert (await settled(waiter)).state is TaskState.SUCCEEDED


async def test_a_message_for_a_wait_that_is_over_changes_nothing(hub: ResponseHub, store: Store) -> None:
    waiter = await waiting(hub, store)
    hub.leave(waiter)
    await store.transitions.finish("t", succeeded())
    await hub.confirm()
    assert hub.held == 0


async def test_a_waiter_whose_create_attached_learns_the_true_seal(hub: ResponseHub, store: Store) -> None:
    """Until then the outcome's seal looks wrong to it, and it reads."""
    await store.create()
    waiter = hub.join("q", "t", "the seal of a create that only attached", 20)
    await hub.confirm()
    await store.transitions.finish("t", succeeded())
    assert (await settled(waiter)).state is TaskState.SUCCEEDED


async def test_a_record_that_is_gone_ends_a_confirmed_wait(hub: ResponseHub, store: Store) -> None:
    waiter = await waiting(hub, store)
    unconfirmed = hub.join("q", "t", "seal", 20)
    store.raw.hdel(naming.tasks_key(), "t")
    store.raw.publish("q-response-t", "")
    with pytest.raises(TaskNotFoundError):
        await waiter.wait()
    assert not unconfirmed.is_settled


# Lost messages


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """No outcome is heard; probes are."""
    monkeypatch.setattr(Channel, "take", lambda *_: None)


@pytest.mark.usefixtures("deaf")
async def test_a_lost_message_is_found_by_the_slow_check(
    redis_url: str, store: Store, open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_hub, "REREAD_EVERY_S", 0.05)
    hub = await open_hub(redis_url)
    waiter = await waiting(hub, store)
    await store.transitions.finish("t", succeeded())
    assert (await settled(waiter)).state is TaskState.SUCCEEDED
    assert hub.rescued == 1


# Lost connections


async def test_after_a_kill_everything_is_subscribed_again(
    redis_url: str, store: Store, open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROBE_EVERY_S", 0.1)
    hub = await open_hub(redis_url)
    waiters = [await waiting(hub, store, uuid) for uuid in ("a", "b")]
    await until(lambda: hub.subscriptions.is_delivering, "the probe came through")
    store.raw.client_kill_filter(_type="pubsub")
    await until(
        lambda: hub.subscriptions.reconnects == 1 and hub.subscriptions.actual == 2, "both are subscribed again"
    )
    for uuid, waiter in zip(("a", "b"), waiters, strict=True):
        assert subscribers(store, uuid) == 1
        await store.transitions.finish(uuid, succeeded())
        assert (await settled(waiter)).uuid == uuid
    await until(lambda: hub.subscriptions.is_delivering, "the probe came through again")
    assert hub.subscriptions.leaked == 0


async def test_what_was_published_meanwhile_is_found(proxy: Proxy, store: Store, open_hub: OpenHub) -> None:
    hub = await open_hub(proxy.url)
    waiter, open_still = await waiting(hub, store), await waiting(hub, store, "other")
    await proxy.refuse()
    await until(lambda: hub.subscriptions.actual == 0, "the hub noticed")
    await store.transitions.finish("t", succeeded())
    await proxy.listen()
    assert (await settled(waiter)).state is TaskState.SUCCEEDED
    assert hub.rescued == 1
    assert not open_still.is_settled


async def test_who_joins_while_there_is_no_connection_is_subscribed_with_the_next(
    proxy: Proxy, store: Store, open_hub: OpenHub
) -> None:
    hub = await open_hub(proxy.url)
    created = await store.create()
    await proxy.refuse()
    await until(lambda: not hub.subscriptions.is_delivering, "the hub noticed")
    waiter = hub.join("q", "t", created.seal, 20)
    await proxy.listen()
    await hub.confirm()
    await store.transitions.finish("t", succeeded())
    assert (await settled(waiter)).state is TaskState.SUCCEEDED


async def test_who_left_while_there_was_no_connection_is_not_subscribed_again(
    proxy: Proxy, store: Store, open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions_module, "LEAVE_AFTER_S", 0.01)
    monkeypatch.setattr(subscriptions_module, "LEAVE_CHECK_S", 0.005)
    hub = await open_hub(proxy.url)
    waiter = await waiting(hub, store)
    await proxy.refuse()
    hub.leave(waiter)
    await until(lambda: hub.subscriptions.desired == 0, "the wait is forgotten")
    await proxy.listen()
    await hub.confirm()
    assert subscribers(store) == 0
    assert (hub.subscriptions.actual, hub.subscriptions.leaked) == (0, 0)


async def test_subscriptions_come_before_the_second_look(proxy: Proxy, store: Store, open_hub: OpenHub) -> None:
    """The other order loses what is published in between."""
    hub = await open_hub(proxy.url)
    waiter = await waiting(hub, store)
    seen: list[int] = []
    find_ended = store.queries.find_ended

    async def look(uuids: list[str]) -> list[str]:
        seen.append(subscribers(store))
        return await find_ended(uuids)

    store.queries.find_ended = look  # type: ignore[method-assign,assignment]
    proxy.cut()
    await until(lambda: seen, "the store was looked at")
    assert seen[0] == 1
    hub.leave(waiter)


async def test_a_server_that_is_away_is_told_in_bounded_time(
    proxy: Proxy, open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.store.link.COMMAND_DEADLINE_S", 0.2)
    hub = await open_hub(proxy.url)
    await proxy.refuse()
    with pytest.raises(StoreUnavailableError):
        await hub.confirm()


# Liveness


async def test_a_hub_that_was_just_opened_delivers_soon(hub: ResponseHub) -> None:
    await until(lambda: hub.subscriptions.is_delivering, "the first probe came through", deadline_s=2)
    assert hub.subscriptions.reconnects == 0


class MuteQueries(Queries):
    """Publishes into the void, as a demoted master does."""

    async def publish(self, channel: str, message: str) -> int:
        return 0


async def test_a_connection_that_answers_but_delivers_nothing_is_dropped(
    redis_url: str, store: Store, open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROBE_DEADLINE_S", 0.05)
    monkeypatch.setattr(probe, "PROBE_EVERY_S", 0.05)
    hub = await open_hub(redis_url, MuteQueries(store.link))
    await until(lambda: hub.subscriptions.reconnects >= 2, "dropped, and dropped again")
    assert not hub.subscriptions.is_delivering


async def test_a_frozen_subscription_is_not_called_delivering(
    proxy: Proxy, open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROBE_DEADLINE_S", 0.05)
    monkeypatch.setattr(probe, "PROBE_EVERY_S", 0.05)
    hub = await open_hub(proxy.url)
    await until(lambda: hub.subscriptions.is_delivering, "all is well")
    proxy.freeze()
    await until(lambda: not hub.subscriptions.is_delivering, "the freeze was noticed")
    proxy.thaw()
    await until(lambda: hub.subscriptions.is_delivering, "all is well again")


async def test_a_forged_probe_harms_nothing(hub: ResponseHub, store: Store) -> None:
    await until(lambda: hub.subscriptions.is_delivering, "all is well")
    store.raw.publish(naming.probe_channel("h"), b"\xff")
    await hub.confirm()
    assert hub.subscriptions.reconnects == 0


async def test_closing_leaves_no_connection_and_no_timer(proxy: Proxy, store: Store, open_hub: OpenHub) -> None:
    hub = await open_hub(proxy.url)
    hub.leave(await waiting(hub, store))
    await hub.close()
    await hub.subscriptions.close()
    await until(lambda: proxy.connections == 0, "the connection is gone")


async def test_held_waits_are_counted_by_queue(hub: ResponseHub) -> None:
    waiters = [hub.join(queue, uuid, "s", 20) for queue, uuid in (("a", "1"), ("a", "1"), ("a", "2"), ("b", "3"))]
    assert hub.held_by_queue == {"a": 3, "b": 1}
    for waiter in waiters:
        hub.leave(waiter)
        hub.leave(waiter)
    assert hub.held_by_queue == {}
