"""Servers and sentinels behind proxies, the processes that find the master by them, and what befalls them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from broker.store.embedded import EmbeddedServer, free_port
from tests.faults.caller import ADDRESS
from tests.faults.deployment import COMMAND, DRAIN_S, HANDLERS, Deployment, Member
from tests.faults.history import History
from tests.faults.node_proxy import PEERS, NodeProxy
from tests.support.api import ServiceProcess
from tests.support.processes import freeze
from tests.support.sentinel import Replication

CUT_OFF_S: Final = 3.0
"""How long a master that was cut off goes on answering its clients after another one has been named."""
STOPPED_S: Final = 8.0
"""How long a replica stands still: longer than callers are kept waiting for it."""


class WatchedServers(Replication):
    """A replication whose members reach each other by proxies, one in front of each server.

    Args:
        folder: Data, configurations and logs.
        proxies: By server, in front of it.
    """

    # A busy machine is not to be taken for a dead server.
    down_after_ms = 1_000

    def __init__(self, folder: Path, proxies: list[NodeProxy], ports: list[int]) -> None:
        super().__init__(folder, replicas=len(ports) - 1)
        self.proxies = proxies
        self.servers = [
            EmbeddedServer(
                folder / f"server{number}",
                port=port,
                options={
                    "repl-diskless-sync-delay": "0",
                    "repl-ping-replica-period": "1",
                    "bind-source-addr": PEERS,
                    "replica-announce-ip": ADDRESS,
                    "replica-announce-port": str(proxy.port),
                },
            )
            for number, (port, proxy) in enumerate(zip(ports, proxies, strict=True))
        ]

    def way_to(self, server: EmbeddedServer) -> int:
        """By its proxy."""
        return self.proxy_of(server).port

    def proxy_of(self, server: EmbeddedServer) -> NodeProxy:
        """What stands before it."""
        return self.proxies[self.servers.index(server)]

    def directives(self) -> list[str]:
        """As ever, and sentinels are peers."""
        return [*super().directives(), f"bind-source-addr {PEERS}"]


class WatchedDeployment(Deployment):
    """Members that know nothing but the sentinels.

    Args:
        servers: What they use.
        members: API instances and workers.
        history: Of the run.
    """

    def __init__(self, servers: WatchedServers, members: list[Member], history: History) -> None:
        super().__init__(servers.servers[0], members, history)
        self.servers = servers
        self.befalls: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": self._kill_master,
            "cut": self._cut_master_off,
            "planned": self._replace_master,
            "sentinel": self._kill_sentinel_and_master,
            "stop-one": lambda: self._stop_replicas(1),
            "stop-all": lambda: self._stop_replicas(2),
        }

    async def befall(self, kind: str) -> None:
        """Something happens to the servers; returns when everything is whole again."""
        await self.befalls[kind]()
        await asyncio.to_thread(self.servers.until_whole)

    async def _kill_master(self) -> None:
        master = self.servers.master
        with self.disturbing("redis-kill", "redis"):
            await asyncio.to_thread(master.kill)
            await asyncio.to_thread(self.servers.until_moved, master)
        await asyncio.sleep(CUT_OFF_S)
        await asyncio.to_thread(self.servers.revive, master)

    async def _cut_master_off(self) -> None:
        master = self.servers.master
        proxy = self.servers.proxy_of(master)
        with self.disturbing("redis-cut-off", "redis"):
            proxy.isolate()
            await asyncio.to_thread(self.servers.until_moved, master)
        await asyncio.sleep(CUT_OFF_S)
        proxy.heal()

    async def _replace_master(self) -> None:
        with self.disturbing("redis-replaced", "redis"):
            await asyncio.to_thread(self.servers.fail_over)

    async def _kill_sentinel_and_master(self) -> None:
        sentinel = self.servers.sentinels[0]
        await asyncio.to_thread(sentinel.kill)
        await self._kill_master_without(sentinel.start)

    async def _kill_master_without(self, then: Callable[[], None]) -> None:
        master = self.servers.master
        with self.disturbing("redis-kill", "redis"):
            await asyncio.to_thread(master.kill)
            await asyncio.to_thread(self.servers.until_moved, master)
        await asyncio.to_thread(then)
        await asyncio.to_thread(self.servers.revive, master)

    async def _stop_replicas(self, count: int) -> None:
        replicas = self.servers.replicas[:count]
        with self.disturbing("redis-replicas-stop", "redis"):
            for replica in replicas:
                await asyncio.to_thread(freeze, replica.process, replica.pid)
            await asyncio.sleep(STOPPED_S)
            for replica in replicas:
                replica.process.send_signal(signal.SIGCONT)


class _WatchedMember(Member):
    """Nobody stands between a member and the servers that could tell when it is connected."""

    async def _serves(self) -> bool:
        return self.port is None or await super()._serves()


@asynccontextmanager
async def watched_deployment(
    folder: Path, *, apis: int, workers: int, lease_s: float, wait_replicas: int
) -> AsyncIterator[WatchedDeployment]:
    """A deployment that runs on three servers with three sentinels; it ends with the block."""
    async with AsyncExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        proxies = [await stack.enter_async_context(NodeProxy(port)) for port in ports]
        servers = WatchedServers(folder, proxies, ports)
        stack.push_async_callback(asyncio.to_thread, servers.stop)
        await asyncio.to_thread(servers.start)
        settings = {"lease_s": f"{lease_s:g}", "drain_s": f"{DRAIN_S:g}", "wait_replicas": str(wait_replicas)}
        members: list[Member] = []
        for number in range(apis + workers):
            name = f"api{number + 1}" if number < apis else f"worker{number - apis + 1}"
            members.append(_member(name, servers, folder, settings))
        running = WatchedDeployment(servers, members, History(lease_s=lease_s))
        stack.push_async_callback(_stop_all, members)
        await running.start()
        yield running


def _member(name: str, servers: WatchedServers, folder: Path, settings: dict[str, str]) -> Member:
    port = free_port() if name.startswith("api") else None
    what = ("worker", HANDLERS) if port is None else ("api", "--host", ADDRESS, "--port", str(port))
    log = folder / f"{name}.log"
    service = ServiceProcess(*what, "--redis-url", servers.url, log=log, command=COMMAND, folder=None, **settings)
    return _WatchedMember(name, service, log, port)


async def _stop_all(members: list[Member]) -> None:
    for member in members:
        await asyncio.to_thread(member.service.process.kill)
