"""A worker of the fault suite over HTTP: it claims from any instance, and hangs up, dies, fails or gives back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.faults.caller import Caller
from tests.faults.checker import seconds_of
from tests.faults.history import Call, Disturbance

QUEUE: Final = "f-http"
BEATS_PER_LEASE: Final = 4
STOPS_BEFORE: Final = 0.15
"""The part of a lease that must be left: with less the worker stops, since its lease may be over any moment."""
HANGS_UP: Final = 0.2
DIES: Final = 0.1
FAILS: Final = 0.2
RETURNS: Final = 0.1


class HttpWorker:
    """One worker; what it runs is written down as handlers do it.

    Args:
        caller: Its calls.
        chance: Seeded.
        disturbances: Where its deaths are written down.
        lease_s: Of the instances.
    """

    def __init__(
        self, caller: Caller, chance: random.Random, disturbances: list[Disturbance], *, lease_s: float
    ) -> None:
        self._caller = caller
        self._chance = chance
        self._disturbances = disturbances
        self._lease_s = lease_s
        self._name = f"{caller.name}-works"

    async def run(self, over: Callable[[], bool]) -> None:
        """Works until it is `over`."""
        while not over():
            leaves_after_s = self._chance.uniform(0.0, 0.6) if self._chance.random() < HANGS_UP else None
            wait_s = self._chance.choice([0, 0.5, 1.5])
            call = await self._caller.claim(self._any(), QUEUE, wait_s, leaves_after_s=leaves_after_s)
            tasks = call.answer["tasks"] if call.status == 200 else []
            await asyncio.gather(*[self._work(task) for task in tasks])
            if not tasks:
                await asyncio.sleep(self._chance.uniform(0.05, 0.2))

    def _any(self) -> str:
        return self._chance.choice(self._caller.instances)

    async def _work(self, task: dict[str, Any]) -> None:
        claimed = seconds_of(task["lease_expires_at"]) - self._lease_s
        start = {name: task[name] for name in ("uuid", "queue", "attempt", "lease")}
        self._write(task, {**start, "claimed": claimed, "started": time.time(), "pid": 0, "worker": self._name})
        if self._chance.random() < DIES:
            now = time.time()
            self._disturbances.append(Disturbance(kind="died", target=self._name, start=claimed, end=now))
            return
        is_done = await self._run(task)
        self._write(task, {"lease": task["lease"], "ended": time.time()})
        if is_done:
            await self._settle(task)

    async def _run(self, task: dict[str, Any]) -> bool:
        """Whether it came to its end with the lease still its own."""
        done_at = time.time() + task["payload"]["seconds"]
        lease_ends = seconds_of(task["lease_expires_at"])
        while (now := time.time()) < done_at:
            if now > lease_ends - self._lease_s * STOPS_BEFORE:
                return False
            await asyncio.sleep(min(done_at - now, self._lease_s / BEATS_PER_LEASE))
            call = await self._beat(task)
            if call.status == 200 and not call.answer["cancelled"]:
                lease_ends = seconds_of(call.answer["lease_expires_at"])
            elif call.status in (200, 404, 409):
                return False
        return True

    async def _beat(self, task: dict[str, Any]) -> Call:
        request = {"uuid": task["uuid"], "lease": task["lease"], "progress": task["attempt"]}
        patience_s = self._lease_s / BEATS_PER_LEASE
        return await self._caller.work("heartbeat", self._any(), request, leaves_after_s=patience_s)

    async def _settle(self, task: dict[str, Any]) -> None:
        mine = {"uuid": task["uuid"], "lease": task["lease"]}
        result = {"by": task["lease"], "attempt": task["attempt"]}
        fate = self._chance.random()
        if fate < FAILS:
            await self._caller.work("release", self._any(), {**mine, "error": {"details": result}, "delay": 0.1})
        elif fate < FAILS + RETURNS:
            await self._caller.work("release", self._any(), mine)
        else:
            # Whatever is answered: where nothing is, the lease runs out and the next attempt follows.
            await self._caller.work("settle", self._any(), {**mine, "result": result})

    def _write(self, task: dict[str, Any], line: dict[str, Any]) -> None:
        path = Path(task["payload"]["folder"]) / f"{self._name}-{os.getpid()}.jsonl"
        with path.open("ab", buffering=0) as log:
            log.write(json.dumps(line).encode() + b"\n")
