"""Reads of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from broker import naming
from broker.errors import BrokerError, StoreError, TaskNotFoundError
from broker.store import scripts
from broker.store.codes import Code
from broker.store.commands import Command, Receiver, Reply, Sender
from broker.task import TaskState

LOOKS_PER_SCRIPT: Final = 500
"""Records that one script looks at: about a millisecond of the server's time."""
MOST_LOOKS: Final = 10_000
"""Records that one page looks at: a filter that few tasks pass gives short pages instead of slow ones."""
PAGE_BYTES: Final = 4 * 2**20
"""A page ends with the task that makes it longer than this."""
QUEUES_PER_SCRIPT: Final = 50
SEVERAL_PER_SCRIPT: Final = 100
"""Tasks that are read as one picture at most: less than a millisecond of the server's time."""
MOST_QUEUES: Final = 1_000


class StoredListItem(msgspec.Struct, frozen=True):
    """A task of a list. `document` is the task JSON."""

    uuid: str
    state: TaskState
    document: bytes


class StoredTask(msgspec.Struct, frozen=True):
    """A task as it is stored now. `document` is the task JSON; `seal` never leaves the process."""

    uuid: str
    queue: str
    seal: str
    state: TaskState
    document: bytes


class Page(msgspec.Struct, frozen=True):
    """Tasks, newest created first, and where to go on below them; no cursor at the end."""

    items: list[StoredListItem]
    cursor: str | None


class QueueLimits(msgspec.Struct, frozen=True):
    """What is limited of a queue; None where it is not."""

    max_running: int | None = None
    max_rate_per_s: float | None = None


class QueueNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue holds and who is there for it.

    `pending` are claimable, `delayed` will be; `deferred` wait for a third party. `oldest_pending_age` are the seconds
    since the creation of the oldest claimable task.
    """

    queue: str
    pending: int
    running: int
    deferred: int
    delayed: int
    oldest_pending_age: float | None
    workers: int
    waiters: int
    limits: QueueLimits | None = None


class Fileless(msgspec.Struct, frozen=True):
    """Tasks that need no file. Of those without a record, some may be on their way to one."""

    without_record: list[str]
    dropped: list[str]


_limits_decoder = msgspec.json.Decoder(QueueLimits)


class Queries:
    """Every read.

    Args:
        link: What the reads are sent by.
        aside: The same connection for what nobody is told of; None for `link` itself.
    """

    def __init__(self, link: Sender, aside: Sender | None = None) -> None:
        self._link = link
        self._aside = aside or link

    async def read(self, uuid: str) -> StoredTask:
        """Reads one task.

        Raises:
            TaskNotFoundError: There is no record of it.
        """
        return read_found(await self._link.send(_read(uuid)), uuid)

    def hand_read(self, uuid: str, receiver: Receiver) -> None:
        """The same for a receiver, which is given a reply that `read_found` knows."""
        self._link.hand(_read(uuid), receiver)

    async def read_several(self, uuids: Sequence[str], *, most_bytes: int) -> list[StoredTask | BrokerError]:
        """Reads up to `SEVERAL_PER_SCRIPT` tasks as one picture, each with an answer of its own.

        Args:
            uuids: In the order of the answers.
            most_bytes: Task JSON beyond this is left where it is: such a task has an empty document.

        Raises:
            StoreUnavailableError
        """
        if not uuids:
            return []
        command = scripts.READ_TASKS.command(naming.tasks_key(), most_bytes, *uuids, repeatable=True)
        return [_task_or_error(uuid, row) for uuid, row in zip(uuids, await self._link.send(command), strict=True)]

    async def find_ended(self, uuids: Sequence[str]) -> list[str]:
        """Those of `uuids` (a few hundred at most) whose tasks have ended or are gone."""
        if not uuids:
            return []
        reply = await self._aside.send(scripts.FIND_ENDED.command(naming.tasks_key(), *uuids, repeatable=True))
        return [uuid.decode() for uuid in reply]

    async def find_fileless(self, uuids: Sequence[str]) -> Fileless:
        """Those of `uuids` (a few hundred at most) that have no record, and those that a full queue has dropped."""
        if not uuids:
            return Fileless([], [])
        command = scripts.FIND_FILELESS.command(naming.tasks_key(), *uuids, repeatable=True)
        without_record, dropped = await self._aside.send(command)
        return Fileless([uuid.decode() for uuid in without_record], [uuid.decode() for uuid in dropped])

    async def list_tasks(
        self, *, queue: str | None = None, state: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page:
        """A page of tasks, newest created first; it may be short while it has a cursor.

        Args:
            queue: Only this queue's.
            state: Only those in this state now.
            cursor: Of the page before.
            limit: Tasks at most.
        """
        items: list[StoredListItem] = []
        place, looks, size = _place_of(cursor), 0, 0
        while place and len(items) < limit and looks < MOST_LOOKS and size < PAGE_BYTES:
            place, looked, found = await self._look(place, limit - len(items), queue or "", state or "")
            items += found
            looks += looked
            size += sum(len(item.document) for item in found)
        return Page(items, f"{int(place):x}" if place else None)

    async def _look(self, below: str, most: int, queue: str, state: str) -> tuple[str, int, list[StoredListItem]]:
        reply = await self._link.send(
            scripts.LIST_TASKS.command(
                naming.created_key(), below, most, LOOKS_PER_SCRIPT, PAGE_BYTES, queue, state, repeatable=True
            )
        )
        rows = zip(reply[2::3], reply[3::3], reply[4::3], strict=True)
        found = [StoredListItem(uuid.decode(), TaskState(state.decode()), document) for uuid, state, document in rows]
        return (reply[0] or b"").decode(), reply[1], found

    async def read_queues(self) -> list[QueueNumbers]:
        """The numbers of the known queues, by name; of more than `MOST_QUEUES`, those that were noted last."""
        command = Command(("ZREVRANGE", naming.queues_key(), "0", str(MOST_QUEUES - 1)), repeatable=True)
        names = sorted(name.decode() for name in await self._link.send(command))
        numbers: list[QueueNumbers] = []
        for start in range(0, len(names), QUEUES_PER_SCRIPT):
            batch = names[start : start + QUEUES_PER_SCRIPT]
            numbers += await self._read_queues(batch)
        return numbers

    async def read_queue(self, queue: str) -> QueueNumbers:
        """The numbers of one queue, known or not."""
        (numbers,) = await self._read_queues([queue])
        return numbers

    async def _read_queues(self, names: Sequence[str]) -> list[QueueNumbers]:
        reply = await self._link.send(scripts.READ_QUEUES.command(naming.queues_key(), *names, repeatable=True))
        return [_read_numbers(row) for row in reply]

    async def may_hear(self, patterns: Sequence[str]) -> list[bool]:
        """Whether the server lets this user PSUBSCRIBE to each of these."""
        reply = await self._link.send(scripts.MAY_HEAR.command(naming.queues_key(), *patterns, repeatable=True))
        return [bool(answer) for answer in reply]

    async def publish(self, channel: str, message: str) -> int:
        """Publishes a message of this process to itself; how many heard it on this server."""
        return int(await self._aside.send(Command(("PUBLISH", channel, message), repeatable=True)))

    async def ping(self) -> None:
        """Raises StoreUnavailableError unless the server answers."""
        await self._aside.send(Command(("PING",), repeatable=True))


def _task_or_error(uuid: str, row: list[Any]) -> StoredTask | BrokerError:
    if row[0] == Code.FOUND:
        return StoredTask(uuid, row[1].decode(), row[2].decode(), TaskState(row[3].decode()), row[4] or b"")
    if row[0] == Code.NOT_FOUND:
        return TaskNotFoundError(uuid)
    return StoreError(f"The task {uuid} cannot be read, probably a damaged key: {row[1].decode('utf-8', 'replace')}.")


def _place_of(cursor: str | None) -> str:
    """Where a page begins. A cursor that was never given out leads to some place, too."""
    return "+inf" if cursor is None else str(int(cursor, 16))


def _read_numbers(row: list[Any]) -> QueueNumbers:
    return QueueNumbers(
        queue=row[0].decode(),
        pending=row[1],
        running=row[2],
        deferred=row[3],
        delayed=row[4],
        oldest_pending_age=None if row[5] is None else row[5] / 1_000,
        workers=row[6],
        waiters=row[7],
        limits=None if row[8] is None else _limits_decoder.decode(row[8]),
    )


def _read(uuid: str) -> Command:
    return scripts.READ_TASK.command(naming.tasks_key(), uuid, repeatable=True)


def read_found(reply: Reply, uuid: str) -> StoredTask:
    """Reads the reply to the read of one task. Raises TaskNotFoundError."""
    if reply[0] == Code.NOT_FOUND:
        raise TaskNotFoundError(uuid)
    return StoredTask(uuid, reply[1].decode(), reply[2].decode(), TaskState(reply[3].decode()), reply[4])
