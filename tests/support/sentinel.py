"""A master, its replicas and the sentinels that watch them, as processes of this machine."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis

from broker.child_process import ChildProcess
from broker.store.embedded import ADDRESS, EmbeddedServer, find_binary, free_port

SERVICE: Final = "broker-master"
FAILOVER_TIMEOUT_MS: Final = 4_000
READY_DEADLINE_S: Final = 60.0
POLL_S: Final = 0.02


class SentinelProcess:
    """One sentinel. Can be started again after `stop` or `kill`: same port, and it knows what it knew.

    Args:
        folder: Its own; its configuration lives there, which it rewrites.
        directives: Further lines of it.
    """

    def __init__(self, folder: Path, directives: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.port = free_port()
        self.process: ChildProcess | None = None
        lines = [
            f"port {self.port}",
            f"bind {ADDRESS}",
            f"dir {folder}",
            f"sentinel announce-ip {ADDRESS}",
            *directives,
        ]
        self._configuration.write_text("\n".join(lines) + "\n")

    @property
    def _configuration(self) -> Path:
        return self._folder / "sentinel.conf"

    def start(self) -> None:
        """Starts it and returns when it answers."""
        with (self._folder / "sentinel.log").open("ab") as output:
            command = [str(find_binary()), str(self._configuration), "--sentinel"]
            self.process = ChildProcess(command, output=output, folder=self._folder)
        until(lambda: _listens(self.port), f"sentinel {self.port} listens")

    def ask(self, *words: str, password: str | None = None) -> Any:
        """One command; None when it doesn't answer."""
        return command(self.port, *words, password=password)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        """In order."""
        if self.process is not None:
            self.process.stop()


class Replication:
    """Servers of which one is the master, and their sentinels.

    Args:
        folder: Data, configurations and logs.
        replicas: How many the master has.
        sentinels: How many; most of them have to agree.
        options: Of every server.
    """

    down_after_ms = 500

    def __init__(
        self, folder: Path, *, replicas: int = 2, sentinels: int = 3, options: dict[str, str] | None = None
    ) -> None:
        shared = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1", **(options or {})}
        self.servers = [
            EmbeddedServer(folder / f"server{number}", port=free_port(), options=shared)
            for number in range(replicas + 1)
        ]
        self.folder = folder
        self._count = sentinels
        self.sentinels: list[SentinelProcess] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What `BROKER_REDIS_URL` takes."""
        return f"redis+sentinel://{','.join(f'{ADDRESS}:{each.port}' for each in self.sentinels)}/{SERVICE}/0"

    def way_to(self, server: EmbeddedServer) -> int:
        """The port by which others reach a server."""
        return server.port

    @property
    def master(self) -> EmbeddedServer:
        """The server that most sentinels name."""
        named = [each.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE) for each in self.sentinels]
        ports = [int(answer[1]) for answer in named if answer]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if self.way_to(server) == port)

    @property
    def replicas(self) -> list[EmbeddedServer]:
        """The others."""
        master = self.master
        return [server for server in self.servers if server is not master]

    def start(self) -> None:
        """Starts all of it, and returns when the sentinels know each other and the replicas."""
        for server in self.servers:
            server.start()
        for server in self.servers[1:]:
            self.attach(server, self.servers[0])
        until(lambda: self.attached(self.servers[0]) == len(self.servers) - 1, "the replicas are attached")
        directives = self.directives()
        self.sentinels = [
            SentinelProcess(self.folder / f"sentinel{number}", directives) for number in range(self._count)
        ]
        for sentinel in self.sentinels:
            sentinel.start()
        self.until_whole()

    def directives(self) -> list[str]:
        """Of each sentinel."""
        return [
            f"sentinel monitor {SERVICE} {ADDRESS} {self.way_to(self.servers[0])} {self._count // 2 + 1}",
            f"sentinel down-after-milliseconds {SERVICE} {self.down_after_ms}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}",
            f"sentinel parallel-syncs {SERVICE} 2",
        ]

    def stop(self) -> None:
        """Ends all of it."""
        for sentinel in self.sentinels:
            sentinel.stop()
        for server in self.servers:
            if server.running:
                server.kill()

    def attach(self, server: EmbeddedServer, master: EmbeddedServer) -> None:
        """Makes a server a replica."""
        command(server.port, "REPLICAOF", ADDRESS, str(self.way_to(master)))

    def attached(self, server: EmbeddedServer) -> int:
        """How many replicas a server has, if it is a master."""
        role = command(server.port, "ROLE")
        return len(role[2]) if role and role[0] == "master" else 0

    def is_whole(self) -> bool:
        """Whether all sentinels know all others and all replicas as alive, and these are in step with the master."""
        if not all(self._knows_all(sentinel) for sentinel in self.sentinels):
            return False
        return self.attached(self.master) == len(self.servers) - 1

    def _knows_all(self, sentinel: SentinelProcess) -> bool:
        state = _pairs(sentinel.ask("SENTINEL", "MASTER", SERVICE))
        if state.get("flags") != "master" or int(state["num-other-sentinels"]) != len(self.sentinels) - 1:
            return False
        replicas = [_pairs(row) for row in sentinel.ask("SENTINEL", "REPLICAS", SERVICE) or []]
        good = [one for one in replicas if one["flags"] == "slave"]
        others = [_pairs(row) for row in sentinel.ask("SENTINEL", "SENTINELS", SERVICE) or []]
        return len(good) == len(self.servers) - 1 and all(_is_there(other) for other in others)

    def described(self) -> str:
        """What servers and sentinels say, for whoever wonders why they do not come to agree."""
        lines = [f"server {self.way_to(server)}: {command(server.port, 'ROLE')}" for server in self.servers]
        for sentinel in self.sentinels:
            state = _pairs(sentinel.ask("SENTINEL", "MASTER", SERVICE))
            rows = [_pairs(row) for row in sentinel.ask("SENTINEL", "REPLICAS", SERVICE) or []]
            replicas = [(row["name"], row["flags"], row["master-link-status"]) for row in rows]
            others = [_pairs(row)["flags"] for row in sentinel.ask("SENTINEL", "SENTINELS", SERVICE) or []]
            seen = f"master {state.get('port')} {state.get('flags')}, replicas {replicas}, sentinels {others}"
            lines.append(f"sentinel {sentinel.port}: {seen}")
        return "\n".join(lines)

    def until_whole(self) -> None:
        """Returns when `is_whole`."""
        try:
            until(self.is_whole, "servers and sentinels agree")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.described()}") from None

    def fail_over(self) -> None:
        """Has a sentinel replace the master in an orderly way; returns when all name the new one."""
        before = self.master
        until(lambda: self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE) is not None, "a failover begins")
        self.until_moved(before)

    def until_moved(self, before: EmbeddedServer) -> None:
        """Returns when the sentinels name another master."""
        until(lambda: self.master is not before, "the sentinels name another master")

    def revive(self, server: EmbeddedServer) -> None:
        """Starts a dead server as a replica, and returns when everything is whole again."""
        server.start()
        self.attach(server, self.master)
        self.until_whole()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, port)) == 0


def command(port: int, *words: str, password: str | None = None) -> Any:
    """One command to a server or sentinel, its answer as redis-py has it without a schema; None for none."""
    with redis.Redis(port=port, socket_timeout=1, decode_responses=True, protocol=2, password=password) as client:
        client.response_callbacks.clear()
        try:
            return client.execute_command(*words)
        except (redis.RedisError, OSError):
            return None


def until(condition: Any, what: str) -> None:
    """Waits for a condition.

    Raises:
        TimeoutError: It never held.
    """
    deadline = time.monotonic() + READY_DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Not in time: {what}.")
        time.sleep(POLL_S)


def _is_there(sentinel: dict[str, str]) -> bool:
    # One that once agreed that the master was down keeps that flag.
    return not {"s_down", "disconnected"} & set(sentinel["flags"].split(","))


def _pairs(flat: Sequence[str] | None) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}
