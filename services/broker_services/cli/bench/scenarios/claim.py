"""claimTask by a worker over HTTP: from the call to the answer that has a task.

Each lane creates a task and afterwards ends what it has claimed, both unmeasured.
"""

from __future__ import annotations

from typing import Final

import msgspec

from broker_services.cli.bench.pace import Pace
from broker_services.cli.bench.scenario import Options, Scenario, UnexpectedError, call

CLAIM_WAIT_S: Final = 5


class _Task(msgspec.Struct):
    uuid: str
    lease: str


class _Claimed(msgspec.Struct):
    tasks: list[_Task]


class Claim(Scenario):
    """As many workers as there are lanes."""

    calls = "claims"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        queue = options.own_queue()
        client = options.client
        self._create = client.post("/createTask", options.new_task(queue, wait=0))
        self._claim = client.post("/claimTask", {"queues": [queue], "wait": CLAIM_WAIT_S})

    async def step(self, pace: Pace) -> None:
        options = self._options
        await call(options.client, self._create, options.timeout_s, 202)
        begun = await pace.begin()
        answer = await call(options.client, self._claim, CLAIM_WAIT_S + options.timeout_s, 200)
        claimed = msgspec.json.decode(answer.body, type=_Claimed).tasks
        if not claimed:
            raise UnexpectedError("nothing was claimed")
        pace.record(begun, answer.at)
        for task in claimed:
            change = options.client.post("/changeTaskState", {"uuid": task.uuid, "lease": task.lease, "result": 1})
            await call(options.client, change, options.timeout_s, 200)
