"""One process's access to the deployment, in parts: what services call, with values as the bytes that were received."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from functools import partial

from broker.background import Background
from broker.batch_creation import BatchCreation
from broker.capacity import Capacity
from broker.claiming import Claiming
from broker.events import EventStreams
from broker.exclusive import ExclusiveHolding
from broker.gathering import Gathering
from broker.holding import Holding
from broker.presence import Presence
from broker.recovery import Recovery
from broker.requests import (
    ChangeRequest,
    HeartbeatRequest,
    LimitsRequest,
    ListRequest,
    ReleaseRequest,
    RetryRequest,
    completion,
    milliseconds,
    progress,
    release,
    retry,
)
from broker.response_hub import ResponseHub
from broker.settings import Settings
from broker.store import scripts
from broker.store.completions import Changed
from broker.store.link import Link
from broker.store.queries import Page, QueueNumbers, StoredTask
from broker.store.session import Session
from broker.store.topology import Topology
from broker.subscriptions import Subscriptions
from broker.task import TaskState
from broker.watch import Watches


class Instance:
    """The parts of one process.

    Args:
        settings: What to run with; `settings.redis_url` says where.
        sweeps: Whether this process takes its share of the recovery.
    """

    def __init__(self, settings: Settings, *, sweeps: bool = True) -> None:
        self.settings = settings
        self._sweeps = sweeps
        self._background = Background()

    async def open(self) -> None:
        """Connects.

        Raises:
            StoreUnavailableError: Redis does not answer.
            ConfigurationError: The URL, the login or the server's version cannot work.
        """
        topology = Topology.from_url(self.settings.redis_url)
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._store = Session(
            topology,
            name=self.name,
            wait_replicas=self.settings.wait_replicas,
            events_kept=self.settings.events_kept,
        )
        self.transitions = self._store.transitions
        self.housekeeping = self._store.housekeeping
        self.queries = self._store.queries
        self.subscriptions = Subscriptions(
            topology,
            name=self.name,
            queries=self.queries,
            scripts=(scripts.CREATE_TASKS.source, scripts.TAKE_EXCLUSIVE_WAIT.source),
            fence=self._store.fence,
        )
        self.capacity = Capacity(self.settings.max_waiters)
        self.hub = ResponseHub(self.subscriptions, self.queries, self.capacity)
        self.holding = Holding(self.hub, self.transitions, self.queries, self.capacity)
        most_bytes = self.settings.max_batch_bytes
        self.gathering = Gathering(self.hub, self.queries, self.capacity, most_bytes=most_bytes)
        self.batches = BatchCreation(self.transitions, self.queries, most_bytes=most_bytes)
        self.event_streams = EventStreams(self.subscriptions, self.hub, self._store.event_log, self.capacity)
        self.watches = Watches(self._store.published, self.subscriptions, self.hub.deadlines, self.capacity)
        self.claiming = Claiming(
            self.hub, self.transitions, self.queries, self.capacity, lease_s=self.settings.lease_s, name=self.name
        )
        self.exclusive = ExclusiveHolding(self.holding, self.hub)
        await self._store.open()
        try:
            await self.subscriptions.open()
        except BaseException:
            await self._store.close()
            raise
        self.hub.start()
        self.event_streams.start()
        self.claiming.start()
        self._presences = (
            Presence(partial(self.housekeeping.report_waiters, self.name), lambda: self.hub.held_by_queue),
            # Whoever waits for work is there for it, wherever it will be done.
            Presence(partial(self.housekeeping.report_workers, self.name), lambda: self.claiming.waiting_by_queue),
        )
        for presence in self._presences:
            self._background.keep(presence.report_forever, "presence")
        self.watches.start()
        if self._sweeps:
            recovery = Recovery(self.housekeeping, self.settings, self.name)
            self._background.keep(recovery.run_forever, "recovery")

    async def close(self) -> None:
        """Disconnects. Waits still held here end as if their time were over."""
        self.end_waits()
        await self.claiming.close()
        await self._background.cancel()
        await asyncio.gather(*[presence.leave() for presence in self._presences])
        await self.watches.close()
        await self.event_streams.close()
        await self.gathering.close()
        await self.exclusive.close()
        await self.holding.close()
        await self.hub.close()
        await self.subscriptions.close()
        await self._store.close()

    def end_waits(self) -> None:
        """Ends all that is held here as if its time were over, and what still comes soon after it does."""
        self.hub.end_all()
        self.watches.end_all()
        self.claiming.end_all()

    @property
    def links(self) -> Mapping[str, Link]:
        """The connections to Redis, by what each is for: `commands`, the hub's `subscriptions`, `fences` if there are.

        Fences are only where `wait_replicas` is set.
        """
        return {**self._store.links, "subscriptions": self.subscriptions.link}

    async def set_limits(self, queue: str, request: LimitsRequest) -> QueueNumbers:
        """As `limit`, from a request."""
        await self.transitions.set_limits(queue, request)
        return await self.queries.read_queue(queue)

    async def finish(self, request: ChangeRequest) -> Changed:
        """Ends a task; the answer carries the task JSON. Raises as `change` does."""
        outcome = completion(request, max_bytes=self.settings.max_body_bytes)
        return await self.transitions.finish(request.uuid, outcome, lease=request.lease, wants_document=True)

    async def heartbeat(self, request: HeartbeatRequest) -> TaskState | int:
        """Renews a lease; see `Transitions.extend`."""
        reported = progress(request, max_bytes=self.settings.max_body_bytes)
        return await self.transitions.extend(request.uuid, request.lease, milliseconds(self.settings.lease_s), reported)

    async def release(self, request: ReleaseRequest) -> Changed:
        """Lets go of a claimed task; the answer carries the task JSON. Raises as `Transitions.release` does."""
        return await self.transitions.release(release(request, max_bytes=self.settings.max_body_bytes))

    async def retry_ended(self, request: RetryRequest, *, idempotency_key: str | None = None) -> StoredTask:
        """As `retry`, from a request."""
        return await self.transitions.retry_ended(retry(request, self.settings, idempotency_key=idempotency_key))

    async def list_stored(self, request: ListRequest) -> Page:
        """As `list`, from a request and with the task JSON as it is stored."""
        return await self.queries.list_tasks(
            queue=request.queue, state=request.state, cursor=request.cursor, limit=request.limit
        )

    async def publish_json(self, namespace: str, value: bytes) -> str:
        """As `publish`, with checked names and JSON text."""
        return await self._store.published.publish(namespace, value, most_namespaces=self.settings.namespaces_max)
