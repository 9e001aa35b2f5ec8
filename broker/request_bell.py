"""The worker's ear: hears `<queue>-request-*` and says when to ask for work, never what to do.

A lost ring costs a moment (the worker also asks on a slow timer), a doubled or forged one an empty claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from broker import naming
from broker.errors import StoreError, StoreUnavailableError
from broker.store.commands import Command, Push, pack
from broker.store.link import Link
from broker.store.topology import Topology


class RequestBell:
    """One subscription connection of a worker.

    Args:
        topology: Where to connect.
        worker: This worker's name: its own channel tells of tasks that somebody else ended.
        queues: Whose requests to hear.
        on_ring: Called with a queue for each request heard, and for every queue after a reconnect.
        on_ended: Called with the uuid of a task that was ended while this worker runs it.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        worker: str,
        queues: Sequence[str],
        on_ring: Callable[[str], None],
        on_ended: Callable[[str], None],
    ) -> None:
        self._queues = {naming.request_pattern(queue).encode(): queue for queue in queues}
        self._own_channel = naming.worker_channel(worker).encode()
        self._on_ring = on_ring
        self._on_ended = on_ended
        self._subscribe_next = False
        self._link = Link(
            topology,
            name=f"broker-bell-{worker}",
            prelude=self._subscriptions,
            on_push=self._take_push,
            on_connected=self._subscribe_anew,
        )

    @property
    def link(self) -> Link:
        """The connection, to be looked at."""
        return self._link

    async def open(self) -> None:
        """Connects and subscribes. Raises StoreUnavailableError or ConfigurationError."""
        await self._link.open()
        await self._link.send(Command(("PING",), repeatable=True))

    async def close(self) -> None:
        """Disconnects."""
        await self._link.close()

    def _subscribe_anew(self) -> None:
        self._subscribe_next = True
        # Answered behind the subscriptions: rings may have been missed until then, so every queue is asked.
        self._link.send(Command(("PING",), repeatable=False)).add_done_callback(self._ring_all)

    def _subscriptions(self) -> bytes:
        if not self._subscribe_next:
            return b""
        self._subscribe_next = False
        return pack(("PSUBSCRIBE", *self._queues)) + pack(("SUBSCRIBE", self._own_channel))

    def _ring_all(self, fence: asyncio.Future[object]) -> None:
        if fence.cancelled() or isinstance(fence.exception(), StoreUnavailableError | StoreError):
            return
        for queue in self._queues.values():
            self._on_ring(queue)

    def _take_push(self, push: Push) -> None:
        kind = push[0]
        if kind == b"pmessage":
            self._on_ring(self._queues[push[1]])
        elif kind == b"message" and push[1] == self._own_channel:
            self._on_ended(push[2].decode("utf-8", "replace"))
