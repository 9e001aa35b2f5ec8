"""The worker's ear: hears `<queue>-request-*` and says when to ask for work, never what to do.

A lost ring costs a moment (some worker also asks unrung), a doubled or forged one an empty claim. Which queues it hears
is decided by `bell_duty.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from broker import naming
from broker.errors import StoreError, StoreUnavailableError
from broker.store.commands import Command, Push, pack
from broker.store.duties import parking
from broker.store.link import Link
from broker.store.topology import Topology


class RequestBell:
    """One subscription connection of a worker.

    Args:
        topology: Where to connect.
        worker: This worker's name: its own channel tells of tasks that somebody else ended.
        queues: Whose requests to hear at first.
        on_rings: Called after a turn of the loop in which requests were heard, with their queues and how many requests
            they were; after a reconnect with all queues.
        on_ended: Called with the uuid of a task that was ended while this worker runs it.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        worker: str,
        queues: Sequence[str],
        on_rings: Callable[[Collection[str], int], None],
        on_ended: Callable[[str], None],
    ) -> None:
        self._queues = _by_pattern(queues)
        self._to_leave: list[bytes] = []
        self._to_join: list[bytes] = []
        self._own_channel = naming.worker_channel(worker).encode()
        self._on_rings = on_rings
        self._on_ended = on_ended
        self._subscribe_next = False
        self._loop = asyncio.get_running_loop()
        self._heard: list[bytes] = []
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
        self._heard.clear()

    def hear(self, queues: Collection[str]) -> None:
        """Hears these queues from now on, and no others; those that are new ring once they are heard."""
        wanted = _by_pattern(queues)
        joining = [pattern for pattern in wanted if pattern not in self._queues]
        self._to_leave += [pattern for pattern in self._queues if pattern not in wanted]
        self._to_join += joining
        self._queues = wanted
        if joining:
            self._ring_behind_subscriptions([wanted[pattern] for pattern in joining])
        elif self._to_leave:
            self._link.flush_soon()

    async def park(self, queues: Sequence[str], seconds: float) -> str | None:
        """Waits to be woken for one of `queues`; None when nobody did within `seconds`.

        Raises:
            StoreUnavailableError, StoreError
        """
        reply = await self._link.send(parking(queues, seconds))
        return None if reply is None else reply[0].decode().removeprefix(naming.wake_prefix())

    def _subscribe_anew(self) -> None:
        self._subscribe_next = True
        self._ring_behind_subscriptions(list(self._queues.values()))

    def _ring_behind_subscriptions(self, queues: Sequence[str]) -> None:
        """Rings may have been missed until the subscriptions are answered, so every queue is asked behind them."""

        def ring(fence: asyncio.Future[object]) -> None:
            if fence.cancelled() or isinstance(fence.exception(), StoreUnavailableError | StoreError):
                return
            self._on_rings(queues, len(queues))

        self._link.send(Command(("PING",), repeatable=False)).add_done_callback(ring)

    def _subscriptions(self) -> bytes:
        if self._subscribe_next:
            self._subscribe_next = False
            self._to_leave, self._to_join = [], []
            patterns = pack(("PSUBSCRIBE", *self._queues)) if self._queues else b""
            return patterns + pack(("SUBSCRIBE", self._own_channel))
        leaving, joining = self._to_leave, self._to_join
        self._to_leave, self._to_join = [], []
        return b"".join(
            pack((command, *patterns))
            for command, patterns in (("PUNSUBSCRIBE", leaving), ("PSUBSCRIBE", joining))
            if patterns
        )

    def _take_push(self, push: Push) -> None:
        kind = push[0]
        if kind == b"pmessage":
            # Each task has a bell, and a hundred of them say no more than one: they are told together.
            heard = self._heard
            if not heard:
                self._loop.call_soon(self._tell_rings)
            heard.append(push[1])
        elif kind == b"message" and push[1] == self._own_channel:
            self._on_ended(push[2].decode("utf-8", "replace"))

    def _tell_rings(self) -> None:
        heard, self._heard = self._heard, []
        # A queue may have been left since, or all of them.
        self._on_rings([self._queues[pattern] for pattern in set(heard) if pattern in self._queues], len(heard))


def _by_pattern(queues: Collection[str]) -> dict[bytes, str]:
    return {naming.request_pattern(queue).encode(): queue for queue in queues}
