"""`python -m tests.faults.watch`: watches on two instances under load and faults, and what they leave behind.

Three stories:

- `release`: many watches of one namespace on two instances, and one publish. All must be told it.
- `poll`: publishes at random moments while callers poll, each call on either instance, echoing the version. Messages
  are lost and connections cut meanwhile. Nobody may see an older value after a newer one; all must see the last.
- `memory`: round after round of watches. The instances must not grow over the last three.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from broker import Broker, Settings
from broker.store.embedded import EmbeddedServer
from tests.bench.accounting import private_bytes
from tests.faults.drain import allow_descriptors
from tests.faults.proxy import Drop, FaultyProxy
from tests.support.api import ApiProcess, stop_together
from tests.support.swift_http import Answer, SwiftHttp

NAMESPACE: Final = "n"
DEADLINE_S: Final = 60.0
AT_A_TIME: Final = 200
"""Watches opened together: what a listener's backlog takes at ease."""
ROUNDS: Final = 6
ROUNDS_AT_REST: Final = 4
"""The last of them: pools and arenas have their size by then."""
WAVE: Final = 500
CUT_EVERY_S: Final = 1.0
MOST_GROWTH_MB: Final = 4.0


class Two:
    """Two instances, each behind a proxy of its own, a client of each, and a publisher that nothing happens to."""

    def __init__(
        self, instances: list[ApiProcess], proxies: list[FaultyProxy], clients: list[SwiftHttp], publisher: Broker
    ) -> None:
        self.instances = instances
        self.proxies = proxies
        self.clients = clients
        self.publisher = publisher

    async def held(self) -> int:
        """Watches that are held now."""
        pages = [await client.get("/metrics") for client in self.clients]
        lines = [line for page in pages for line in page.body.decode().splitlines()]
        return sum(int(float(line.split()[1])) for line in lines if line.startswith("broker_held_watches "))

    async def until_held(self, count: int) -> None:
        """Returns once so many are held."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.held() != count:  # noqa: ASYNC110 - another process tells
                await asyncio.sleep(0.02)


@asynccontextmanager
async def two_instances(folder: Path, **settings: str) -> AsyncIterator[Two]:
    """A server, two proxies, two instances, and a publisher."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        proxies = [await stack.enter_async_context(FaultyProxy(server.port)) for _ in range(2)]
        instances = [
            ApiProcess(proxy.url, log=folder / f"api{number}.log", **settings) for number, proxy in enumerate(proxies)
        ]
        # The proxies need this loop while an instance starts, and while it ends.
        await asyncio.gather(*(asyncio.to_thread(instance.__enter__) for instance in instances))
        stack.push_async_callback(asyncio.to_thread, stop_together, instances)
        clients = [await stack.enter_async_context(SwiftHttp(instance.url)) for instance in instances]
        publisher = await stack.enter_async_context(Broker(Settings(redis_url=server.url), sweeps=False))
        yield Two(instances, proxies, clients, publisher)


class Released(msgspec.Struct, frozen=True):
    """`answers` by status and value; seconds from the publish to the last answer, and the slowest call meanwhile."""

    answers: int
    right: int
    last_s: float
    slowest_other_call_s: float


async def release(two: Two, watches: int) -> Released:
    """Holds so many watches on two instances, and publishes once."""
    known = await two.publisher.publish(NAMESPACE, 0)
    opening = asyncio.Semaphore(AT_A_TIME)

    async def hold(number: int) -> tuple[Answer, float]:
        async with opening:
            call = asyncio.create_task(two.clients[number % 2].get(f"/watch/{NAMESPACE}?version={known}&wait=60"))
            await asyncio.sleep(0.02)
        return await call, time.perf_counter()

    held = [asyncio.create_task(hold(number)) for number in range(watches)]
    await two.until_held(watches)
    others = asyncio.create_task(_slowest_call(two.clients[0], held))
    began = time.perf_counter()
    version = await two.publisher.publish(NAMESPACE, 1)
    answers = await asyncio.gather(*held)
    right = sum(answer.status == 200 and answer.document["version"] == version for answer, _ in answers)
    return Released(len(answers), right, max(at for _, at in answers) - began, await others)


async def _slowest_call(client: SwiftHttp, held: list[asyncio.Task[tuple[Answer, float]]]) -> float:
    slowest = 0.0
    while not all(call.done() for call in held):
        began = time.perf_counter()
        await client.get("/healthz")
        slowest = max(slowest, time.perf_counter() - began)
    return slowest


class Polled(msgspec.Struct, frozen=True):
    """What the callers saw: how many values each, and how often what must not be."""

    seen: list[int]
    older_after_newer: int
    without_the_last: int
    messages_lost: int
    cuts: int
    last_seen_after_s: float


async def poll(
    two: Two, publishes: int, callers: int, *, drop: Drop = Drop.NONE, cuts: bool = False, seed: int = 1
) -> Polled:
    """Publishes 0, 1, 2 … at random moments while callers poll.

    Args:
        two: Where.
        publishes: How many.
        callers: How many poll.
        drop: Which messages are lost.
        cuts: Whether connections to Redis are cut now and then.
        seed: Of the moments.
    """
    chance = random.Random(seed)
    for proxy in two.proxies:
        proxy.drop, proxy.dropped = drop, 0
    cutting = _Cutting(two, chance)
    cut_now_and_then = asyncio.create_task(cutting.run()) if cuts else None
    await two.publisher.unpublish(NAMESPACE)
    polling = [asyncio.create_task(_poll(two, chance, publishes - 1)) for _ in range(callers)]
    for value in range(publishes):
        await two.publisher.publish(NAMESPACE, value)
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.02)
    published = time.perf_counter()
    async with asyncio.timeout(DEADLINE_S):
        seen = await asyncio.gather(*polling)
    took = time.perf_counter() - published
    if cut_now_and_then is not None:
        cut_now_and_then.cancel()
    return Polled(
        [len(values) for values in seen],
        sum(before >= after for values in seen for before, after in pairwise(values)),
        sum(values[-1] != publishes - 1 for values in seen),
        sum(proxy.dropped for proxy in two.proxies),
        cutting.cuts,
        took,
    )


async def _poll(two: Two, chance: random.Random, last: int) -> list[int]:
    """The values that one caller sees."""
    version, values = "0", [-1]
    while values[-1] != last:
        client = chance.choice(two.clients)
        answer = await client.get(f"/watch/{NAMESPACE}?version={version}&wait=20")
        if answer.status == 200:
            version = answer.document["version"]
            values.append(answer.document["value"])
        else:
            assert answer.status in (304, 503), answer
    return values[1:]


class _Cutting:
    """Cuts either instance off its server, again and again."""

    def __init__(self, two: Two, chance: random.Random) -> None:
        self._two = two
        self._chance = chance
        self.cuts = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._chance.random() * 2 * CUT_EVERY_S)
            self._chance.choice(self._two.proxies).cut()
            self.cuts += 1


async def grow(two: Two, watches: int) -> list[float]:
    """Memory of both instances in MiB after each of `ROUNDS` rounds of so many watches, all of which have ended."""
    sizes: list[float] = []
    for _ in range(ROUNDS):
        for wave in range(max(1, watches // WAVE)):
            await _watch_and_end(two, f"{NAMESPACE}{wave}")
        await two.until_held(0)
        sizes.append(sum(private_bytes(instance.process.pid) for instance in two.instances) / 2**20)
    return sizes


async def _watch_and_end(two: Two, namespace: str) -> None:
    """Half of a wave's watches are ended by their wait, then the others by a publish, over the same connections."""
    known = await two.publisher.publish(namespace, "x" * 100)

    async def hold(number: int, wait_s: float) -> None:
        answer = await two.clients[number % 2].get(f"/watch/{namespace}?version={known}&wait={wait_s}")
        # A machine that is busy with other things may not get to read in time.
        assert answer.status in (200, 304, 503), answer

    await asyncio.gather(*(hold(number, 0.2) for number in range(WAVE // 2)))
    released = [asyncio.create_task(hold(number, 60)) for number in range(WAVE // 2)]
    await two.until_held(WAVE // 2)
    await two.publisher.publish(namespace, "y")
    await asyncio.gather(*released)


async def run(watches: int, publishes: int, grown: int, folder: Path) -> bool:
    """Runs and prints all stories; whether all went as it must."""
    async with two_instances(folder) as two:
        released = await release(two, watches)
    print(f"release: {released}")
    is_right = released.right == watches
    for drop, cuts in ((Drop.NONE, False), (Drop.QUIETLY, False), (Drop.NONE, True), (Drop.QUIETLY, True)):
        async with two_instances(folder) as two:
            polled = await poll(two, publishes, 16, drop=drop, cuts=cuts)
        print(f"poll, messages lost: {drop.name}, cuts: {cuts}: {polled}")
        is_right = is_right and not (polled.older_after_newer or polled.without_the_last)
    async with two_instances(folder) as two:
        sizes = await grow(two, grown)
    print(f"memory: {grown} watches a round, MiB after each: {[round(size, 1) for size in sizes]}")
    return is_right and sizes[-1] - sizes[-ROUNDS_AT_REST] <= MOST_GROWTH_MB


def main() -> int:
    """Runs all; 1 when something was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.watch")
    parser.add_argument("--watches", type=int, default=5_000)
    parser.add_argument("--publishes", type=int, default=10_000)
    parser.add_argument("--grown", type=int, default=20_000, help="watches a round of the memory story")
    arguments = parser.parse_args()
    if not allow_descriptors(arguments.watches):
        print("So many calls need a higher limit of open files: see `ulimit -Hn`.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        is_right = asyncio.run(run(arguments.watches, arguments.publishes, arguments.grown, Path(folder)))
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
