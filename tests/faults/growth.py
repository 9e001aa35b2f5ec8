"""`python -m tests.faults.growth`: what two instances, a worker and a server keep of work that is over.

Round after round of tasks, watches and streams of events, each kind ended in every way that there is. Between two kinds
everything has to come to rest: nobody is held, no channel is left, no record is kept. Then memory is read. What the
first round fills (pools, arenas, code that is loaded late) may stay; from the second to the last nothing may grow.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec
import redis

from broker import naming
from broker.store.embedded import EmbeddedServer
from tests.bench.accounting import ServerAccount, private_bytes
from tests.bench.wire import Answer, Wire, expect, get, post
from tests.faults.drain import allow_descriptors
from tests.support.api import ApiProcess, ServiceProcess, WorkerProcess
from tests.support.processes import wait_until

WAVE: Final = 400
"""Tasks or watches that are there together."""
STREAM_WAVE: Final = 100
LONG_S: Final = 30
SHORT_S: Final = 0.05
REST_S: Final = 120.0
MOST_GROWTH_MB: Final = {"instances": 4.0, "worker": 2.0, "Redis": 1.0}
"""Measured: less than half of these, either way, after rounds of 100,000. A hundred bytes a task would be 10."""
AT_REST: Final = (
    "broker_held_waits",
    "broker_event_streams",
    "broker_held_claims",
    "broker_held_watches",
    "broker_watched_namespaces",
    "broker_channels_desired",
    "broker_channels_actual",
    "broker_channels_leaked",
)


class Grown(msgspec.Struct, frozen=True):
    """Megabytes after each load of each round: by load, then by who has them, then by round."""

    memory_mb: Mapping[str, Mapping[str, list[float]]]

    def growth_mb(self) -> dict[str, float]:
        """From the second round (the first where there are no three) to the last, each at its end."""
        last_load = list(self.memory_mb)[-1]
        return {who: sizes[-1] - sizes[1 if len(sizes) > 2 else 0] for who, sizes in self.memory_mb[last_load].items()}


class Deployment:
    """Two instances and a worker that forget tasks after a second, and connections to them."""

    def __init__(self, server: EmbeddedServer, folder: Path, stack: ExitStack) -> None:
        self.account = ServerAccount(server.url)
        stack.callback(self.account.close)
        self.store = stack.enter_context(redis.Redis.from_url(server.url))
        settings = {"retention_s": "1"}
        self.instances = [
            stack.enter_context(ApiProcess(server.url, log=folder / f"api{number}.log", **settings))
            for number in range(2)
        ]
        self.worker = stack.enter_context(WorkerProcess(server.url, log=folder / "worker.log", **settings))
        self.http = stack.enter_context(httpx.Client(trust_env=False))
        self.wire: Wire
        self.lanes: list[list[int]]

    @property
    def processes(self) -> list[ServiceProcess]:
        """All of them."""
        return [*self.instances, self.worker]

    @contextmanager
    def connected(self) -> Iterator[None]:
        """With connections of its own, which nobody closes for their idleness."""
        with Wire() as self.wire:
            self.lanes = [self.wire.open(instance.url, 1) for instance in self.instances]
            yield

    def ask_each(self, lane: int, requests: list[bytes]) -> None:
        """Sends each request on a connection of its own to that instance."""
        lacking = len(requests) - len(self.lanes[lane])
        self.lanes[lane] += self.wire.open(self.instances[lane].url, max(0, lacking))
        for connection, request in zip(self.lanes[lane], requests, strict=False):
            self.wire.send(connection, request)

    def answers(self, count: int, *statuses: int) -> list[Answer]:
        """So many answers, each with one of these statuses."""
        return expect(self.wire.receive(count), *statuses)

    def call(self, request: bytes) -> Answer:
        """One call, when no other is owed."""
        return self.wire.call(self.lanes[0][0], request)

    @contextmanager
    def hung_up_on(self, number: int, requests: list[bytes]) -> Iterator[None]:
        """Callers who send a request to an instance, and are gone at the end of the block."""
        with ExitStack() as stack:
            for request in requests:
                stack.enter_context(self.connection(number)).sendall(request)
            yield

    def connection(self, number: int) -> socket.socket:
        """A new one to an instance."""
        parts = urlsplit(self.instances[number].url)
        return socket.create_connection((parts.hostname, parts.port), timeout=LONG_S)

    def wait_for_rest(self) -> None:
        """Returns once nothing is held anywhere, and no record of a task or a value is kept."""
        wait_until(lambda: not self._unrest(), "everything has come to rest", REST_S)

    def memory_mb(self) -> dict[str, float]:
        """Who has how much."""
        return {
            "instances": sum(private_bytes(instance.process.pid) for instance in self.instances) / 2**20,
            "worker": private_bytes(self.worker.process.pid) / 2**20,
            "Redis": self.account.used_bytes() / 2**20,
        }

    def keys(self) -> int:
        """How many the server has."""
        return int(self.store.dbsize())

    def _unrest(self) -> dict[str, float]:
        unrest = {"tasks": float(self.store.zcard(naming.created_key()))}
        for instance in self.instances:
            unrest |= _gauges(self.http.get(f"{instance.url}/metrics").text)
        return {what: number for what, number in unrest.items() if number}


def _gauges(page: str) -> dict[str, float]:
    found = {name: float(number) for name, number in re.findall(r"^(\w+) (\S+)$", page, re.MULTILINE)}
    return {name: found[name] for name in AT_REST if found[name]}


# Tasks ----------------------------------------------------------------------------------------------------------------


def load_tasks(running: Deployment, first: int, count: int) -> None:
    """One wave, half of it held by each instance: of eight tasks the worker ends five and a third party, at the other
    instance, one; one wait is over before, and one caller hangs up. Those two are cancelled and expire."""
    eighth = max(1, count // 8)
    for lane in (0, 1):
        mine = [f"g{first}-{lane}-{number}" for number in range(eighth // 2 or 1)]
        with running.hung_up_on(lane, [_create(f"{uuid}-gone", LONG_S, expires_in=1) for uuid in mine]):
            running.ask_each(lane, [_create(f"{uuid}-held", 0) for uuid in mine])
            running.answers(len(mine), 202)
            running.ask_each(lane, [_create(f"{uuid}-held", LONG_S) for uuid in mine])
            running.ask_each(1 - lane, [post("/changeTaskState", {"uuid": f"{uuid}-held"}) for uuid in mine])
            running.answers(2 * len(mine), 200)
            running.ask_each(lane, [_create(f"{uuid}-over", SHORT_S) for uuid in mine])
            running.answers(len(mine), 202)
            running.ask_each(1 - lane, [post("/cancelTask", {"uuid": f"{uuid}-over"}) for uuid in mine])
            running.answers(len(mine), 200)
        worked = [_worked() for _ in range(5 * len(mine))]
        running.ask_each(lane, worked)
        running.answers(len(worked), 200)


def _create(uuid: str, wait_s: float, **fields: float) -> bytes:
    return post("/createTask", {"queue": "nobody", "uuid": uuid, "payload": [1], "wait": wait_s, **fields})


def _worked() -> bytes:
    return post("/createTask", {"queue": "test-echo", "payload": "x" * 100, "wait": LONG_S})


# Watches --------------------------------------------------------------------------------------------------------------


def load_watches(running: Deployment, first: int, count: int) -> None:
    """One wave: half is released by a publish at the other instance, a quarter hears nothing in time, each watch of a
    namespace of its own that is never published, and a quarter hangs up. No name comes twice."""
    shared, quarter = f"shared{first}", max(1, count // 8)
    for lane in (0, 1):
        version = json.loads(running.call(post(f"/publish/{shared}", "x" * 100)).body)["version"]
        with running.hung_up_on(lane, [_watch(shared, version, LONG_S) for _ in range(quarter)]):
            running.ask_each(lane, [_watch(f"own{first}-{number}", "0", SHORT_S) for number in range(quarter)])
            running.answers(quarter, 304)
            running.ask_each(lane, [_watch(shared, version, LONG_S) for _ in range(2 * quarter)])
        running.wire.send(running.lanes[1 - lane][0], post(f"/publish/{shared}", "y"))
        running.answers(2 * quarter + 1, 200)
    running.wire.send(running.lanes[0][0], f"DELETE /publish/{shared} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    running.answers(1, 204)


def _watch(namespace: str, version: str, wait_s: float) -> bytes:
    return get(f"/watch/{namespace}?version={version}&wait={wait_s}")


# Streams --------------------------------------------------------------------------------------------------------------


def load_streams(running: Deployment, first: int, count: int) -> None:
    """One wave: each instance streams the events of one task. Half of the readers hang up after the first event, the
    others read to the end."""
    uuid = f"s{first}"
    running.call(post("/createTask", {"queue": "followed", "uuid": uuid, "wait": 0}))
    claimed = json.loads(running.call(post("/claimTask", {"queues": ["followed"]})).body)["tasks"][0]
    ours = {"uuid": uuid, "lease": claimed["lease"]}
    running.call(post("/heartbeatTask", {**ours, "progress": "x" * 500}))
    with ExitStack() as stack:
        streams = [stack.enter_context(running.connection(number % 2)) for number in range(count)]
        for stream in streams:
            stream.sendall(get(f"/taskEvents?uuid={uuid}"))
        for stream in streams:
            _read_to(stream, b"xxx")
        for stream in streams[: count // 2]:
            stream.close()
        running.call(post("/changeTaskState", ours))
        for stream in streams[count // 2 :]:
            _read_to(stream, b"0\r\n\r\n")


def _read_to(stream: socket.socket, end: bytes) -> None:
    read = b""
    while end not in read:
        read = read[-len(end) :] + (part := stream.recv(65_536))
        if not part:
            raise ConnectionError("A stream ended early.")


# Rounds ---------------------------------------------------------------------------------------------------------------

Load = Callable[[Deployment, int, int], None]
LOADS: Final[Mapping[str, tuple[Load, int]]] = {
    "tasks": (load_tasks, WAVE),
    "watches": (load_watches, WAVE),
    "streams": (load_streams, STREAM_WAVE),
}


def grow(counts: Mapping[str, int], rounds: int, folder: Path) -> Grown:
    """Does so many of each kind in each round, and reads what everybody keeps.

    Args:
        counts: By kind: tasks, watches, streams.
        rounds: One after the other.
        folder: For the processes' logs.

    Raises:
        AssertionError: Something did not come to rest, or a process has logged a defect.
    """
    memory: dict[str, dict[str, list[float]]] = {kind: {} for kind in counts}
    with EmbeddedServer() as server, ExitStack() as stack:
        running = Deployment(server, folder, stack)
        for number in range(rounds):
            for kind, count in counts.items():
                load, wave = LOADS[kind]
                with running.connected():
                    for done in range(0, count, wave):
                        load(running, number * count + done, min(wave, count))
                running.wait_for_rest()
                for who, size in running.memory_mb().items():
                    memory[kind].setdefault(who, []).append(size)
        for process in running.processes:
            process.assert_log_has_no_defect()
    return Grown(memory)


def main() -> int:
    """Measures and prints it; 1 when memory grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.growth")
    parser.add_argument("--tasks", type=int, default=100_000, help="a round")
    parser.add_argument("--watches", type=int, default=100_000, help="a round")
    parser.add_argument("--streams", type=int, default=10_000, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if not allow_descriptors(8 * WAVE):
        print("So many calls need a higher limit of open files: see `ulimit -Hn`.", file=sys.stderr)
        return 1
    counts = {kind: getattr(asked, kind) for kind in LOADS}
    with tempfile.TemporaryDirectory() as folder:
        grown = grow({kind: count for kind, count in counts.items() if count}, asked.rounds, Path(folder))
    for kind, by_whom in grown.memory_mb.items():
        for who, sizes in by_whom.items():
            print(f"{who} after {counts[kind]} {kind}: {', '.join(f'{size:.1f}' for size in sizes)} MB")
    growth = grown.growth_mb()
    print(f"growth: {', '.join(f'{who} {size:+.1f} MB' for who, size in growth.items())}")
    return 0 if all(size < MOST_GROWTH_MB[who] for who, size in growth.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
