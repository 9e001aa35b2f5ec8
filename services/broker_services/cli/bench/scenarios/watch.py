"""One publish until each of many watchers of its namespace has the value.

The watchers are the concurrency; a publish counts once a watcher. The next one leaves when all have been told, or when
it is due at a fixed rate.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import msgspec

from broker_services.cli.bench.http import Answer
from broker_services.cli.bench.pace import Pace
from broker_services.cli.bench.scenario import Options, Scenario, UnexpectedError, call, describe, ended

SETTLE_S: Final = 0.05
SETTLE_EACH_S: Final = 0.000_1
"""Until the watchers' calls are held, in all and for each."""


class _Published(msgspec.Struct):
    version: str


class Watch(Scenario):
    """One lane that publishes, and the watchers it tells."""

    calls = "watchers told"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._namespace = f"bench-{secrets.token_hex(4)}"
        self._version = ""

    @property
    def lanes(self) -> int:
        return 1

    async def prepare(self) -> None:
        self._version = await self._publish()
        await self._options.client.connect(self._options.concurrency)

    async def step(self, pace: Pace) -> None:
        watchers = self._options.concurrency
        watching = [asyncio.create_task(self._watch(self._version)) for _ in range(watchers)]
        try:
            await pace.pause(SETTLE_S + watchers * SETTLE_EACH_S)
            begun = await pace.begin()
            self._version = await self._publish()
            answers = await asyncio.gather(*watching, return_exceptions=True)
        finally:
            await ended(*watching)
        self._count(pace, begun, answers)

    def _count(self, pace: Pace, begun: float, answers: list[Answer | BaseException]) -> None:
        for answer in answers:
            if isinstance(answer, BaseException):
                pace.fail(describe(answer))
            else:
                pace.record(begun, answer.at)

    async def _watch(self, version: str) -> Answer:
        options = self._options
        request = options.client.get(f"/watch/{self._namespace}?version={version}&wait={options.timeout_s:g}")
        answer = await call(options.client, request, options.timeout_s + 1, 200, 304)
        if answer.status == 304:
            raise UnexpectedError("304: not told within the time")
        return answer

    async def _publish(self) -> str:
        options = self._options
        payload = msgspec.Raw(options.payload or b"1")
        answer = await call(
            options.second, options.second.post(f"/publish/{self._namespace}", payload), options.timeout_s, 200
        )
        return msgspec.json.decode(answer.body, type=_Published).version
