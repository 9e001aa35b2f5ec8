"""The store's transitions as an executor sees them, without a store: every call is kept, and answers as told."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from broker.errors import BrokerError
from broker.requests import Completion
from broker.store.claims import Claimed
from broker.store.codes import Code
from broker.store.commands import Receiver
from broker.store.completions import Changed
from broker.task import TaskState

Hindrance = Callable[[], Awaitable[None]]


class Call(NamedTuple):
    """One call: what was asked for, and for which attempt."""

    name: str
    uuid: str
    lease: str
    value: Any = None


class FakeTransitions:
    """Takes what an executor reports. `hindrances[name]` are awaited before the next calls of that name succeed;
    so many `unusual_answers` are given to receivers first."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.hindrances: dict[str, deque[Hindrance]] = {}
        self.ended_by_others: TaskState | None = None
        self.unusual_answers = 0
        self._asked: set[asyncio.Task[None]] = set()

    @property
    def settled(self) -> list[Call]:
        """All calls but renewals."""
        return [call for call in self.calls if call.name != "extend"]

    def hinder(self, name: str, *hindrances: Hindrance | Exception) -> None:
        """The next calls of `name` meet these, in order: an error is raised, anything else awaited."""
        self.hindrances.setdefault(name, deque()).extend(
            _raising(hindrance) if isinstance(hindrance, Exception) else hindrance for hindrance in hindrances
        )

    async def extend(self, uuid: str, lease: str, lease_ms: int, progress: bytes = b"") -> TaskState | int:
        await self._meet(Call("extend", uuid, lease, progress))
        return self.ended_by_others or lease_ms

    async def finish(
        self, uuid: str, completion: Completion, *, lease: str | None = None, wants_document: bool = False
    ) -> Changed:
        await self._meet(Call("finish", uuid, lease or "", completion))
        return Changed(uuid, True, completion.state, None)

    def hand_finish(self, uuid: str, lease: str, completion: Completion, receiver: Receiver) -> None:
        asking = asyncio.create_task(self._answer(receiver, Call("finish", uuid, lease, completion)))
        self._asked.add(asking)
        asking.add_done_callback(self._asked.discard)

    def flush_soon(self) -> None:
        """Nothing waits to leave."""

    async def retry(self, uuid: str, lease: str, completion: Completion, delay_ms: int) -> bool:
        await self._meet(Call("retry", uuid, lease, (completion, delay_ms)))
        return True

    async def give_back(self, uuid: str, lease: str, delay_ms: int = 0) -> None:
        await self._meet(Call("give_back", uuid, lease))

    async def defer(self, uuid: str, lease: str, *, expires_ms: int | None = None) -> None:
        await self._meet(Call("defer", uuid, lease, expires_ms))

    async def _answer(self, receiver: Receiver, call: Call) -> None:
        try:
            await self._meet(call)
        except BrokerError as error:
            receiver.fail(error)
        else:
            is_usual, self.unusual_answers = self.unusual_answers == 0, max(0, self.unusual_answers - 1)
            receiver.succeed(int(Code.CHANGED) if is_usual else [Code.LEASE_LOST])

    async def _meet(self, call: Call) -> None:
        await asyncio.sleep(0)
        waiting = self.hindrances.get(call.name)
        if waiting:
            await waiting.popleft()()
        self.calls.append(call)


def claimed(uuid: str = "t", *, lease: str = "1.x", attempt: int = 1, payload: bytes | None = None) -> Claimed:
    """A claimed task."""
    return Claimed(uuid, "q", attempt, lease, 0, 0, 0, payload)


def error_of(completion: Completion) -> dict[str, Any]:
    """The error of a failure."""
    assert completion.state is TaskState.FAILED
    return dict(json.loads(completion.error))


def _raising(error: Exception) -> Hindrance:
    async def hindrance() -> None:
        raise error

    return hindrance
