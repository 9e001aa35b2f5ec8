"""What a process asks the store by: one connection for commands and, where replicas have to confirm, one for fences."""

from __future__ import annotations

from collections.abc import Mapping

from broker.store import scripts
from broker.store.commands import Sender
from broker.store.duties import Duties
from broker.store.event_log import EventLog
from broker.store.fence import Fence, FencedLink
from broker.store.housekeeping import Housekeeping
from broker.store.link import Link
from broker.store.published import PublishedValues
from broker.store.queries import Queries
from broker.store.topology import Topology
from broker.store.transitions import EVENTS_KEPT, Transitions


class Session:
    """The store as one process has it.

    Args:
        topology: Where the master is.
        name: This process, for CLIENT LIST.
        wait_replicas: How many replicas have to confirm whatever is told; 0 for none.
        events_kept: How many events of a task are kept.
    """

    def __init__(self, topology: Topology, *, name: str, wait_replicas: int, events_kept: int = EVENTS_KEPT) -> None:
        self._link = Link(
            topology,
            name=f"broker-{name}",
            scripts=tuple(script.source for script in scripts.ALL),
            identifies=wait_replicas > 0,
        )
        self.fence = Fence(topology, name=f"broker-fence-{name}", replicas=wait_replicas) if wait_replicas else None
        told: Sender = FencedLink(self._link, self.fence) if self.fence else self._link
        self.transitions = Transitions(told, self._link, events_kept=events_kept)
        self.queries = Queries(told, self._link)
        self.duties = Duties(self._link)
        self.housekeeping = Housekeeping(self._link)
        self.event_log = EventLog(told, self._link)
        self.published = PublishedValues(told, self._link)

    @property
    def links(self) -> Mapping[str, Link]:
        """Its connections, by what each is for."""
        return {"commands": self._link, **({"fences": self.fence.link} if self.fence else {})}

    async def open(self) -> None:
        """Connects. Raises StoreUnavailableError or ConfigurationError."""
        await self._link.open()
        if self.fence is not None:
            try:
                await self.fence.open()
            except BaseException:
                await self._link.close()
                raise

    async def close(self) -> None:
        """Disconnects."""
        await self._link.close()
        if self.fence is not None:
            await self.fence.close()
