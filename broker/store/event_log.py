"""Reads of what tasks have told while they ran: the values of their progress, numbered from 1 over all attempts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from broker import naming
from broker.errors import TaskNotFoundError
from broker.store import scripts
from broker.store.codes import Code
from broker.store.commands import Sender
from broker.task import TaskState

PAGE_EVENTS: Final = 500
PAGE_BYTES: Final = 65_536
"""A page ends with the event that makes it longer than this: as much as a connection takes before it says "wait"."""
TASKS_PER_SCRIPT: Final = 500

_place = re.compile(r"([0-9a-f]{1,13})-([0-9]{1,15})")
_line_breaks: Final = bytes.maketrans(b"\r\n", b"  ")


class Place(NamedTuple):
    """Where a reader is: behind the event of this number, of the task that was created at this time.

    A uuid may be used again once its record is gone, which begins another stream.
    """

    created_ms: int
    number: int

    @property
    def text(self) -> str:
        """What callers have as the event's id; opaque to them."""
        return f"{self.created_ms:x}-{self.number}"


NOWHERE: Final = Place(0, 0)
"""A place in no stream."""


def place_of(text: str) -> Place:
    """The place that an id stands for; `NOWHERE` for what is no id."""
    found = _place.fullmatch(text)
    return NOWHERE if found is None else Place(int(found[1], 16), int(found[2]))


class Event(NamedTuple):
    """One value of a task's progress, as JSON text on one line."""

    number: int
    value: bytes


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some events of a task in order, and the task as it was at that moment.

    `after` is the number before the first event, `newest` that of the task's newest one. `is_reset` says that what
    follows the asked place is not kept, or never was: the page is empty then, and goes on behind the newest.
    `document` is the task JSON on one line, there with a reset and with the last page of an ended task. `seal` never
    leaves the process.
    """

    uuid: str
    queue: str
    seal: str
    state: TaskState
    created_ms: int
    newest: int
    is_reset: bool
    after: int
    document: bytes | None
    events: list[Event]

    @property
    def end(self) -> int:
        """The number of the last event here, or the one to go on behind."""
        return self.after + len(self.events)

    @property
    def is_last(self) -> bool:
        """Whether an ended task has no events behind this page."""
        return self.state.is_terminal and self.end >= self.newest


class EventLog:
    """Every read of events.

    Args:
        link: What the reads are sent by.
        aside: The same connection for what nobody is told of; None for `link` itself.
    """

    def __init__(self, link: Sender, aside: Sender | None = None) -> None:
        self._link = link
        self._aside = aside or link

    async def read(self, uuid: str, after: Place | None = None) -> EventPage:
        """A page of events.

        Args:
            uuid: The task.
            after: Where to go on; None for the first that is kept.

        Raises:
            TaskNotFoundError: There is no record of it.
        """
        place = () if after is None else (after.number, after.created_ms)
        reply = await self._link.send(
            scripts.READ_EVENTS.command(naming.tasks_key(), uuid, PAGE_EVENTS, PAGE_BYTES, *place, repeatable=True)
        )
        if reply[0] == Code.NOT_FOUND:
            raise TaskNotFoundError(uuid)
        number = reply[7]
        return EventPage(
            uuid=uuid,
            queue=reply[1].decode(),
            seal=reply[2].decode(),
            state=TaskState(reply[3].decode()),
            created_ms=int(reply[4]),
            newest=reply[5],
            is_reset=reply[6] == b"1",
            after=number,
            document=None if reply[8] is None else one_line(reply[8]),
            events=[event(number + index, value) for index, value in enumerate(reply[9:], 1)],
        )

    async def find_changed(self, known: Mapping[str, int]) -> list[str]:
        """Those of the tasks that have ended, are gone, or have another newest event.

        Args:
            known: The number of the newest event by uuid.
        """
        pairs = list(known.items())
        found: list[str] = []
        for start in range(0, len(pairs), TASKS_PER_SCRIPT):
            words = [word for pair in pairs[start : start + TASKS_PER_SCRIPT] for word in pair]
            command = scripts.FIND_EVENTS.command(naming.tasks_key(), *words, repeatable=True)
            found += [uuid.decode() for uuid in await self._aside.send(command)]
        return found


def event(number: int, value: bytes) -> Event:
    """An event of a value as it was received."""
    return Event(number, one_line(value))


def one_line(text: bytes) -> bytes:
    """JSON text on one line: line breaks stand between its tokens only, where a space means as much."""
    return text.translate(_line_breaks)
