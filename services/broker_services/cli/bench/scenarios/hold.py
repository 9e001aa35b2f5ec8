"""Calls that are all held for the whole run; then each task is ended, and its caller must be answered.

It shows whether everything in between (balancers, proxies, limits of files and waiters) lets that many calls wait for
that long. What is measured is from a task's end to the answer of its caller.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

from broker_services.cli.bench.http import Answer
from broker_services.cli.bench.pace import Over, Pace
from broker_services.cli.bench.scenario import Options, Scenario, UnexpectedError, call, ended, state_of

OPENING_AT_A_TIME: Final = 64
ENDING_AT_A_TIME: Final = 64
WAIT_S: Final = 3_600
"""Shortened by the deployment to its own limit; a call whose wait is over is made again."""

OPEN: Final = ("pending", "running")


class Hold(Scenario):
    """One held call a lane."""

    calls = "held calls answered"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._queue = options.own_queue()
        self._opening = asyncio.Semaphore(OPENING_AT_A_TIME)
        self._ending = asyncio.Semaphore(ENDING_AT_A_TIME)

    async def step(self, pace: Pace) -> None:
        uuid = secrets.token_hex(12)
        async with self._opening:
            await self._create(uuid)
        held = asyncio.create_task(self._held(uuid))
        try:
            await self._until_over(pace, held)
            pace.count_from_now()
            async with self._ending:
                begun = time.perf_counter()
                await self._change(uuid)
                async with asyncio.timeout(self._options.timeout_s):
                    answer = await held
        finally:
            await ended(held)
        pace.record(begun, answer.at)
        raise Over

    async def _create(self, uuid: str) -> None:
        create = self._options.client.post("/createTask", self._options.new_task(self._queue, uuid=uuid, wait=0))
        await call(self._options.client, create, self._options.timeout_s, 202)

    async def _until_over(self, pace: Pace, held: asyncio.Task[Answer]) -> None:
        """Returns at the end of the run. A call that is answered before it is an error."""
        over = asyncio.create_task(pace.until_over())
        await asyncio.wait({over, held}, return_when=asyncio.FIRST_COMPLETED)
        await ended(over)
        if held.done():
            held.result()
            raise UnexpectedError("answered before the task had ended")

    async def _held(self, uuid: str) -> Answer:
        request = self._options.client.get(f"/queryTaskState?uuid={uuid}&wait={WAIT_S}")
        while True:
            answer = await call(self._options.client, request, WAIT_S, 200)
            if state_of(answer) not in OPEN:
                return answer

    async def _change(self, uuid: str) -> None:
        change = self._options.second.post("/changeTaskState", {"uuid": uuid, "result": 1})
        await call(self._options.second, change, self._options.timeout_s, 200)
