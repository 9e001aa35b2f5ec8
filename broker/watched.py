"""What is watched by whom, and when a watch is over. Pure: it knows no socket and no clock."""

from __future__ import annotations

from typing import Final, NamedTuple

from broker.deferred import DeferredResult
from broker.store.published import StoredValue, Unchanged

MOST_ANSWER_BYTES: Final = 4 * 2**20
"""An answer about several namespaces ends with the value that makes it longer than this."""


class Wanted(NamedTuple):
    """A namespace to watch, and the version that the caller knows; None for whatever it has now."""

    namespace: str
    version: str | None


class Seen(NamedTuple):
    """What a watch has seen: the namespaces that have another version than their caller knew, in the caller's order.

    `known` is what the caller knows of the first namespace where nothing has changed, None when Redis never told.
    """

    changed: list[StoredValue]
    known: str | None


class Entry:
    """One namespace of one watch. It counts once it was read after it had registered."""

    __slots__ = ("is_read", "known", "namespace", "watch")

    def __init__(self, watch: Watch, namespace: Namespace, known: str | None) -> None:
        self.watch = watch
        self.namespace = namespace
        self.known = known
        self.is_read = False

    def read(self, version: str) -> None:
        """Begins to count; a caller who knows no version waits for the one after the present."""
        self.is_read = True
        if self.known is None:
            self.known = version

    @property
    def change(self) -> StoredValue | None:
        """What the caller does not know yet."""
        current = self.namespace.current
        return current if self.is_read and current is not None and current.version != self.known else None


class Watch:
    """One held call."""

    __slots__ = ("deferred", "entries", "is_look")

    def __init__(self, deferred: DeferredResult[bool], *, is_look: bool) -> None:
        self.deferred = deferred
        self.is_look = is_look
        self.entries: list[Entry] = []

    def check(self) -> None:
        """Ends when all was read and something is new; one that only looks, as soon as all was read."""
        if self.is_read and (self.is_look or any(entry.change is not None for entry in self.entries)):
            self.deferred.set_result(True)

    @property
    def is_read(self) -> bool:
        """Whether Redis has told of all namespaces since the watch registered."""
        return all(entry.is_read for entry in self.entries)

    def end(self) -> Ended:
        """What has come of it."""
        # For a caller who came without a version, the one that was there then.
        knowledge = [Wanted(entry.namespace.name, entry.known) for entry in self.entries]
        return Ended(self._seen(), knowledge, self.is_read)

    def _seen(self) -> Seen:
        changed: list[StoredValue] = []
        size = 0
        for entry in self.entries:
            change = entry.change
            if change is not None and size < MOST_ANSWER_BYTES:
                changed.append(change)
                size += len(change.document)
        return Seen(changed, self.entries[0].known)


class Ended(NamedTuple):
    """What has come of a watch: what its caller is told, and knows, and whether Redis has told anything."""

    seen: Seen
    knowledge: list[Wanted]
    is_read: bool


class Namespace:
    """A watched namespace: who watches it, and what was read last, which has no document while nobody needs it."""

    __slots__ = ("asked", "current", "entries", "fresh", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: set[Entry] = set()
        self.fresh: list[Entry] = []
        self.asked: list[Entry] = []
        self.current: StoredValue | None = None

    def ask(self) -> tuple[str, str]:
        """The next read is for all that have registered until now; returns the version that it need not bring."""
        self.asked += self.fresh
        self.fresh = []
        known = {entry.known for entry in self.asked} - {None}
        if self.current is None:
            return self.name, known.pop() or "" if len(known) == 1 else ""
        is_needed = not self.current.document and not known <= {self.current.version}
        return self.name, "" if is_needed else self.current.version

    def take(self, found: StoredValue | Unchanged, known: str) -> list[Watch]:
        """A read has come; returns the watches that may be over now."""
        before = self.current
        current = found if isinstance(found, StoredValue) else before or StoredValue(known, b"")
        self.current = current
        asked, self.asked = self.asked, []
        for entry in asked:
            entry.read(current.version)
        has_changed = before is not None and before.version != current.version
        return [entry.watch for entry in (self.entries if has_changed else asked)]
