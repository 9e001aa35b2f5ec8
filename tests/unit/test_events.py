"""Following tasks through a `Broker`, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

import pytest

from broker import Broker, EventKind, Settings, Task, TaskEvent, TaskNotFoundError, TooManyWaitersError
from broker import events as events_module
from broker.event_feed import RECENT_EVENTS, Feed
from broker.response_hub import Channel
from broker.store.claims import Claimed, ClaimWish
from broker.store.event_log import EventLog, EventPage, Place
from tests.support.store import LONG_MS, new_task, until

MOST_KEPT: Final = 20


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[Broker]:
    settings = Settings(redis_url=redis_url, events_kept=MOST_KEPT, max_waiters=60)
    async with Broker(settings, sweeps=False) as broker:
        yield broker


class Work:
    """A task that somebody works on."""

    def __init__(self, broker: Broker, claimed: Claimed) -> None:
        self._broker = broker
        self.uuid = claimed.uuid
        self.lease = claimed.lease
        self.created_ms = claimed.created_ms

    async def tell(self, *numbers: int) -> None:
        """Reports each."""
        for number in numbers:
            await self._broker.transitions.extend(self.uuid, self.lease, LONG_MS, b"%d" % number)

    async def end(self) -> None:
        """Succeeds."""
        await self._broker.change(self.uuid, lease=self.lease)

    def id(self, number: int) -> str:
        """Of the event of this number."""
        return Place(self.created_ms, number).text


@pytest.fixture
async def work(broker: Broker) -> Work:
    await broker.create("q", uuid="t")
    (claimed,) = (await broker.transitions.claim("w", LONG_MS, [ClaimWish("q", 1)])).tasks
    return Work(broker, claimed)


class Reader:
    """Follows a task and keeps what it is told."""

    def __init__(self, broker: Broker, uuid: str = "t", after: str | None = None) -> None:
        self._events = broker.events(uuid, after=after)
        self.told: list[TaskEvent] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                self.told.append(event)

    @property
    def values(self) -> list[object]:
        """The values of the progress."""
        return [event.data for event in self.told if event.kind is EventKind.PROGRESS]

    @property
    def kinds(self) -> list[str]:
        """What the events say, each run of the same once."""
        kinds = [str(event.kind) for event in self.told]
        return [kind for index, kind in enumerate(kinds) if index == 0 or kinds[index - 1] != kind]

    async def until_told(self, number: int) -> None:
        """Returns once so many events were told."""
        await until(lambda: len(self.told) >= number or self.reading.done(), f"{number} events, not {self.told}")

    async def to_the_end(self) -> None:
        """Returns once there are no more."""
        async with asyncio.timeout(10):
            await self.reading

    async def leave(self) -> None:
        """Hangs up."""
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)


def streams(broker: Broker) -> int:
    return broker.event_streams.held


async def test_all_that_is_told_and_the_end(broker: Broker, work: Work) -> None:
    await work.tell(1, 2)
    reader = Reader(broker)
    await reader.until_told(2)
    await work.tell(3)
    await reader.until_told(3)
    await work.end()
    await reader.to_the_end()
    assert [(event.id, event.kind, event.data) for event in reader.told[:3]] == [
        (work.id(number), EventKind.PROGRESS, number) for number in (1, 2, 3)
    ]
    end = reader.told[3]
    assert (end.id, end.kind) == (work.id(4), EventKind.STATE)
    assert isinstance(end.data, Task)
    assert (end.data.state, end.data.last_progress) == ("succeeded", 3)
    assert streams(broker) == broker.hub.held == 0


async def test_following_an_ended_task(broker: Broker, work: Work) -> None:
    await work.tell(1, 2, 3)
    await work.end()
    for after, kinds, values in (
        (None, ["progress", "state"], [1, 2, 3]),
        (work.id(2), ["progress", "state"], [3]),
        (work.id(3), ["state"], []),
        (work.id(4), [], []),
        (work.id(5), ["reset", "state"], []),
        ("nonsense", ["reset", "state"], []),
    ):
        reader = Reader(broker, after=after)
        await reader.to_the_end()
        assert (reader.kinds, reader.values) == (kinds, values), after
    assert broker.subscriptions.desired == 0


async def test_what_is_not_kept_is_a_reset(broker: Broker, work: Work) -> None:
    await work.tell(*range(1, MOST_KEPT + 11))
    reader = Reader(broker, after=work.id(9))
    await reader.until_told(1)
    await work.tell(77)
    await reader.until_told(2)
    assert [(event.id, event.kind) for event in reader.told] == [
        (work.id(MOST_KEPT + 10), EventKind.RESET),
        (work.id(MOST_KEPT + 11), EventKind.PROGRESS),
    ]
    assert reader.told[0].data.last_progress == MOST_KEPT + 10
    kept = Reader(broker, after=work.id(11))
    await kept.until_told(MOST_KEPT)
    assert kept.values[0] == 12
    await reader.leave()
    await kept.leave()


async def test_a_task_of_the_same_name_is_another_stream(broker: Broker, work: Work) -> None:
    await work.tell(1, 2)
    first = Reader(broker)
    await first.until_told(2)
    await work.end()
    await first.to_the_end()
    await broker.housekeeping.sweep_retained(0, 0)
    created_ms = work.created_ms
    while created_ms == work.created_ms:
        await broker.housekeeping.sweep_retained(0, 0)
        created_ms = (await broker.transitions.create(new_task())).created_ms
        await broker.cancel("t") if created_ms == work.created_ms else None
    second = Reader(broker, after=first.told[1].id)
    await second.until_told(1)
    assert second.kinds == ["reset"]
    assert second.told[0].data.state == "pending"
    await second.leave()


async def test_nobody_knows_such_a_task(broker: Broker) -> None:
    reader = Reader(broker, "nobody")
    with pytest.raises(TaskNotFoundError):
        await reader.reading


async def test_every_message_is_lost(broker: Broker, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "CHECK_EVERY_S", 0.02)
    monkeypatch.setattr(Feed, "take", lambda *_: None)
    monkeypatch.setattr(Channel, "take", lambda *_: None)
    readers = [Reader(broker) for _ in range(3)]
    for number in range(1, 31):
        await work.tell(number)
        await asyncio.sleep(0)
        if number % 10 == 0:
            await asyncio.gather(*(reader.until_told(number) for reader in readers))
    await work.end()
    for reader in readers:
        await reader.to_the_end()
        assert reader.values == list(range(1, 31))
        assert reader.kinds == ["progress", "state"]


async def test_messages_that_lie(broker: Broker, work: Work) -> None:
    await work.tell(1)
    seal = (await broker.queries.read("t")).seal
    reader = Reader(broker)
    await reader.until_told(1)
    for message in (f"{seal[:-1]}? 2 666", "", "666", f"{seal} 1 666", f"{seal} 9 666", f"{seal} x 666", "\0 \0 \0"):
        await broker.queries.publish("broker:events:t", message)
    await work.tell(2)
    await work.end()
    await reader.to_the_end()
    assert reader.values == [1, 2]


async def test_a_cut_connection_loses_nothing(broker: Broker, work: Work) -> None:
    reader = Reader(broker)
    await work.tell(1)
    await reader.until_told(1)
    broker.subscriptions.link.drop("a test wants it")
    await work.tell(2, 3)
    await reader.until_told(3)
    await work.end()
    await reader.to_the_end()
    assert reader.values == [1, 2, 3]


async def test_many_readers_cost_one(broker: Broker, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    read = EventLog.read

    async def counted(self: EventLog, uuid: str, after: Place | None = None) -> EventPage:
        nonlocal reads
        reads += 1
        return await read(self, uuid, after)

    monkeypatch.setattr(EventLog, "read", counted)
    readers = [Reader(broker) for _ in range(50)]
    await until(lambda: streams(broker) == 50, "all follow")
    await broker.subscriptions.confirm()
    await work.tell(1)
    await asyncio.gather(*(reader.until_told(1) for reader in readers))
    before = reads
    for number in range(2, 32):
        await work.tell(number)
    await work.end()
    for reader in readers:
        await reader.to_the_end()
        assert reader.values == list(range(1, 32))
    # The end is read, and perhaps what the slow check finds meanwhile: never once for each.
    assert reads - before < 25
    assert broker.hub.held == streams(broker) == 0


async def test_nothing_is_left_of_streams_that_were_closed(broker: Broker, work: Work) -> None:
    for _ in range(3):
        readers = [Reader(broker) for _ in range(20)]
        await work.tell(1)
        await asyncio.gather(*(reader.until_told(1) for reader in readers))
        await asyncio.gather(*(reader.leave() for reader in readers))
    assert streams(broker) == broker.hub.held == 0
    await until(lambda: broker.subscriptions.desired == broker.subscriptions.actual == 0, "no channel is left")
    assert broker.subscriptions.leaked == 0


async def test_no_more_streams_than_calls_may_be_held(broker: Broker, work: Work) -> None:
    readers = [Reader(broker) for _ in range(60)]
    await until(lambda: streams(broker) == 60, "all follow")
    with pytest.raises(TooManyWaitersError):
        await anext(broker.events("t"))
    await asyncio.gather(*(reader.leave() for reader in readers))


async def test_a_slow_reader_begins_anew(broker: Broker, work: Work) -> None:
    await work.tell(1)
    stream = await broker.event_streams.open("t")
    assert stream is not None
    (first,) = await stream.next(5)
    assert first.data == b"1"
    await work.tell(*range(2, RECENT_EVENTS + MOST_KEPT))
    told = await stream.next(5)
    assert [event.kind for event in told] == [EventKind.RESET]
    await work.end()
    assert [event.kind for event in await stream.next(5)] == [EventKind.STATE]
    stream.close()


async def test_a_process_that_ends_ends_its_streams(redis_url: str) -> None:
    async with Broker(Settings(redis_url=redis_url), sweeps=False) as broker:
        await broker.create("q", uuid="t")
        reader = Reader(broker)
        await until(lambda: streams(broker) == 1, "it is followed")
    await reader.to_the_end()
    assert reader.told == []


async def test_nothing_to_tell_in_time(broker: Broker, work: Work) -> None:
    stream = await broker.event_streams.open("t")
    assert stream is not None
    assert (await stream.next(0.05), stream.is_over) == ([], False)
    await work.end()
    assert [event.kind for event in await stream.next(5)] == [EventKind.STATE]
    assert (await stream.next(5), stream.is_over) == ([], True)
    stream.close()
    stream.close()
