"""The streams of task events that one process holds.

A stream reads, subscribes, and once that is confirmed reads again; from then on messages say when there is more, or
bring it. A slow check finds what lost messages would have told. Nothing is queued for a stream: it takes its next
events when it has passed the last ones on, and who falls behind what is kept is told to begin anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Final

import msgspec

from broker.background import Background
from broker.capacity import Capacity
from broker.deadlines import MOST_S
from broker.errors import BrokerError, StoreError, StoreUnavailableError, TaskNotFoundError
from broker.event_feed import Feed
from broker.response_hub import ResponseHub, Waiter
from broker.store.event_log import Event, EventLog, EventPage, Place, place_of
from broker.subscriptions import Subscriptions
from broker.task import TaskState
from broker.task_event import EventKind

log = logging.getLogger("broker.events")

CHECK_EVERY_S: Final = 1.5
"""How often all followed tasks are compared with the store, should a message have been lost."""
READ_AGAIN_S: Final = 0.5
"""How long a stream waits after a read that failed."""


class StreamEvent(msgspec.Struct, frozen=True):
    """One event on its way out. `data` is JSON text on one line; `state` is the task's where `data` is the task."""

    id: str
    kind: EventKind
    data: bytes
    state: TaskState | None = None


class EventStream:
    """One who follows a task: call `next` until `is_over`, then `close`.

    Args:
        page: What was read to begin with.
        feed: Of the task.
    """

    def __init__(self, page: EventPage, feed: Feed) -> None:
        self.uuid = page.uuid
        self.is_over = False
        self._page: EventPage | None = page
        self._place = Place(page.created_ms, page.after)
        self._feed = feed
        self._end: Waiter | None = None
        self._leave: Callable[[], None] | None = None
        self._woken = asyncio.Event()
        self._is_to_look = True
        self._was_read_since_the_end = False

    async def next(self, timeout: float) -> list[StreamEvent]:
        """The next events; none when the time is over, and none when the stream is.

        Args:
            timeout: Seconds to wait for the first of them.

        Raises:
            TaskNotFoundError: The task's record is gone.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self.is_over:
                    self._woken.clear()
                    if found := await self._find():
                        return found
                    if not self.is_over and not self._has_more and not self._has_ended:
                        await self._woken.wait()
        return []

    def close(self) -> None:
        """Ends it from the reader's side."""
        self.is_over = True
        if self._leave is not None:
            self._leave()
            self._leave = None

    # Of whoever holds it

    def hold(self, end: Waiter, leave: Callable[[], None]) -> None:
        """The task is open: more is to come, until `end` is settled. `leave` is called when the reader goes."""
        self._end, self._leave = end, leave
        end.call_when_settled(self.look)

    def look(self) -> None:
        """There may be more in the store."""
        self._is_to_look = True
        self._woken.set()

    def wake(self) -> None:
        """There is more in the feed."""
        self._woken.set()

    # Steps

    @property
    def _has_more(self) -> bool:
        return self._is_to_look or self._feed.is_ahead_of(self._place)

    @property
    def _has_ended(self) -> bool:
        """Nothing will be heard any more: the task has ended, or this process does."""
        return self._end is None or self._end.is_settled

    async def _find(self) -> list[StreamEvent]:
        if self._page is not None:
            page, self._page = self._page, None
            return self._take(page)
        if events := self._feed.after(self._place):
            return self._passed_on(events)
        if self._has_more or (self._has_ended and not self._was_read_since_the_end):
            return await self._read()
        # The task goes on where nothing follows its end, but this process does not.
        self.is_over = self._has_ended
        return []

    async def _read(self) -> list[StreamEvent]:
        self._is_to_look, has_ended = False, self._has_ended
        try:
            page = await self._feed.read(self._place)
        except (StoreUnavailableError, StoreError) as error:
            await self._wait_for_store(error)
            return []
        except TaskNotFoundError:
            self.is_over = True
            raise
        except asyncio.CancelledError:
            # The time was over.
            self._is_to_look = True
            raise
        self._was_read_since_the_end = has_ended
        found = self._take(page)
        if not found and self._feed.is_ahead_of(self._place) and not self._feed.after(self._place):
            # What was announced is not there: a failover took it back.
            await asyncio.sleep(READ_AGAIN_S)
        return found

    async def _wait_for_store(self, error: BrokerError) -> None:
        if self._has_ended:
            self.is_over = True
            return
        log.warning("The events of task %s could not be read (%s); they will be.", self.uuid, error)
        self._is_to_look = True
        await asyncio.sleep(READ_AGAIN_S)

    def _take(self, page: EventPage) -> list[StreamEvent]:
        found: list[StreamEvent] = []
        self._place = Place(page.created_ms, page.end)
        self._is_to_look = self._is_to_look or page.end < page.newest
        if page.is_reset:
            found.append(StreamEvent(self._place.text, EventKind.RESET, page.document or b"", page.state))
        found += self._passed_on(page.events)
        if page.is_last:
            self.is_over = True
            end = Place(page.created_ms, page.newest + 1)
            found.append(StreamEvent(end.text, EventKind.STATE, page.document or b"", page.state))
        return found

    def _passed_on(self, events: list[Event]) -> list[StreamEvent]:
        created_ms = self._place.created_ms
        if events:
            self._place = Place(created_ms, events[-1].number)
        return [StreamEvent(Place(created_ms, number).text, EventKind.PROGRESS, value) for number, value in events]


class EventStreams:
    """All streams of one process.

    Args:
        subscriptions: Where it is heard that there is more.
        hub: Where the ends of tasks are heard; it counts streams among its held waits, and ends them with these.
        log: The store.
        capacity: The held calls of this process; streams are counted among the hub's.
    """

    def __init__(self, subscriptions: Subscriptions, hub: ResponseHub, log: EventLog, capacity: Capacity) -> None:
        self._subscriptions = subscriptions
        self._hub = hub
        self._log = log
        self._capacity = capacity
        self._background = Background()
        self.held = 0
        subscriptions.on_recovered(self._look_at_all)

    def start(self) -> None:
        """Begins to compare what is known with the store now and then."""
        self._background.keep(self._check_forever, "check of events")

    async def close(self) -> None:
        """Ends what runs beside the streams."""
        await self._background.cancel()

    async def open(self, uuid: str, after: str | None = None) -> EventStream | None:
        """Follows a task.

        Args:
            uuid: The task.
            after: The id of the event to go on behind; None for the first that is kept.

        Returns:
            The stream, or None when nothing follows that event for good: it is the task's end.

        Raises:
            TaskNotFoundError: There is no record of the task.
            TooManyWaitersError: It is open, and no more calls are held here.
            StoreUnavailableError
        """
        page = await self._log.read(uuid, None if after is None else place_of(after))
        if page.is_last and page.after > page.newest:
            return None
        if page.state.is_terminal:
            return EventStream(page, Feed(page, self._log))
        self._capacity.refuse_beyond()
        return self._hold(page)

    def _hold(self, page: EventPage) -> EventStream:
        feed = self._feed_of(page)
        stream = EventStream(page, feed)
        feed.followers.add(stream)
        end = self._hub.join(page.queue, page.uuid, page.seal, MOST_S)
        end.confirm(page.seal)
        self.held += 1

        def leave() -> None:
            self.held -= 1
            feed.followers.discard(stream)
            self._hub.leave(end)
            if not feed.followers:
                self._subscriptions.leave_soon(feed)

        stream.hold(end, leave)
        self._background.spawn(self._look_once_subscribed(stream), "read behind a subscription")
        return stream

    def _feed_of(self, page: EventPage) -> Feed:
        new = Feed(page, self._log)
        known = self._subscriptions.find(new.name)
        if isinstance(known, Feed):
            known.note(page)
            return known
        self._subscriptions.join(new)
        return new

    async def _look_once_subscribed(self, stream: EventStream) -> None:
        # In an outage nothing is missed: once it is over, everybody looks.
        with contextlib.suppress(StoreUnavailableError):
            await self._subscriptions.confirm()
            stream.look()

    # Should messages be lost

    async def _look_at_all(self) -> None:
        for feed in self._feeds():
            feed.look()

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S * random.uniform(0.85, 1.15))  # noqa: S311
            try:
                await self._check()
            except (StoreUnavailableError, StoreError) as error:
                log.warning("Followed tasks could not be checked (%s); the next round will.", error)

    async def _check(self) -> None:
        feeds = {feed.uuid: feed for feed in self._feeds()}
        for uuid in await self._log.find_changed({uuid: feed.newest for uuid, feed in feeds.items()}):
            feeds[uuid].look()

    def _feeds(self) -> list[Feed]:
        return [topic for topic in self._subscriptions.topics if isinstance(topic, Feed) and topic.is_wanted]
