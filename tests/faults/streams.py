"""`python -m tests.faults.streams --streams 10000 --rounds 3`: what is left of streams that were opened and closed."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx
import msgspec

from broker.store.embedded import EmbeddedServer
from tests.support.api import ADDRESS, ApiProcess
from tests.support.caller import request_head
from tests.support.store import LONG_MS, Store, open_store, until

TASKS: Final = 100
QUEUE: Final = "followed"
AT_A_TIME: Final = 400
"""Streams that are open together."""
MOST_GROWTH_MB: Final = 8.0
"""From the end of the first round to the end of the last: pools and caches are filled by then."""
EMPTY: Final = (
    "broker_event_streams",
    "broker_held_waits",
    "broker_channels_desired",
    "broker_channels_actual",
    "broker_channels_leaked",
)


class Left(msgspec.Struct, frozen=True):
    """What there was after each round: megabytes of the process; then whatever else was not gone."""

    memory_mb: list[float]
    still_there: Mapping[str, float]

    @property
    def growth_mb(self) -> float:
        """Since the end of the first round."""
        return self.memory_mb[-1] - self.memory_mb[0]


async def open_and_close(streams: int, rounds: int, folder: Path) -> Left:
    """Opens so many streams of open tasks in each round, reads an event from each, and hangs up.

    Args:
        streams: A round.
        rounds: One after the other.
        folder: For the instance's log.
    """
    memory: list[float] = []
    with EmbeddedServer() as server, ApiProcess(server.url, log=folder / "api.log") as instance:
        async with open_store(server.url) as store, httpx.AsyncClient(trust_env=False) as client:
            await _make_tasks(store)
            for _ in range(rounds):
                numbers = iter(range(streams))
                await asyncio.gather(*(_follow_each(instance.port, numbers) for _ in range(AT_A_TIME)))
                await until(lambda: _is_empty(client, instance.url), "nothing is followed any more")
                memory.append((await _metrics(client, instance.url))["process_resident_memory_bytes"] / 2**20)
            numbers_now = await _metrics(client, instance.url)
            channels = len(store.raw.pubsub_channels("broker:events:*"))
        instance.assert_log_has_no_defect()
    still_there = {name: numbers_now[name] for name in EMPTY if numbers_now[name]}
    return Left(memory, still_there | ({"channels": channels} if channels else {}))


async def _make_tasks(store: Store) -> None:
    for number in range(TASKS):
        await store.create(f"t-{number}", queue=QUEUE)
    for claimed in await store.claim(TASKS, queue=QUEUE):
        await store.transitions.extend(claimed.uuid, claimed.lease, LONG_MS, b'"' + b"x" * 500 + b'"')


async def _follow_each(port: int, numbers: Iterator[int]) -> None:
    for number in numbers:
        reader, writer = await asyncio.open_connection(ADDRESS, port)
        writer.write(request_head("GET", f"/taskEvents?uuid=t-{number % TASKS}"))
        await reader.readuntil(b"data: ")
        # Some hang up at once, others while they are told nothing.
        await asyncio.sleep(0.1 * (number % 3))
        writer.transport.abort()


async def _is_empty(client: httpx.AsyncClient, url: str) -> bool:
    metrics = await _metrics(client, url)
    return not any(metrics[name] for name in EMPTY)


async def _metrics(client: httpx.AsyncClient, url: str) -> dict[str, float]:
    page = (await client.get(f"{url}/metrics")).text
    return {name: float(number) for name, number in re.findall(r"^(\w+) (\S+)$", page, re.MULTILINE)}


def main() -> int:
    """Measures and prints it; 1 when something is left, or memory grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.streams")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        left = asyncio.run(open_and_close(asked.streams, asked.rounds, Path(folder)))
    memory = ", ".join(f"{number:.1f}" for number in left.memory_mb)
    print(
        f"{asked.streams} streams a round: memory after each {memory} MB; still there: {left.still_there or 'nothing'}"
    )
    return 0 if not left.still_there and left.growth_mb < MOST_GROWTH_MB else 1


if __name__ == "__main__":
    sys.exit(main())
