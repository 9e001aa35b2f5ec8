"""The deployment under test: real processes, each behind a proxy of its own, on a real server that keeps its data.

The server writes its file to disk before it answers (`appendfsync always`), so that killing it loses nothing that
anybody was told of, and the suite may demand that nothing is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import redis.asyncio as redis

from broker import naming
from broker.store.embedded import EmbeddedServer, free_port
from tests.faults.caller import ADDRESS, get_status
from tests.faults.history import Disturbance, Execution, Exit, History
from tests.faults.proxy import FaultyProxy
from tests.support.api import ServiceProcess

COMMAND: Final = (sys.executable, "-m", "broker_services.cli.main")
HANDLERS: Final = "tests.faults.handlers:worker"
CONNECTIONS_EACH: Final = 2
"""Of an instance: commands and hub; of a worker: commands and bell. One more for fences, where there are any."""
POLL_S: Final = 0.05
START_DEADLINE_S: Final = 60.0
LEFTOVER_DEADLINE_S: Final = 15.0
DRAIN_S: Final = 4.0
GIVE_BACK_S: Final = 5.0
"""How much longer a worker may try to give its tasks back while the store is away."""
EXIT_GRACE_S: Final = 1.5
PERMANENT_KEYS: Final = frozenset(
    {
        naming.sequence_key(),
        naming.retained_bytes_key(),
        naming.queues_key(),
        # Taken again and again by whoever is there.
        naming.sweep_turn_key(),
        naming.upload_turn_key(),
    }
)
# What is known of queues goes after an hour of rest, and who was there within twenty seconds of being killed.
LASTING_PREFIXES: Final = (
    naming.queue_prefix(),
    naming.workers_prefix(),
    naming.waiters_prefix(),
    # Workers renew these all the time.
    naming.duty_prefix(),
    naming.turn_prefix(),
    naming.wake_prefix(),
)

_DEFECT: Final = re.compile(r"^Traceback.*|(?:ERROR|CRITICAL) asyncio: .*|.* failed\.$", re.MULTILINE)


class Member:
    """One process of the deployment, which comes back whenever it ends.

    Args:
        name: For the history.
        service: Its process.
        log: What it writes.
        port: Where it answers; None for a worker.
        proxy: Its way to the server, if it has one of its own.
    """

    def __init__(
        self, name: str, service: ServiceProcess, log: Path, port: int | None, proxy: FaultyProxy | None = None
    ) -> None:
        self.name = name
        self.log = log
        self.service = service
        self.port = port
        self._proxy = proxy
        self.is_in_hand = False
        self.connections = CONNECTIONS_EACH
        self.pids: list[int] = []

    @property
    def proxy(self) -> FaultyProxy:
        """Its way to the server."""
        assert self._proxy is not None, f"{self.name} has no proxy of its own"
        return self._proxy

    @property
    def kind(self) -> str:
        """`api` or `worker`."""
        return self.name.rstrip("0123456789")

    async def start(self) -> None:
        """Starts it and returns when it serves; a start that fails, since the store is away, is tried again."""
        while True:
            await asyncio.to_thread(self.service.start)
            self.pids.append(self.service.process.pid)
            while await asyncio.to_thread(lambda: self.service.process.running):
                if await self._serves():
                    return
                await asyncio.sleep(POLL_S)
            await asyncio.sleep(POLL_S)

    async def _serves(self) -> bool:
        if self.port is not None:
            return await get_status(self.port, "/healthz") == 200
        return self.proxy.connections >= self.connections

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.service.process.send_signal(number)

    def descriptors(self) -> Counter[str]:
        """What it has open, by kind."""
        found: Counter[str] = Counter()
        folder = Path(f"/proc/{self.service.process.pid}/fd")
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                kind, colon, _ = os.readlink(path).partition(":")
                found[kind if colon else "file"] += 1
        return found


class Deployment:
    """All members, the server, and what is done to them."""

    def __init__(self, server: EmbeddedServer, members: Sequence[Member], history: History) -> None:
        self.server = server
        self.members = {member.name: member for member in members}
        self.history = history
        self._descriptors: dict[str, Counter[str]] = {}

    @property
    def ports(self) -> dict[str, int]:
        """Of the instances, by name."""
        return {name: member.port for name, member in self.members.items() if member.port is not None}

    @contextlib.contextmanager
    def disturbing(self, kind: str, target: str, since: float | None = None) -> Iterator[None]:
        """Writes down what is done inside, for as long as it lasts."""
        disturbance = Disturbance(kind=kind, target=target, start=since or time.time(), end=float("inf"))
        self.history.disturbances.append(disturbance)
        try:
            yield
        finally:
            disturbance.end = time.time()

    async def start(self) -> None:
        """Starts all members, and notes what they have open when nothing happens."""
        async with asyncio.timeout(START_DEADLINE_S):
            await asyncio.gather(*[member.start() for member in self.members.values()])
            await self.until_ready()
        for member in self.members.values():
            self._descriptors.setdefault(member.kind, member.descriptors())

    async def until_ready(self) -> None:
        """Returns when outcomes reach every instance."""
        for port in self.ports.values():
            while await get_status(port, "/readyz") != 200:  # noqa: ASYNC110 - another process tells
                await asyncio.sleep(POLL_S)

    async def look_after(self) -> None:
        """Starts again what has died by itself, until cancelled."""
        await asyncio.gather(*[self._look_after(member) for member in self.members.values()])

    async def _look_after(self, member: Member) -> None:
        last_seen = time.time()
        while True:
            now = time.time()
            is_running = await asyncio.to_thread(lambda: member.service.process.running)
            if is_running or member.is_in_hand:
                last_seen = now
            else:
                await self.restart(member, "died", since=last_seen)
            await asyncio.sleep(POLL_S)

    async def restart(self, member: Member, kind: str, after_s: float = 0.0, since: float | None = None) -> None:
        """Starts a member that has ended, or is about to, again; `since`: when it may have ended by itself."""
        member.is_in_hand = True
        try:
            with self.disturbing(kind, member.name, since):
                await self._end(member, kind)
                await asyncio.sleep(after_s)
                async with asyncio.timeout(START_DEADLINE_S):
                    await member.start()
        finally:
            member.is_in_hand = False

    async def _end(self, member: Member, kind: str) -> None:
        started = time.time()
        if kind.endswith("-term"):
            member.send(signal.SIGTERM)
            allowed_s = DRAIN_S + EXIT_GRACE_S + (GIVE_BACK_S if member.kind == "worker" else 0)
            exit_code = await asyncio.to_thread(member.service.process.wait, allowed_s + 10)
            took = time.time() - started
            self.history.exits.append(
                Exit(target=member.name, started=started, seconds=took, allowed_s=allowed_s, exit_code=exit_code)
            )
        await asyncio.to_thread(member.service.process.kill)

    def assign_executions(self, folder: Path) -> None:
        """Reads what the handlers wrote, and puts names to their processes."""
        names = {pid: member.name for member in self.members.values() for pid in member.pids}
        self.history.executions = [
            msgspec.structs.replace(execution, worker=names.get(execution.pid, execution.worker or "?"))
            for execution in read_executions(folder)
        ]

    def find_defects(self) -> None:
        """What a process logged that tells of a defect, whatever was done to it."""
        for member in self.members.values():
            lines = Counter(_DEFECT.findall(member.log.read_text(errors="replace")))
            self.history.defects += [f"{member.name} logged {count} times: {line}" for line, count in lines.items()]

    async def find_leftovers(self) -> None:
        """What is still there that should be gone, once every task has ended and every caller is answered."""
        store = redis.Redis.from_url(self.server.url)
        try:
            # Time passes for all that is retained, and for nothing else.
            retained: Any = await store.zrange(naming.retained_key(), 0, -1)
            for start in range(0, len(retained), 1_000):
                await store.zadd(naming.retained_key(), dict.fromkeys(retained[start : start + 1_000], 0), xx=True)
            looks: list[Callable[[], Awaitable[list[str]]]] = [
                lambda: _channels(store),
                lambda: _keys(store),
                lambda: self._connections(store),
                self._open_descriptors,
            ]
            for look in looks:
                self.history.leftovers += await _once_empty(look)
        finally:
            await store.aclose()

    async def _connections(self, store: redis.Redis) -> list[str]:
        names = [client["name"] for client in await store.client_list() if client["name"].startswith("broker-")]
        expected = sum(member.connections for member in self.members.values())
        return [] if len(names) == expected else [f"{len(names)} connections, not {expected}: {sorted(names)}"]

    async def _open_descriptors(self) -> list[str]:
        found = []
        for member in self.members.values():
            more = member.descriptors() - self._descriptors[member.kind]
            if more:
                found.append(f"{member.name} has more open than at its start: {dict(more)}")
        return found


@asynccontextmanager
async def deployment(
    folder: Path, *, apis: int, workers: int, lease_s: float, command: Sequence[str] = COMMAND, wait_replicas: int = 0
) -> AsyncIterator[Deployment]:
    """A deployment that runs; it ends with the block.

    Args:
        folder: For data and logs.
        apis: Instances.
        workers: Worker processes.
        lease_s: Of the workers.
        command: What `broker` is.
        wait_replicas: As many replicas are there, and all of them have to confirm.
    """
    options = {"appendfsync": "always", "repl-diskless-sync-delay": "0"}
    server = EmbeddedServer(folder / "data", options=options)
    history = History(lease_s=lease_s)
    settings = {"lease_s": f"{lease_s:g}", "drain_s": f"{DRAIN_S:g}", "wait_replicas": str(wait_replicas)}
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(server.start)
        stack.push_async_callback(asyncio.to_thread, server.stop)
        for number in range(wait_replicas):
            follows = {"replicaof": f"{ADDRESS} {server.port}"}
            stack.enter_context(EmbeddedServer(folder / f"replica{number}", options=follows))
        members = []
        for number in range(apis + workers):
            name = f"api{number + 1}" if number < apis else f"worker{number - apis + 1}"
            proxy = await stack.enter_async_context(FaultyProxy(server.port))
            member = _member(name, proxy, folder, settings, command)
            member.connections += wait_replicas > 0
            members.append(member)
        running = Deployment(server, members, history)
        stack.push_async_callback(_stop_all, members)
        await running.start()
        yield running


def read_executions(folder: Path) -> list[Execution]:
    """What the handlers wrote into `folder`."""
    found: dict[str, dict[str, object]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            part = msgspec.json.decode(line)
            found.setdefault(part["lease"], {}).update(part)
    return [msgspec.convert(parts, Execution) for parts in found.values()]


def _member(name: str, proxy: FaultyProxy, folder: Path, settings: dict[str, Any], command: Sequence[str]) -> Member:
    port = free_port() if name.startswith("api") else None
    what = ("worker", HANDLERS) if port is None else ("api", "--host", ADDRESS, "--port", str(port))
    log = folder / f"{name}.log"
    service = ServiceProcess(*what, "--redis-url", proxy.url, log=log, command=command, **settings)
    return Member(name, service, log, port, proxy)


async def _stop_all(members: Sequence[Member]) -> None:
    for member in members:
        with contextlib.suppress(AssertionError):
            await asyncio.to_thread(member.service.process.kill)


async def _channels(store: redis.Redis) -> list[str]:
    names: list[Any] = [*await store.pubsub_channels("*-response-*"), *await store.pubsub_channels("*-request-*")]
    return [f"channel {name.decode()}" for name in names]


async def _keys(store: redis.Redis) -> list[str]:
    found = {name.decode() async for name in store.scan_iter(count=1_000)} - PERMANENT_KEYS
    names = {name for name in found if not name.startswith(LASTING_PREFIXES)}
    return [f"{len(names)} keys such as {sorted(names)[:3]}"] if names else []


async def _once_empty(look: Callable[[], Awaitable[list[str]]]) -> list[str]:
    deadline = time.monotonic() + LEFTOVER_DEADLINE_S
    while (found := await look()) and time.monotonic() < deadline:  # noqa: ASYNC110 - another process tells
        await asyncio.sleep(POLL_S)
    return found
