"""createTask until its worker has ended it: from the call to the answer."""

from __future__ import annotations

from typing import Final

from broker_services.cli.bench.pace import Pace
from broker_services.cli.bench.scenario import Options, Scenario, UnexpectedError, call, state_of

QUEUE: Final = "bench"
"""What `broker worker broker_services.worker.bench:worker` works on."""


class Roundtrip(Scenario):
    """As many calls at a time as there are lanes."""

    calls = "tasks"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        task = options.new_task(options.queue or QUEUE, wait=options.timeout_s)
        self._request = options.client.post("/createTask", task)

    async def step(self, pace: Pace) -> None:
        begun = await pace.begin()
        answer = await call(self._options.client, self._request, self._options.timeout_s + 1, 200, 202)
        if answer.status == 202:
            raise UnexpectedError("202: not ended in time (does a worker serve the queue?)")
        state = state_of(answer)
        if state != "succeeded":
            raise UnexpectedError(f"the task ended as {state}")
        pace.record(begun, answer.at)
