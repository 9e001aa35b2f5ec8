"""What the clients of the fault suite do: stories, each about one task of its own, told by callers that do not give up.

A caller behaves as a client behind a balancer would: what is answered 202 is asked for again, what is answered 503 or
not at all is sent again, each time to whichever instance comes next.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.faults.caller import Caller
from tests.faults.handlers import FATAL_ATTEMPTS, MAX_ATTEMPTS
from tests.faults.history import TERMINAL, Call
from tests.faults.http_worker import QUEUE as HTTP_QUEUE
from tests.faults.http_worker import HttpWorker

AGAIN_S: Final = 0.3
NOBODY: Final = "f-nobody"
"""A queue without workers."""
RIVALS: Final = 4
WAITS: Final = (0, 0.5, 2, 5, 20)

Story = Callable[["Client"], Awaitable[None]]


class Client:
    """One client: tells stories, one after the other.

    Args:
        caller: Its calls.
        chance: Seeded, its own.
        folder: Where handlers write their executions.
        lease_s: Of the workers.
        prefix: Makes its uuids its own.
        worker: What it is where a story has it work; None where none has.
    """

    def __init__(
        self,
        caller: Caller,
        chance: random.Random,
        *,
        folder: Path,
        lease_s: float,
        prefix: str,
        worker: HttpWorker | None = None,
    ) -> None:
        self._worker = worker
        self._caller = caller
        self.chance = chance
        self._folder = str(folder)
        self._lease_s = lease_s
        self._prefix = prefix
        self._count = 0

    def any_instance(self) -> str:
        """As a balancer chooses."""
        return self.chance.choice(self._caller.instances)

    def request(self, queue: str, *, wait: float, most_attempts: int = MAX_ATTEMPTS, **payload: Any) -> dict[str, Any]:
        """A createTask body with a uuid of its own."""
        self._count += 1
        members = {"folder": self._folder, "lease_s": self._lease_s, "most_attempts": most_attempts, **payload}
        return {"uuid": f"{self._prefix}-{self._count}", "queue": queue, "payload": members, "wait": wait}

    async def create_once(self, request: dict[str, Any], **options: Any) -> Call:
        """One call, whatever comes of it."""
        return await self._caller.create(self.any_instance(), request, **options)

    async def create(self, request: dict[str, Any], **options: Any) -> Call:
        """Sends a create until it is acknowledged."""
        while True:
            call = await self.create_once(request, **options)
            if call.status in (200, 202) or not _may_pass(call):
                return call
            await self._pause()

    async def create_and_follow(self, request: dict[str, Any], **options: Any) -> None:
        """Creates, and asks until the task has ended."""
        call = await self.create(request, **options)
        if call.document is not None and call.document["state"] not in TERMINAL:
            await self.follow(call.document["uuid"])

    async def follow(self, uuid: str) -> None:
        """Asks for a task until it has ended."""
        while True:
            call = await self._caller.query(self.any_instance(), uuid, self.chance.choice(WAITS))
            if call.document is not None and call.document["state"] in TERMINAL:
                return
            if call.status != 200 and not _may_pass(call):
                return
            await self._pause()

    async def change(self, request: dict[str, Any], patience_s: float = float("inf")) -> None:
        """Completes a task as a third party, until it is told that it has ended; a task that is lost never does."""
        began = time.monotonic()
        while True:
            call = await self._caller.change(self.any_instance(), request)
            # Unknown: its create is still on its way.
            if call.status != 404 and not _may_pass(call):
                return
            if time.monotonic() - began > patience_s:
                return
            await self._pause()

    async def work(self, over: Callable[[], bool]) -> None:
        """Works over HTTP, on its own tasks and on others', until it is `over`."""
        assert self._worker is not None, "this client does not work"
        await self._worker.run(over)

    async def pause(self, longest_s: float) -> None:
        """Some time."""
        await asyncio.sleep(self.chance.uniform(0, longest_s))

    async def _pause(self) -> None:
        await asyncio.sleep(AGAIN_S * self.chance.uniform(0.5, 1))


def _may_pass(call: Call) -> bool:
    return call.status is None or call.status == 503


# Stories --------------------------------------------------------------------------------------------------------------


async def held(client: Client) -> None:
    """Create, hold, get the result."""
    await client.create_and_follow(client.request("f-quick", wait=client.chance.choice(WAITS)))


async def slow(client: Client) -> None:
    """The same with a handler that takes its time, sometimes longer than a lease."""
    queue = client.chance.choice(["f-slow", "f-slow", "f-thread"])
    seconds = client.chance.choice([0.2, 1.0, 1.6, 4.0])
    await client.create_and_follow(client.request(queue, wait=20, seconds=seconds))


async def flaky(client: Client) -> None:
    """Attempts that fail, some tasks all of them."""
    await client.create_and_follow(client.request("f-flaky", wait=5, failures=client.chance.choice([1, 1, 3])))


async def shared(client: Client) -> None:
    """Several callers, one task."""
    request = client.request("f-slow", wait=20, seconds=0.5)
    waits = [request, {**request, "wait": 0.3}, {**request, "wait": 5}]
    await asyncio.gather(*[client.create_and_follow(one) for one in waits])


async def keyed(client: Client) -> None:
    """Several callers without a uuid, one idempotency key."""
    request = client.request("f-slow", wait=5, seconds=0.2)
    key = request.pop("uuid")
    await asyncio.gather(*[client.create_and_follow(request, key=key) for _ in range(3)])


async def ordered(client: Client) -> None:
    """Delay and priority."""
    options = {"delay": client.chance.choice([0, 0.5, 2]), "priority": client.chance.randrange(10)}
    await client.create_and_follow({**client.request("f-quick", wait=5), **options})


async def asked_for(client: Client) -> None:
    """Created without a wait, asked for with one."""
    request = client.request("f-slow", wait=0, seconds=0.5)
    await client.create(request)
    await asyncio.gather(client.follow(request["uuid"]), client.follow(request["uuid"]))


async def deferred(client: Client) -> None:
    """Third parties race to finish a task."""
    request = client.request("f-deferred", wait=20)
    outcomes = [{"uuid": request["uuid"], "state": "succeeded", "result": {"rival": n}} for n in range(RIVALS - 1)]
    outcomes.append({"uuid": request["uuid"], "state": "failed", "error": {"code": "rival"}})

    async def finish(outcome: dict[str, Any]) -> None:
        await client.pause(1.5)
        await client.change(outcome)

    await asyncio.gather(client.create_and_follow(request), *[finish(outcome) for outcome in outcomes])


async def cancelled(client: Client) -> None:
    """Cancelled while it waits or runs."""
    request = client.request(client.chance.choice(["f-slow", "f-thread"]), wait=20, seconds=3.0)

    async def cancel() -> None:
        await client.pause(1.0)
        await client.change({"uuid": request["uuid"]})

    await asyncio.gather(client.create_and_follow(request), cancel())


async def expired(client: Client) -> None:
    """Nobody does it."""
    await client.create_and_follow({**client.request(NOBODY, wait=20), "expires_in": client.chance.uniform(0.5, 3)})


async def left(client: Client) -> None:
    """The caller goes away, and comes back."""
    request = client.request("f-slow", wait=20, seconds=2.0)
    await client.create_once(request, leaves_after_s=client.chance.uniform(0.05, 1))
    await client.create_and_follow(request)


async def fatal(client: Client) -> None:
    """A task that kills the worker it runs on."""
    await client.create_and_follow(client.request("f-fatal", wait=20, most_attempts=FATAL_ATTEMPTS))


async def worked(client: Client) -> None:
    """Workers over HTTP do it, this client one of them."""
    request = client.request(HTTP_QUEUE, wait=5, seconds=client.chance.choice([0.0, 0.3, 3.0]))
    following = asyncio.create_task(client.create_and_follow(request))
    try:
        await client.work(following.done)
        await following
    finally:
        following.cancel()


STORIES: Final[dict[str, tuple[Story, int]]] = {
    "held": (held, 30),
    "slow": (slow, 15),
    "flaky": (flaky, 8),
    "shared": (shared, 10),
    "keyed": (keyed, 8),
    "ordered": (ordered, 8),
    "asked-for": (asked_for, 8),
    "deferred": (deferred, 15),
    "cancelled": (cancelled, 5),
    "expired": (expired, 4),
    "left": (left, 5),
    "fatal": (fatal, 1),
    "worked": (worked, 12),
}
"""By name, each with how often it is told beside the others."""


async def tell(client: Client, names: Sequence[str], over: Callable[[], bool]) -> None:
    """Tells stories until it is `over`, the last one to its end."""
    stories = [STORIES[name][0] for name in names]
    weights = [STORIES[name][1] for name in names]
    while not over():
        await client.chance.choices(stories, weights)[0](client)
        await client.pause(0.2)
