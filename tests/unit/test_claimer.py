"""When a worker asks for tasks: one claim at a time, for all that rang meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
import pytest

from broker import claimer as claimer_module
from broker.claimer import Claimer
from broker.errors import StoreUnavailableError
from broker.handlers import Handler
from broker.lane import Lane
from broker.measures import WorkerMeasures
from broker.store.claims import Claimed, Claims, ClaimWish
from broker.store.commands import Command, Receiver
from broker.store.fence import UnconfirmedError
from broker.store.transitions import Transitions
from broker.task import Task
from tests.support.fake_transitions import claimed
from tests.support.store import until


async def work(_: Task) -> None: ...


class Store:
    """Keeps the claims that are handed to it, for the test to answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[ClaimWish], Receiver]] = []
        self.flushes = 0

    def hand_claim(self, _worker: str, _lease_ms: int, wishes: Sequence[ClaimWish], receiver: Receiver) -> None:
        self.asked.append((list(wishes), receiver))

    def flush_soon(self) -> None:
        self.flushes += 1

    @property
    def wishes(self) -> list[dict[str, int]]:
        """How many tasks each claim asked for, by queue."""
        return [{wish.queue: wish.most for wish in wishes} for wishes, _ in self.asked]


ODD_REPLY = [[b"t", b"q", 1]]


class OddSender:
    """Answers everything with a reply that makes no sense."""

    def __init__(self) -> None:
        self.asked: list[Receiver] = []

    def hand_all(self, calls: Sequence[tuple[Command, Receiver]]) -> None:
        for _, receiver in calls:
            self.asked.append(receiver)
            asyncio.get_running_loop().call_soon(receiver.succeed, ODD_REPLY)


class Runs:
    """Starts nothing, and keeps what it was told to start."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, task: Claimed, _lane: Lane, _now: float) -> None:
        if task.uuid == "defect":
            raise RuntimeError("a defect")
        self.started.append(task.uuid)


class Bench:
    """A claimer of two queues with two slots each."""

    def __init__(self, transitions: Transitions | None = None) -> None:
        self.store, self.runs, self.measures = Store(), Runs(), WorkerMeasures()
        self.passed_on: list[str] = []
        self.lanes = {queue: Lane(Handler(queue, work), 2, on_place=self._ask_soon) for queue in ("q", "r")}
        self.claimer = Claimer(
            transitions or self.store,  # type: ignore[arg-type]
            self.runs,  # type: ignore[arg-type]
            self.lanes,
            worker="w",
            lease_ms=1_000,
            measures=self.measures,
            on_full=self.passed_on.append,
        )

    def _ask_soon(self) -> None:
        self.claimer.ask_soon()

    async def hear(self, *queues: str) -> None:
        """These bells ring in one turn of the loop."""
        self.claimer.hear(dict.fromkeys(queues), len(queues))
        await asyncio.sleep(0)

    async def answer(self, *uuids: str, **again_ms: int) -> None:
        """The last claim brings tasks of the queue `q`."""
        self.store.asked[-1][1].succeed(Claims([claimed(uuid) for uuid in uuids], again_ms))
        await asyncio.sleep(0)

    async def fail(self) -> None:
        self.store.asked[-1][1].fail(StoreUnavailableError("away"))
        await asyncio.sleep(0)


@pytest.fixture
async def bench() -> Bench:
    """One that has asked once and found nothing."""
    bench = Bench()
    bench.claimer.ask()
    await bench.answer()
    assert bench.store.wishes == [{"q": 2, "r": 2}]
    bench.store.asked.clear()
    return bench


async def test_bells_of_one_turn_are_one_claim(bench: Bench) -> None:
    await bench.hear("q", "q", "q")
    assert bench.store.wishes == [{"q": 2}]
    assert bench.measures.bells_heard == 3


async def test_all_queues_are_asked_at_once(bench: Bench) -> None:
    await bench.hear("q", "r")
    assert bench.store.wishes == [{"q": 2, "r": 2}]


async def test_what_is_claimed_is_started_and_its_ends_leave_together(bench: Bench) -> None:
    await bench.hear("q")
    await bench.answer("t")
    assert (bench.runs.started, bench.lanes["q"].free, bench.store.flushes) == (["t"], 1, 1)
    assert (bench.measures.claims, bench.measures.claimed) == (2, {"q": 1})


async def test_one_claim_is_on_its_way_at_a_time(bench: Bench) -> None:
    await bench.hear("q")
    await bench.hear("q")
    await bench.hear("r")
    assert len(bench.store.asked) == 1
    await bench.answer("t")
    assert bench.store.wishes[1:] == [{"q": 1, "r": 2}]


async def test_a_queue_that_gave_less_is_not_asked_again(bench: Bench) -> None:
    await bench.hear("q")
    await bench.answer("t")
    assert len(bench.store.asked) == 1


async def test_a_queue_that_gave_all_may_hold_more(bench: Bench) -> None:
    await bench.hear("q")
    await bench.answer("t", "u")
    assert bench.passed_on == ["q"]
    bench.lanes["q"].release()
    bench.lanes["q"].release()
    await asyncio.sleep(0)
    assert bench.store.wishes[1:] == [{"q": 2}]


async def test_a_full_lane_passes_its_bells_on(bench: Bench) -> None:
    bench.lanes["q"].free = 0
    await bench.hear("q", "q")
    await bench.hear("q")
    assert (bench.passed_on, bench.store.asked) == (["q", "q"], [])
    assert bench.measures.bells_heard == 3


async def test_a_rate_that_lets_more_start_later_is_asked_then(bench: Bench) -> None:
    await bench.hear("q")
    await bench.answer("t", q=10)
    assert len(bench.store.asked) == 1
    await until(lambda: bench.store.wishes[1:] == [{"q": 1}], "asked again")


async def test_after_an_outage_it_pauses_and_forgets_no_ring(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimer_module, "RETRY_CLAIM_S", 0.01)
    await bench.hear("q")
    await bench.fail()
    await bench.hear("r")
    assert len(bench.store.asked) == 1
    await until(lambda: bench.store.wishes[1:] == [{"q": 2, "r": 2}], "asked again")


async def test_what_is_missed_is_told_at_the_next_look(bench: Bench) -> None:
    assert bench.claimer.ask_unrung("q") == 0
    await asyncio.sleep(0)
    await bench.answer("t")
    assert bench.claimer.ask_unrung("q") == 1


async def test_its_end_waits_for_the_claim_on_its_way(bench: Bench) -> None:
    await bench.hear("q")
    stopping = asyncio.create_task(bench.claimer.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    await bench.hear("q")
    await bench.answer("t")
    await stopping
    assert bench.runs.started == ["t"]
    assert len(bench.store.asked) == 1


async def test_its_end_does_not_wait_for_a_pause(bench: Bench) -> None:
    await bench.hear("q")
    await bench.fail()
    await bench.claimer.stop()
    await bench.hear("q")
    assert len(bench.store.asked) == 1


async def test_who_waited_for_its_end_may_leave(bench: Bench) -> None:
    await bench.hear("q")
    stopping = asyncio.create_task(bench.claimer.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.sleep(0)
    await bench.answer("t")
    await bench.claimer.stop()
    assert bench.runs.started == ["t"]


# Defects


async def test_a_reply_that_cannot_be_read_is_no_claim(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claimer_module, "RETRY_CLAIM_S", 0.01)
    sender = OddSender()
    bench = Bench(Transitions(sender))  # type: ignore[arg-type]
    bench.claimer.ask()
    await until(lambda: bool(caplog.messages), "it is told")
    assert "cannot be read" in caplog.text
    await bench.hear("q")
    await until(lambda: len(sender.asked) == 2, "asked again")
    async with asyncio.timeout(2):
        await bench.claimer.stop()


async def test_what_was_not_confirmed_and_cannot_be_read_is_no_claim(caplog: pytest.LogCaptureFixture) -> None:
    sender = OddSender()
    bench = Bench(Transitions(sender))  # type: ignore[arg-type]
    bench.claimer.ask()
    with contextlib.suppress(ValueError):
        sender.asked[0].fail(UnconfirmedError("not confirmed", ODD_REPLY))
    assert "not confirmed" in caplog.text
    async with asyncio.timeout(2):
        await bench.claimer.stop()


async def test_a_task_that_cannot_be_started_keeps_no_other_from_its_start(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.hear("q")
    stopping = asyncio.create_task(bench.claimer.stop())
    await asyncio.sleep(0)
    tasks = [msgspec.structs.replace(claimed("lost"), queue="unknown"), claimed("defect"), claimed("t")]
    bench.store.asked[-1][1].succeed(Claims(tasks, {}))
    async with asyncio.timeout(2):
        await stopping
    assert (bench.runs.started, bench.lanes["q"].free) == (["t"], 1)
    assert "Task lost of unknown" in caplog.text
    assert "Task defect of q" in caplog.text


async def test_a_claim_for_a_queue_that_is_unknown_does_not_hold_up_its_end(bench: Bench) -> None:
    await bench.hear("q")
    stopping = asyncio.create_task(bench.claimer.stop())
    await asyncio.sleep(0)
    with contextlib.suppress(KeyError):
        await bench.answer("t", unknown=10)
    async with asyncio.timeout(2):
        await stopping
    assert bench.runs.started == ["t"]
