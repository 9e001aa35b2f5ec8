"""Reads of the store."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from broker import naming
from broker.errors import TaskNotFoundError
from broker.store import scripts
from broker.store.codes import Code
from broker.store.link import Command, Link
from broker.task import TaskState


class StoredTask(msgspec.Struct, frozen=True):
    """A task as it is stored now. `document` is the task JSON; `seal` never leaves the process."""

    uuid: str
    queue: str
    seal: str
    state: TaskState
    document: bytes


class Queries:
    """Every read.

    Args:
        link: The connection that the reads run on.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def read(self, uuid: str) -> StoredTask:
        """Reads one task.

        Raises:
            TaskNotFoundError: There is no record of it.
        """
        reply = await self._link.send(scripts.READ_TASK.command(naming.task_key(uuid), uuid, repeatable=True))
        if reply[0] == Code.NOT_FOUND:
            raise TaskNotFoundError(uuid)
        return StoredTask(uuid, reply[1].decode(), reply[2].decode(), TaskState(reply[3].decode()), reply[4])

    async def find_ended(self, uuids: Sequence[str]) -> list[str]:
        """Those of `uuids` (a few hundred at most) whose tasks have ended or are gone."""
        if not uuids:
            return []
        reply = await self._link.send(scripts.FIND_ENDED.command(naming.task_key(uuids[0]), *uuids, repeatable=True))
        return [uuid.decode() for uuid in reply]

    async def publish(self, channel: str, message: str) -> int:
        """Publishes a message of this process to itself; how many heard it on this server."""
        return int(await self._link.send(Command(("PUBLISH", channel, message), repeatable=True)))

    async def ping(self) -> None:
        """Raises StoreUnavailableError unless the server answers."""
        await self._link.send(Command(("PING",), repeatable=True))
