"""What a scenario is, and what all of them do: call, look at the answer, count what went wrong."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

import msgspec

from broker_services.cli.bench.http import Answer, HttpClient
from broker_services.cli.bench.pace import Over, Pace

PAUSE_AFTER_ERROR_S: Final = 0.1
KEPT_S: Final = 60
"""How long the records of ended tasks are kept: nobody asks for them again."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was asked for.

    `second`: where third parties call, in the scenarios that have one. `run_s`: how long the run takes. `queue`: None
    for the scenario's own. `payload`: JSON text.
    """

    client: HttpClient
    second: HttpClient
    concurrency: int
    timeout_s: float
    run_s: float
    queue: str | None
    payload: bytes | None

    def new_task(self, queue: str, **fields: Any) -> dict[str, Any]:
        """The fields of a createTask call."""
        document: dict[str, Any] = {"queue": queue, "retention": KEPT_S, "expires_in": self.expires_s, **fields}
        if self.payload is not None:
            document["payload"] = msgspec.Raw(self.payload)
        return document

    @property
    def expires_s(self) -> float:
        """When a task that the run has left behind is no longer pending."""
        return self.run_s + 3 * self.timeout_s

    def own_queue(self) -> str:
        """The queue that was asked for, else one that nobody works on."""
        return self.queue or f"bench-{secrets.token_hex(4)}"


class Scenario(ABC):
    """One kind of load.

    Args:
        options: What was asked for.
    """

    calls: ClassVar[str]
    """What is counted, for people."""

    def __init__(self, options: Options) -> None:
        self._options = options

    @property
    def lanes(self) -> int:
        """How many of `step` go on side by side."""
        return self._options.concurrency

    async def prepare(self) -> None:  # noqa: B027  most have nothing to prepare
        """Makes what has to be there before the run begins. Raises what `step` may."""

    @abstractmethod
    async def step(self, pace: Pace) -> None:
        """Once: `pace.begin`, the call, `pace.record`; with what has to be done before and after, unmeasured.

        Raises:
            Over: The run is over.
            UnexpectedError, OSError: The call went wrong.
        """


class UnexpectedError(Exception):
    """An answer was not the one that it should be."""


class _Told(msgspec.Struct):
    code: str = ""
    state: str = ""
    error: Any = None


async def run_lanes(scenario: Scenario, pace: Pace) -> None:
    """Steps side by side until the run is over; what goes wrong is counted by its kind."""
    await asyncio.gather(*[_lane(scenario, pace) for _ in range(scenario.lanes)])


async def _lane(scenario: Scenario, pace: Pace) -> None:
    while True:
        try:
            if pace.is_over:
                return
            await scenario.step(pace)
        except Over:
            return
        except (UnexpectedError, OSError) as error:
            pace.fail(describe(error))
        else:
            continue
        # A deployment that refuses everything at once is not asked again as fast as it can refuse.
        await asyncio.sleep(PAUSE_AFTER_ERROR_S)


def describe(error: BaseException) -> str:
    """What went wrong, in words that are the same each time it does."""
    match error:
        case TimeoutError():
            return "not answered in time"
        case OSError():
            return error.strerror or str(error) or type(error).__name__
        case _:
            return str(error) or type(error).__name__


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels them and waits for their ends, however they end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def call(client: HttpClient, request: bytes, timeout_s: float, *expected: int) -> Answer:
    """A call that must be answered with one of these statuses.

    Raises:
        UnexpectedError: It is not; the text names the status and the problem's code.
        TimeoutError: Nothing came in time.
        OSError: There is no connection.
    """
    async with asyncio.timeout(timeout_s):
        answer = await client.call(request)
    if answer.status not in expected:
        raise UnexpectedError(f"{answer.status} {_decoded(answer).code}".strip())
    return answer


def state_of(answer: Answer) -> str:
    """The state of the task in an answer."""
    return _decoded(answer).state


def _decoded(answer: Answer) -> _Told:
    try:
        return msgspec.json.decode(answer.body, type=_Told)
    except msgspec.DecodeError:
        return _Told()
