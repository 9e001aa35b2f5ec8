"""Fences by themselves: what rides on a round, and what becomes of it. Servers: `integration/test_replicas.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from broker.errors import StoreError, StoreUnavailableError
from broker.store import fence as fences
from broker.store.commands import Awaited, Command, Receiver
from broker.store.fence import Fence, FencedLink, UnconfirmedError
from broker.store.topology import Topology


class ScriptedLink:
    """A link whose replies the test gives."""

    def __init__(self, _topology: Topology, *, on_connected: Callable[[], None] = lambda: None, **_: Any) -> None:
        self.identity = b"server"
        self.handed: list[tuple[Command, Receiver]] = []
        self.commands_unavailable = 0
        self.connect = on_connected

    @property
    def master_seen_at(self) -> float:
        return asyncio.get_running_loop().time()

    def hand(self, command: Command, receiver: Receiver) -> None:
        self.handed.append((command, receiver))

    def send(self, command: Command) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.hand(command, Awaited(future))
        return future

    async def close(self) -> None:
        for receiver in self.take("WAIT"):
            receiver.fail(StoreUnavailableError("closed"))

    def take(self, word: str) -> list[Receiver]:
        """The receivers of the commands of that name, which are then no longer there."""
        found = [receiver for command, receiver in self.handed if command.arguments[0] == word]
        self.handed = [one for one in self.handed if one[0].arguments[0] != word]
        return found


class Bench:
    """A fence, a link for commands, and what callers were told, in order."""

    def __init__(self, fence: Fence, commands: ScriptedLink) -> None:
        self.fence = fence
        self.commands = commands
        self.fences: Any = fence.link
        self.told: list[object] = []
        self._link = FencedLink(commands, fence)  # type: ignore[arg-type]

    async def answered(self, *replies: object) -> None:
        """Commands are sent, and Redis answers them."""
        for reply in replies:
            future = self._link.send(Command(("GET", "k")))
            future.add_done_callback(lambda done: self.told.append(done.exception() or done.result()))
            for receiver in self.commands.take("GET"):
                receiver.succeed(reply)
        await self.settle()

    async def confirmed(self, count: int) -> None:
        """The WAIT that is out is answered."""
        (receiver,) = self.fences.take("WAIT")
        receiver.succeed(count)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(fences, "Link", ScriptedLink)
    topology = Topology.from_url("redis://h")
    return Bench(Fence(topology, name="fences", replicas=1), ScriptedLink(topology))


async def test_one_fence_is_for_all_that_was_answered_before_it(bench: Bench) -> None:
    await bench.answered(1, 2, 3)
    assert [command.arguments[0] for command, _ in bench.fences.handed] == ["INFO", "PUBLISH", "WAIT"]
    await bench.answered(4)
    assert bench.told == []
    await bench.confirmed(1)
    assert bench.told == [1, 2, 3]
    await bench.confirmed(1)
    assert bench.told == [1, 2, 3, 4]
    assert bench.fences.take("WAIT") == []


async def test_what_says_nothing_needs_no_fence(bench: Bench) -> None:
    await bench.answered([])
    assert bench.told == [[]]
    assert bench.fences.handed == []


async def test_a_round_that_is_lost_is_begun_again_on_the_same_server(bench: Bench) -> None:
    await bench.answered(1)
    bench.fences.take("WAIT")[0].fail(StoreUnavailableError("lost"))
    bench.fences.connect()
    await bench.settle()
    await bench.confirmed(1)
    assert bench.told == [1]


async def test_another_server_confirms_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(fences, "CONFIRM_DEADLINE_S", 0.02)
    monkeypatch.setattr(fences, "LEAST_S", 0.02)
    await bench.answered(1)
    # The commands leave by a connection to the next master.
    bench.fences.identity = b"promoted"
    await bench.confirmed(2)
    async with asyncio.timeout(5):
        while not bench.told:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
    assert isinstance(bench.told[0], UnconfirmedError)
    assert (bench.told[0].reply, bench.told[0].may_have_run) == (1, True)
    await bench.fence.close()


async def test_whoever_missed_something_is_told_when_replicas_confirm_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fences, "MOST_WAITING", 1)
    restored: list[bool] = []
    bench.fence.on_restored(lambda: restored.append(True))
    await bench.answered(1, 2)
    # One more than may wait was refused at once.
    assert [type(told) for told in bench.told] == [UnconfirmedError]
    assert bench.fences.commands_unavailable == 1
    await bench.confirmed(1)
    assert restored == [True]
    await bench.fence.close()


async def test_errors_pass_at_once(bench: Bench) -> None:
    future = FencedLink(bench.commands, bench.fence).send(Command(("GET", "k")))  # type: ignore[arg-type]
    bench.commands.take("GET")[0].fail(StoreError("no"))
    with pytest.raises(StoreError):
        await future
    assert bench.fences.handed == []


async def test_closing_refuses_what_is_not_confirmed(bench: Bench) -> None:
    await bench.answered(1)
    await bench.fence.close()
    await bench.answered(2)
    assert [type(told) for told in bench.told] == [UnconfirmedError, UnconfirmedError]
