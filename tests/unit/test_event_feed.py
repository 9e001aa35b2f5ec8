"""What a feed takes for the next event, what it keeps, and how often it reads."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from broker.errors import StoreUnavailableError
from broker.event_feed import RECENT_BYTES, RECENT_EVENTS, Feed
from broker.store.event_log import Event, EventPage, Place
from broker.task import TaskState


def page_of(after: int = 0, *values: bytes, newest: int = 0, created_ms: int = 1, is_reset: bool = False) -> EventPage:
    return EventPage(
        uuid="a-b",
        queue="q",
        seal=f"seal{created_ms}",
        state=TaskState.RUNNING,
        created_ms=created_ms,
        newest=max(newest, after + len(values)),
        is_reset=is_reset,
        after=after,
        document=None,
        events=[Event(number, value) for number, value in enumerate(values, after + 1)],
    )


class Log:
    """Answers when it is told to."""

    def __init__(self, *pages: EventPage | Exception) -> None:
        self.pages = list(pages)
        self.asked: list[Place] = []
        self.may_answer = asyncio.Event()

    async def read(self, _uuid: str, after: Place) -> EventPage:
        self.asked.append(after)
        await self.may_answer.wait()
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return page


class Follower:
    def __init__(self) -> None:
        self.looks = 0
        self.wakes = 0

    def look(self) -> None:
        self.looks += 1

    def wake(self) -> None:
        self.wakes += 1


def followed(page: EventPage, log: Any = None) -> tuple[Feed, Follower]:
    feed, follower = Feed(page, log), Follower()
    feed.followers.add(follower)
    return feed, follower


def numbers(feed: Feed, after: int, created_ms: int = 1) -> list[int]:
    return [event.number for event in feed.after(Place(created_ms, after))]


def test_the_next_event_comes_with_its_message() -> None:
    feed, follower = followed(page_of(0, b"1", b"2"))
    feed.take(b"seal1 3 [3, \n 4]")
    assert feed.after(Place(1, 2)) == [Event(3, b"[3,   4]")]
    assert numbers(feed, 0) == [1, 2, 3]
    assert (follower.wakes, follower.looks) == (1, 0)
    assert feed.name == b"broker:events:a.b"


@pytest.mark.parametrize("message", [b"seal2 3 x", b"seal1 3", b"seal1 x 3", b"", b"seal1 4 x", b"seal1 -3 x"])
def test_any_other_message_is_a_reason_to_read(message: bytes) -> None:
    feed, follower = followed(page_of(0, b"1", b"2"))
    feed.take(message)
    assert (follower.wakes, follower.looks, feed.newest) == (0, 1, 2)


@pytest.mark.parametrize("message", [b"seal1 2 x", b"seal1 1 x", b"seal1 0 x"])
def test_an_event_that_is_known_tells_nothing(message: bytes) -> None:
    feed, follower = followed(page_of(0, b"1", b"2"))
    feed.take(message)
    assert (follower.wakes, follower.looks) == (0, 0)


def test_nobody_follows_any_more() -> None:
    feed = Feed(page_of(0, b"1"), Log())  # type: ignore[arg-type]
    feed.take(b"seal1 2 x")
    assert (feed.newest, feed.is_wanted) == (1, False)


def test_only_the_newest_are_here() -> None:
    feed, _ = followed(page_of())
    for number in range(1, RECENT_EVENTS + 11):
        feed.take(b"seal1 %d 0" % number)
    assert numbers(feed, 9) == []
    assert len(numbers(feed, 10)) == RECENT_EVENTS
    assert feed.is_ahead_of(Place(1, 9))
    feed.take(b"seal1 %d " % (RECENT_EVENTS + 11) + b"x" * (RECENT_BYTES + 1))
    assert numbers(feed, RECENT_EVENTS + 10) == []
    assert feed.is_ahead_of(Place(1, RECENT_EVENTS + 10))


def test_who_follows_another_task_of_that_name_reads() -> None:
    feed, _ = followed(page_of(0, b"1", b"2"))
    assert numbers(feed, 0, created_ms=7) == []
    assert feed.is_ahead_of(Place(7, 2))
    feed.note(page_of(0, b"9", created_ms=7))
    assert (feed.newest, numbers(feed, 0, created_ms=7), numbers(feed, 0)) == (1, [1], [])
    feed.take(b"seal7 2 x")
    assert feed.newest == 2


def test_pages_that_are_read() -> None:
    feed, _ = followed(page_of(0, b"1"))
    feed.note(page_of(0, b"1", b"2", b"3"))
    assert numbers(feed, 0) == [1, 2, 3]
    feed.note(page_of(1, b"2"))
    assert feed.newest == 3
    feed.note(page_of(8, b"9"))
    assert (numbers(feed, 0), numbers(feed, 8)) == ([], [9])
    feed.note(page_of(4, newest=4, is_reset=True))
    assert (feed.newest, numbers(feed, 0)) == (4, [])


async def test_who_asks_at_the_same_time_shares_a_read() -> None:
    log = Log(page_of(3, b"4"), page_of(0, b"1"), page_of(3, b"4"))
    feed, _ = followed(page_of(3), log)
    reads = [asyncio.create_task(feed.read(Place(1, number))) for number in (3, 3, 0, 3)]
    await asyncio.sleep(0)
    reads[0].cancel()
    log.may_answer.set()
    pages = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(pages[0], asyncio.CancelledError)
    assert pages[1] is pages[3]
    assert log.asked == [Place(1, 3), Place(1, 0)]
    await feed.read(Place(1, 3))
    assert len(log.asked) == 3


async def test_a_read_that_fails_is_tried_anew_by_the_next() -> None:
    log = Log(StoreUnavailableError("away"), page_of(0, b"1"))
    log.may_answer.set()
    feed, _ = followed(page_of(), log)
    with pytest.raises(StoreUnavailableError):
        await feed.read(Place(1, 0))
    assert msgspec.structs.asdict(await feed.read(Place(1, 0)))["events"] == [Event(1, b"1")]
