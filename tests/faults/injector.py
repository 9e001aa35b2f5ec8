"""Does to a deployment what a plan says, and writes down from when to when."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

import redis.asyncio as redis

from tests.faults.checker import MACHINE, STALL
from tests.faults.deployment import Deployment, Member
from tests.faults.history import Disturbance
from tests.faults.plan import Fault
from tests.faults.proxy import Drop

DELAY_S: Final = 0.2
TICK_S: Final = 0.05
STALL_S: Final = 0.2
"""The machine is busy when a tick comes so late."""


class Injector:
    """One run's faults.

    Args:
        deployment: What they strike.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._actions: dict[str, Callable[[Fault], Coroutine[None, None, None]]] = {
            "api-kill": self._restart,
            "worker-kill": self._restart,
            "api-term": self._restart,
            "worker-term": self._restart,
            "api-stop": self._stop,
            "worker-stop": self._stop,
            "redis-kill": self._kill_server,
            "redis-stop": self._stop_server,
            "script-flush": self._command("SCRIPT FLUSH"),
            "kill-pubsub": self._command("CLIENT KILL TYPE pubsub"),
            "kill-normal": self._command("CLIENT KILL TYPE normal"),
            "cut": self._cut,
            "refuse": self._refuse,
            "freeze": self._freeze,
            "delay": self._delay,
            "drop-all": self._drop,
            "drop-quietly": self._drop,
        }

    async def run(self, plan: Sequence[Fault]) -> None:
        """Each fault at its time; returns when the last one is over."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in plan:
                await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
                group.create_task(self._actions[fault.kind](fault))

    async def watch_machine(self) -> None:
        """Notes when this machine keeps its processes waiting, until cancelled."""
        last = time.time()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.time()
            if now - last > TICK_S + STALL_S:
                stall = Disturbance(kind=STALL, target=MACHINE, start=last, end=now)
                self._deployment.history.disturbances.append(stall)
            last = now

    def _member(self, fault: Fault) -> Member:
        return self._deployment.members[fault.target]

    async def _restart(self, fault: Fault) -> None:
        member = self._member(fault)
        if not member.is_in_hand:
            await self._deployment.restart(member, fault.kind, fault.seconds)

    async def _stop(self, fault: Fault) -> None:
        member = self._member(fault)
        if member.is_in_hand:
            return
        member.is_in_hand = True
        try:
            with self._deployment.disturbing(fault.kind, fault.target):
                member.send(signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                member.send(signal.SIGCONT)
        finally:
            member.is_in_hand = False

    async def _kill_server(self, fault: Fault) -> None:
        server = self._deployment.server
        with self._deployment.disturbing(fault.kind, fault.target):
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(server.start)

    async def _stop_server(self, fault: Fault) -> None:
        process = self._deployment.server.process
        with self._deployment.disturbing(fault.kind, fault.target):
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            process.send_signal(signal.SIGCONT)

    def _command(self, command: str) -> Callable[[Fault], Coroutine[None, None, None]]:
        async def run(fault: Fault) -> None:
            with self._deployment.disturbing(fault.kind, fault.target), contextlib.suppress(redis.RedisError, OSError):
                async with redis.Redis.from_url(self._deployment.server.url, socket_timeout=1) as store:
                    await store.execute_command(*command.split())  # type: ignore[no-untyped-call]

        return run

    async def _cut(self, fault: Fault) -> None:
        with self._deployment.disturbing(fault.kind, fault.target):
            self._member(fault).proxy.cut()

    async def _refuse(self, fault: Fault) -> None:
        proxy = self._member(fault).proxy
        with self._deployment.disturbing(fault.kind, fault.target):
            await proxy.refuse()
            await asyncio.sleep(fault.seconds)
            await proxy.listen()

    async def _freeze(self, fault: Fault) -> None:
        proxy = self._member(fault).proxy
        with self._deployment.disturbing(fault.kind, fault.target):
            proxy.freeze()
            await asyncio.sleep(fault.seconds)
            proxy.thaw()

    async def _delay(self, fault: Fault) -> None:
        proxy = self._member(fault).proxy
        with self._deployment.disturbing(fault.kind, fault.target):
            proxy.delay_s = DELAY_S
            await asyncio.sleep(fault.seconds)
            proxy.delay_s = 0.0

    async def _drop(self, fault: Fault) -> None:
        proxies = [member.proxy for member in self._deployment.members.values()]
        with self._deployment.disturbing(fault.kind, fault.target):
            for proxy in proxies:
                proxy.drop = Drop.ALL if fault.kind == "drop-all" else Drop.QUIETLY
            await asyncio.sleep(fault.seconds)
            for proxy in proxies:
                proxy.drop = Drop.NONE
