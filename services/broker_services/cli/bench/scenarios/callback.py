"""changeTaskState by a third party until the held createTask call of that task is answered.

Each lane first has a call held, unmeasured; what is measured is from the third party's sending to the caller's answer.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from broker_services.cli.bench.pace import Over, Pace
from broker_services.cli.bench.scenario import Options, Scenario, UnexpectedError, call, ended

SETTLE_S: Final = 0.05
"""Between sending the call that is to be held and the change: by then the caller waits."""


class Callback(Scenario):
    """As many pairs of a held call and its change as there are lanes."""

    calls = "callbacks"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._queue = options.own_queue()

    async def step(self, pace: Pace) -> None:
        uuid, options = secrets.token_hex(12), self._options
        task = options.new_task(self._queue, uuid=uuid, wait=options.timeout_s)
        # Created before it is held, so that no change can come before it.
        create = options.client.post("/createTask", {**task, "wait": 0})
        await call(options.client, create, options.timeout_s, 202)
        hold = options.client.post("/createTask", task)
        held = asyncio.create_task(call(options.client, hold, options.timeout_s + 1, 200, 202))
        try:
            await pace.pause(SETTLE_S)
            begun = await pace.begin()
            await self._change(uuid)
            answer = await held
        except Over:
            await self._change(uuid)
            raise
        finally:
            await ended(held)
        if answer.status == 202:
            raise UnexpectedError("202: the wait was over before the change arrived")
        pace.record(begun, answer.at)

    async def _change(self, uuid: str) -> None:
        options = self._options
        change = options.second.post("/changeTaskState", {"uuid": uuid, "result": 1})
        await call(options.second, change, options.timeout_s, 200)
