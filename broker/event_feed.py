"""A task that is followed in this process: its subscription, and its newest events for all who follow it here."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import Final, Protocol

from broker import naming
from broker.store.event_log import Event, EventLog, EventPage, Place, event

RECENT_EVENTS: Final = 256
RECENT_BYTES: Final = 65_536
"""What a feed keeps; whoever is further behind reads the store."""


class Follower(Protocol):
    """One who follows a task."""

    def look(self) -> None:
        """There may be more in the store."""

    def wake(self) -> None:
        """There is more in the feed."""


class Feed:
    """The feed of one task.

    Args:
        page: What was read of it to begin with.
        log: The store.
    """

    def __init__(self, page: EventPage, log: EventLog) -> None:
        self.uuid = page.uuid
        self.name = naming.events_channel(page.uuid).encode()
        self.followers: set[Follower] = set()
        self.idle_since = 0.0
        self._log = log
        self._reads: dict[Place, asyncio.Task[EventPage]] = {}
        self._recent: deque[Event] = deque()
        self._recent_bytes = 0
        self._begin(page)
        self.note(page)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody follows the task."""
        return bool(self.followers)

    # What is heard

    def take(self, message: bytes) -> None:
        """A message: the next event itself if it has the task's seal and nothing is missing before it, else a hint."""
        if not self.followers:
            return
        heard = self._event_of(message)
        if heard is None or heard.number > self.newest + 1:
            self.look()
        elif heard.number == self.newest + 1:
            self._add(heard)
            for follower in self.followers:
                follower.wake()

    def look(self) -> None:
        """There may be more in the store than is known here."""
        for follower in self.followers:
            follower.look()

    def _event_of(self, message: bytes) -> Event | None:
        """The event that a message carries, if the script that stored it has published it, and it was short enough."""
        parts = message.split(b" ", 2)
        if len(parts) < 3 or parts[0] != self._seal or not parts[1].isdigit():
            return None
        return event(int(parts[1]), parts[2])

    # What is known

    def after(self, place: Place) -> list[Event]:
        """The events behind a place as far as they are here. With none there may be some in the store."""
        first = self._recent[0].number if self._recent else self.newest + 1
        if place.created_ms != self.created_ms or not first <= place.number + 1 <= self.newest:
            return []
        return list(islice(self._recent, place.number + 1 - first, None))

    def is_ahead_of(self, place: Place) -> bool:
        """Whether there are events behind a place, here or in the store."""
        return place.created_ms != self.created_ms or self.newest > place.number

    async def read(self, after: Place) -> EventPage:
        """A page of the store, read once for all who ask for it at the same time. Raises as `EventLog.read` does."""
        reading = self._reads.get(after)
        if reading is None:
            reading = self._reads[after] = asyncio.create_task(self._read(after))
        # Whoever leaves meanwhile must not take it from the others.
        return await asyncio.shield(reading)

    async def _read(self, after: Place) -> EventPage:
        try:
            page = await self._log.read(self.uuid, after)
        finally:
            del self._reads[after]
        self.note(page)
        return page

    def note(self, page: EventPage) -> None:
        """Somebody has read this page."""
        was_taken_back = page.is_reset and page.newest < self.newest
        if page.created_ms != self.created_ms or page.after > self.newest or was_taken_back:
            self._begin(page)
        for found in page.events:
            if found.number == self.newest + 1:
                self._add(found)

    def _begin(self, page: EventPage) -> None:
        """Of another task of that uuid, further on than what is known, or behind what a failover has taken back."""
        self._seal = page.seal.encode()
        self.created_ms = page.created_ms
        self.newest = page.after
        self._recent.clear()
        self._recent_bytes = 0

    def _add(self, new: Event) -> None:
        self.newest = new.number
        self._recent.append(new)
        self._recent_bytes += len(new.value)
        while self._recent_bytes > RECENT_BYTES or len(self._recent) > RECENT_EVENTS:
            self._recent_bytes -= len(self._recent.popleft().value)
