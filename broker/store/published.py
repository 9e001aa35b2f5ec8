"""Published values in the store: written, read, and which of them have changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from broker import naming
from broker.errors import QueueFullError
from broker.published import NOTHING
from broker.randomness import new_version
from broker.store import scripts
from broker.store.codes import Code
from broker.store.commands import Sender

NAMESPACES_PER_SCRIPT: Final = 100
READ_BYTES: Final = 4 * 2**20
"""A read ends with the value that makes it longer than this."""
CHANGES_PER_SCRIPT: Final = 500
"""Changed namespaces that one look finds at most: as Apollo's scan of its release messages."""


class StoredValue(msgspec.Struct, frozen=True):
    """What a namespace holds. `document` is its JSON, with the value as it was published."""

    version: str
    document: bytes


class Unchanged:
    """It still has the version that the caller knows."""


class NotRead:
    """The reply was long enough; ask again."""


UNCHANGED: Final = Unchanged()
NOT_READ: Final = NotRead()
Read = StoredValue | Unchanged | NotRead


class Place(msgspec.Struct, frozen=True):
    """How far somebody knows all changes: a number, and the epoch that counts it."""

    epoch: str
    number: int


class Changes(msgspec.Struct, frozen=True):
    """What has changed up to `place`: version by namespace, or None when everything may have. `more` follow."""

    place: Place
    versions: dict[str, str] | None
    more: bool = False


class PublishedValues:
    """Every namespace's value.

    Args:
        told: Sends what is told to callers: where replicas have to confirm that, the reply comes when they have.
        hints: Sends what is only a reason to look.
    """

    def __init__(self, told: Sender, hints: Sender) -> None:
        self._told = told
        self._hints = hints

    async def publish(self, namespace: str, value: bytes, *, most_namespaces: int) -> str:
        """Stores a value, tells all processes, and returns its version.

        Args:
            namespace: Where.
            value: Checked JSON text.
            most_namespaces: How many namespaces there may be.

        Raises:
            QueueFullError: It would be one too many.
            StoreUnavailableError: Not repeated here: a second run would undo what others have published since.
        """
        reply = await self._told.send(
            scripts.PUBLISH_VALUE.command(
                naming.published_key(namespace), namespace, value, new_version(), most_namespaces, repeatable=False
            )
        )
        if reply[0] == Code.FULL:
            raise QueueFullError(
                f"There are {most_namespaces} namespaces, and no more are taken: delete one that nobody needs, or "
                "raise BROKER_NAMESPACES_MAX."
            )
        version: str = reply[1].decode()
        return version

    async def delete(self, namespace: str) -> bool:
        """Deletes a namespace and tells all processes; whether there was one. Raises StoreUnavailableError."""
        command = scripts.DELETE_VALUE.command(
            naming.published_key(namespace), namespace, new_version(), repeatable=False
        )
        return bool((await self._told.send(command))[0] == Code.CHANGED)

    async def read(self, known: Sequence[tuple[str, str]]) -> list[Read]:
        """What namespaces hold now.

        Args:
            known: Each with the version that need not be read again, empty for none; `NAMESPACES_PER_SCRIPT` at most.
        """
        arguments = [text for pair in known for text in pair]
        reply = await self._told.send(
            scripts.READ_VALUES.command(naming.namespaces_key(), READ_BYTES, *arguments, repeatable=True)
        )
        return [_read(namespace, row) for (namespace, _), row in zip(known, reply, strict=True)]

    async def changes_since(self, place: Place | None) -> Changes:
        """Which namespaces have changed since the caller knew all up to `place`."""
        epoch, number = ("", "") if place is None else (place.epoch, place.number)
        reply = await self._hints.send(
            scripts.READ_CHANGES.command(naming.namespaces_key(), CHANGES_PER_SCRIPT, epoch, number, repeatable=True)
        )
        reached = Place(reply[0].decode(), reply[1])
        if len(reply) == 2:
            return Changes(reached, None)
        names = [text.decode() for text in reply[3:]]
        return Changes(reached, dict(zip(names[::2], names[1::2], strict=True)), more=bool(reply[2]))


def _read(namespace: str, row: Any) -> Read:
    if row is None:
        return UNCHANGED
    if row == 0:
        return NOT_READ
    version: str = row[0].decode()
    opening = f'{{"namespace":"{namespace}","version":"{version}"'.encode()
    if version == NOTHING:
        return StoredValue(version, opening + b"}")
    return StoredValue(version, b'%s,"value":%s,"changed_at":"%s"}' % (opening, row[2], row[1]))
