"""The watches of one process: calls that are held until a namespace has another version than their caller knows.

A watch registers, and then the store is read for it: whoever watches is answered from a read that began later, and the
reads of a process follow each other on one connection, so that no answer is older than what its caller has seen. A
message on the one channel of all namespaces only says that it is time to read. Messages that were lost are made up for
by a look at the list of changes, each second and after each reconnect.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from broker import naming
from broker.background import Background
from broker.capacity import Capacity
from broker.deadlines import Deadlines
from broker.deferred import DeferredResult
from broker.errors import StoreError, StoreUnavailableError
from broker.store.published import (
    NAMESPACES_PER_SCRIPT,
    NotRead,
    Place,
    PublishedValues,
    Read,
)
from broker.subscriptions import Subscriptions
from broker.watched import Ended, Entry, Namespace, Seen, Wanted, Watch

log = logging.getLogger("broker.watch")

CHECK_EVERY_S: Final = 1.0
"""How often the list of changes is looked at: what a lost message costs."""
LOOKS_PER_CHECK: Final = 20
RELEASED_PER_TURN: Final = 64
"""Watches that are answered in one turn of the loop, some four milliseconds of work: all else goes on between them."""
LAST_LOOK_S: Final = 0.5
"""How long a watch that is over waits for a last read."""
LOOK_S: Final = 4.0
"""How long a caller who does not wait waits for the store: as long as for any other command."""
PAUSE_S: Final = 0.25
"""Between reads that Redis does not answer."""


class Watches:
    """All watches of one process. A listener of the channel of all namespaces.

    Args:
        values: Reads of the store.
        subscriptions: Where the channel is heard.
        deadlines: Of the running loop.
        capacity: How many calls this process may hold.
    """

    def __init__(
        self, values: PublishedValues, subscriptions: Subscriptions, deadlines: Deadlines, capacity: Capacity
    ) -> None:
        self.name = naming.published_channel().encode()
        self._values = values
        self._deadlines = deadlines
        self._capacity = capacity
        self._namespaces: dict[str, Namespace] = {}
        self._held = 0
        self._is_ending = False
        self._due: dict[Namespace, None] = {}
        self._is_due = asyncio.Event()
        self._ready: deque[Watch] = deque()
        self._is_releasing = False
        self._place: Place | None = None
        self._unheard: set[str] = set()
        self._background = Background()
        self.missed = 0
        subscriptions.listen(self)
        subscriptions.on_recovered(self._read_all)

    @property
    def held(self) -> int:
        """Watches held now."""
        return self._held

    @property
    def namespaces(self) -> int:
        """Namespaces that are watched now."""
        return len(self._namespaces)

    def start(self) -> None:
        """Begins to read, and to look for changes whose message was lost."""
        self._background.keep(self._read_forever, "watch reads")
        self._background.keep(self._check_forever, "watch checks")

    async def close(self) -> None:
        """Ends what runs beside the watches; those that are held are the owner's to end first."""
        await self._background.cancel()

    def end_all(self) -> None:
        """Ends every watch as if its time were over, and those that still come at once."""
        self._is_ending = True
        for namespace in self._namespaces.values():
            for entry in namespace.entries:
                entry.watch.deferred.expire()

    async def watch(self, wanted: Sequence[Wanted], wait_s: float) -> Seen:
        """Holds until one of the namespaces has another version than the caller knows, or the wait is over.

        Args:
            wanted: The namespaces, each once.
            wait_s: Seconds to hold; 0 answers as soon as the store was read.

        Raises:
            TooManyWaitersError: No more calls are held here.
            StoreUnavailableError: Redis never told what the namespaces hold.
        """
        if wait_s <= 0:
            looked = await self._hold(wanted, LOOK_S, is_look=True)
            if not looked.is_read and not self._is_ending:
                raise _never_told()
            return looked.seen
        self._capacity.refuse_beyond()
        held = await self._hold(wanted, wait_s)
        if held.seen.changed or self._is_ending:
            return held.seen
        # Whoever says "nothing new" has looked once more.
        looked = await self._hold(held.knowledge, LAST_LOOK_S, is_look=True)
        if not (looked.is_read or held.is_read or self._is_ending):
            raise _never_told()
        return looked.seen

    async def _hold(self, wanted: Sequence[Wanted], seconds: float, *, is_look: bool = False) -> Ended:
        watch = Watch(DeferredResult(0 if self._is_ending else seconds, self._deadlines), is_look=is_look)
        self._join(watch, wanted)
        try:
            await watch.deferred.wait()
            return watch.end()
        finally:
            self._leave(watch)

    def _join(self, watch: Watch, wanted: Sequence[Wanted]) -> None:
        self._held += 1
        self._capacity.held += 1
        for name, known in wanted:
            namespace = self._namespaces.get(name)
            if namespace is None:
                namespace = self._namespaces[name] = Namespace(name)
            entry = Entry(watch, namespace, known)
            watch.entries.append(entry)
            namespace.entries.add(entry)
            namespace.fresh.append(entry)
            self._read_soon(namespace)

    def _leave(self, watch: Watch) -> None:
        self._held -= 1
        self._capacity.held -= 1
        watch.deferred.abandon()
        for entry in watch.entries:
            namespace = entry.namespace
            namespace.entries.discard(entry)
            if not namespace.entries and self._namespaces.get(namespace.name) is namespace:
                del self._namespaces[namespace.name]
                namespace.fresh.clear()
        # They know each other, and are not to wait for the garbage collector.
        watch.entries.clear()

    # Messages

    def take(self, message: bytes) -> None:
        """A namespace has changed, or somebody says so."""
        name = message.decode("ascii", "replace")
        self._unheard.discard(name)
        namespace = self._namespaces.get(name)
        if namespace is not None:
            self._read_soon(namespace)

    # Reading

    def _read_soon(self, namespace: Namespace) -> None:
        self._due[namespace] = None
        self._is_due.set()

    async def _read_all(self) -> None:
        for namespace in self._namespaces.values():
            self._read_soon(namespace)

    async def _read_forever(self) -> None:
        """One read after the other: what comes meanwhile is read by the next one, however many ask."""
        while True:
            if not self._due:
                self._is_due.clear()
                await self._is_due.wait()
            await self._read_next()

    async def _read_next(self) -> None:
        batch = list(islice(self._due, NAMESPACES_PER_SCRIPT))
        for namespace in batch:
            del self._due[namespace]
        watched = [namespace for namespace in batch if namespace.entries]
        if watched:
            await self._read(watched)

    async def _read(self, namespaces: list[Namespace]) -> None:
        asked = [namespace.ask() for namespace in namespaces]
        try:
            found = await self._values.read(asked)
        except StoreUnavailableError as error:
            log.debug("Watched namespaces could not be read (%s); they will.", error)
            self._due.update(dict.fromkeys(namespaces))
            await asyncio.sleep(PAUSE_S)
        except StoreError as error:
            for namespace in namespaces:
                for entry in namespace.asked:
                    entry.watch.deferred.set_error(error)
        else:
            for namespace, (_, known), read in zip(namespaces, asked, found, strict=True):
                self._take_read(namespace, known, read)

    def _take_read(self, namespace: Namespace, known: str, read: Read) -> None:
        if isinstance(read, NotRead):
            self._read_soon(namespace)
            return
        self._ready.extend(namespace.take(read, known))
        if not self._is_releasing:
            self._release()

    def _release(self) -> None:
        """Thousands may watch one namespace: they are answered a few at a time, and everything else in between."""
        for _ in range(min(RELEASED_PER_TURN, len(self._ready))):
            self._ready.popleft().check()
        self._is_releasing = bool(self._ready)
        if self._is_releasing:
            self._deadlines.loop.call_soon(self._release)

    # Changes whose message was lost

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S * random.uniform(0.85, 1.0))  # noqa: S311
            try:
                await self._check()
            except (StoreUnavailableError, StoreError) as error:
                log.debug("The list of changes could not be read (%s); the next look will.", error)

    async def _check(self) -> None:
        self.missed += len(self._unheard)
        self._unheard.clear()
        if not self._namespaces:
            # Whoever comes is read for first.
            self._place = None
            return
        for _ in range(LOOKS_PER_CHECK):
            changes = await self._values.changes_since(self._place)
            self._place = changes.place
            if changes.versions is None:
                await self._read_all()
            else:
                self._compare(changes.versions)
            if not changes.more:
                return

    def _compare(self, versions: Mapping[str, str]) -> None:
        for name, version in versions.items():
            namespace = self._namespaces.get(name)
            if namespace is not None and namespace.current is not None and namespace.current.version != version:
                # Its message may still be on its way; if it has not come by the next look, it was lost.
                self._unheard.add(name)
                self._read_soon(namespace)


def _never_told() -> StoreUnavailableError:
    return StoreUnavailableError("Redis did not tell what is published by the end of the wait.")
