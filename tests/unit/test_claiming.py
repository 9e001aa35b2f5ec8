"""Claims that wait: a ring asks once, none is lost, and nothing stays with a caller that has left."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from broker import claiming
from broker.bells import Bell
from broker.capacity import Capacity
from broker.claiming import Claiming, unharmed
from broker.deadlines import Deadlines
from broker.errors import LeaseLostError, StoreUnavailableError, TooManyWaitersError
from broker.requests import Claim
from broker.store import claims as store_claims
from broker.store.claims import Claimed, ClaimWish
from tests.support.store import until

WISH = Claim(("q",), 1)
MOST_HELD = 200


def task(uuid: str, queue: str = "q") -> Claimed:
    return Claimed(uuid, queue, 1, f"1.{uuid}", 0, 0, 0, None, b"{}")


class Store:
    """A queue in memory; `gate` holds the claims that have been sent, and `refusals` are raised by returns."""

    def __init__(self) -> None:
        self.queue: deque[str] = deque()
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.returned: list[str] = []
        self.refusals: deque[Exception] = deque()
        self.forbidden: set[str] = set()

    async def claim(
        self, _name: str, _lease_ms: int, _wishes: Sequence[ClaimWish], *, most: int, wants_documents: bool
    ) -> store_claims.Claims:
        assert wants_documents
        self.asked += 1
        found = [task(self.queue.popleft()) for _ in range(min(most, len(self.queue)))]
        await self.gate.wait()
        return store_claims.Claims(found, {})

    async def give_back(self, uuid: str, lease: str) -> None:
        assert lease == f"1.{uuid}"
        if self.refusals:
            raise self.refusals.popleft()
        self.returned.append(uuid)

    async def may_hear(self, patterns: Sequence[str]) -> list[bool]:
        return [pattern not in self.forbidden for pattern in patterns]


class Subscriptions:
    """Patterns that are heard, once they were confirmed."""

    def __init__(self) -> None:
        self.heard: dict[bytes, Bell] = {}
        self.recover: Any = None

    def on_recovered(self, callback: Any) -> None:
        self.recover = callback

    def join_pattern(self, bell: Bell) -> None:
        self.heard[bell.name] = bell

    def leave_pattern(self, bell: Bell) -> None:
        self.heard.pop(bell.name, None)

    async def confirm(self) -> None:
        await asyncio.sleep(0)

    def ring(self, queue: str = "q") -> None:
        self.heard[f"{queue}-request-*".encode()].take(b"{}")


class Claims:
    """A `Claiming` whose slow timer rings when a test says so."""

    def __init__(self) -> None:
        self.store = Store()
        self.subscriptions = Subscriptions()
        hub = SimpleNamespace(subscriptions=self.subscriptions, deadlines=Deadlines(asyncio.get_running_loop()))
        store: Any = self.store
        self.claiming = Claiming(hub, store, store, Capacity(MOST_HELD), lease_s=1, name="w")  # type: ignore[arg-type]

    async def resting(self, count: int, wish: Claim = WISH, wait_s: float = 30) -> list[asyncio.Task[list[Claimed]]]:
        """So many claims that have asked, listen and rest."""
        claims = [asyncio.create_task(self.claiming.claim(wish, wait_s)) for _ in range(count)]
        await self.until_quiet(count)
        self.store.asked = 0
        return claims

    async def until_quiet(self, resting: int) -> None:
        bells = self.claiming._bells
        await until(lambda: bells and all(len(bell.idle) == resting for bell in bells.values()), "all rest")
        await until(lambda: len(self.subscriptions.heard) == len(bells) - len(self.store.forbidden), "all listen")
        for _ in range(5):
            await asyncio.sleep(0)
        await until(lambda: all(len(bell.idle) == resting for bell in bells.values()), "all rest again")


@pytest.fixture
async def claims() -> AsyncIterator[Claims]:
    claims = Claims()
    yield claims
    await claims.claiming.close()


async def test_without_a_wait_a_claim_asks_once_and_listens_to_nothing(claims: Claims) -> None:
    claims.store.queue.append("t")
    assert [found.uuid for found in await claims.claiming.claim(WISH, 0)] == ["t"]
    assert await claims.claiming.claim(WISH, 0) == []
    assert (claims.store.asked, claims.subscriptions.heard) == (2, {})


async def test_a_ring_costs_one_question_however_many_wait(claims: Claims) -> None:
    resting = await claims.resting(100)
    for _ in range(3):
        claims.subscriptions.ring()
        await claims.until_quiet(100)
    assert claims.store.asked == 3
    claims.store.queue.append("t")
    claims.subscriptions.ring()
    done, _ = await asyncio.wait(resting, return_when=asyncio.FIRST_COMPLETED)
    assert [found.uuid for one in done for found in one.result()] == ["t"]
    await claims.until_quiet(99)
    # The one that got all it asked for had the next one look.
    assert claims.store.asked == 5
    assert claims.claiming.waiting_by_queue == {"q": 99}


async def test_one_ring_for_many_tasks_wakes_as_many_as_there_is_work_for(claims: Claims) -> None:
    resting = await claims.resting(10)
    claims.store.queue.extend(f"t{number}" for number in range(7))
    claims.subscriptions.ring()
    await claims.until_quiet(3)
    assert claims.store.asked == 8
    assert sum(one.done() for one in resting) == 7


async def test_a_ring_while_all_ask_makes_one_ask_again(claims: Claims) -> None:
    claims.store.gate.clear()
    asking = [asyncio.create_task(claims.claiming.claim(WISH, 30)) for _ in range(2)]
    await until(lambda: claims.store.asked == 2, "both ask")
    await until(lambda: claims.subscriptions.heard, "the bell is heard")
    claims.store.queue.append("t")
    claims.subscriptions.ring()
    claims.store.gate.set()
    done, _ = await asyncio.wait(asking, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert [found.uuid for one in done for found in one.result()] == ["t"]


async def test_a_claim_is_woken_by_any_of_its_queues(claims: Claims) -> None:
    (resting,) = await claims.resting(1, Claim(("a", "b"), 5))
    claims.store.queue.extend(["t1", "t2"])
    claims.subscriptions.ring("b")
    assert [found.uuid for found in await resting] == ["t1", "t2"]


async def test_the_end_of_the_wait_gives_nothing(claims: Claims) -> None:
    assert await claims.claiming.claim(WISH, 0.05) == []
    assert claims.claiming.waiting == 0
    assert claims.claiming.waiting_by_queue == {}


async def test_more_than_may_be_held_are_refused(claims: Claims) -> None:
    await claims.resting(MOST_HELD)
    with pytest.raises(TooManyWaitersError):
        await claims.claiming.claim(WISH, 30)
    assert await claims.claiming.claim(WISH, 0) == []


async def test_a_lost_bell_costs_a_moment(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "ASK_EVERY_S", 0.02)
    monkeypatch.setattr(claiming, "LEAVE_AFTER_S", 0.02)
    (resting,) = await claims.resting(1)
    claims.store.queue.append("t")
    claims.claiming.start()
    assert [found.uuid for found in await resting] == ["t"]
    await until(lambda: not claims.subscriptions.heard, "nobody listens any more")


async def test_after_a_reconnect_the_bells_are_heard_again_and_asked_for_what_was_missed(claims: Claims) -> None:
    (resting,) = await claims.resting(1)
    claims.subscriptions.heard.clear()
    claims.store.queue.append("t")
    await claims.subscriptions.recover()
    assert [found.uuid for found in await resting] == ["t"]
    assert claims.subscriptions.heard


async def test_a_bell_that_may_not_be_heard_is_not_joined(
    claims: Claims, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claims.store.forbidden = {"q-request-*"}
    (resting,) = await claims.resting(1)
    assert claims.subscriptions.heard == {}
    await until(lambda: "&q-request-*" in caplog.text, "the log names the rule")
    monkeypatch.setattr(claiming, "ASK_EVERY_S", 0.02)
    claims.claiming.start()
    claims.store.queue.append("t")
    assert len(await resting) == 1

    (resting,) = await claims.resting(1)
    claims.store.forbidden.clear()
    await until(lambda: claims.subscriptions.heard, "it is heard once it may be")
    claims.store.queue.append("t")
    claims.subscriptions.ring()
    assert len(await resting) == 1


async def test_beyond_some_queues_bells_are_not_heard(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "MOST_BELLS", 2)
    held = [asyncio.create_task(claims.claiming.claim(Claim((queue,), 1), 30)) for queue in "abc"]
    await until(lambda: len(claims.subscriptions.heard) == 2, "two are heard")
    await until(lambda: claims.claiming.waiting == 3, "all wait")
    assert set(claims.subscriptions.heard) == {b"a-request-*", b"b-request-*"}
    claims.claiming.end_all()
    assert await asyncio.gather(*held) == [[], [], []]


# Callers that leave


async def cancelled(claim: asyncio.Task[list[Claimed]]) -> None:
    claim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claim


async def test_a_caller_that_leaves_while_its_question_is_on_its_way(claims: Claims) -> None:
    for wait_s in (0.0, 30.0):
        claims.store.gate.clear()
        claims.store.queue.extend(["t1", "t2"])
        asking = asyncio.create_task(claims.claiming.claim(Claim(("q",), 2), wait_s))
        await until(lambda: not claims.store.queue, "the tasks are claimed")
        await cancelled(asking)
        claims.store.gate.set()
        await until(lambda: sorted(claims.store.returned) == ["t1", "t2"], "they are back")
        claims.store.returned.clear()


async def test_a_caller_that_leaves_in_the_turn_in_which_the_answer_comes(claims: Claims) -> None:
    claims.store.gate.clear()
    claims.store.queue.append("t")
    asking = asyncio.create_task(claims.claiming.claim(WISH, 30))
    await until(lambda: not claims.store.queue, "the task is claimed")
    claims.store.gate.set()
    # Cancelled in each of the turns in which the answer finds its way to the caller; at last it has it.
    for turns in range(20):
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        outcome = (await asyncio.gather(asking, return_exceptions=True))[0]
        if not isinstance(outcome, asyncio.CancelledError):
            break
        await until(lambda: claims.store.returned == ["t"], "it is back")
        claims.store.returned.clear()
        claims.store.queue.append("t")
        asking = asyncio.create_task(claims.claiming.claim(WISH, 30))
    else:
        pytest.fail("no claim was ever answered")
    assert [found.uuid for found in await asking] == ["t"]


async def test_the_ring_of_a_woken_caller_that_leaves_wakes_another(claims: Claims) -> None:
    first, second = await claims.resting(2)
    claims.store.queue.append("t")
    claims.subscriptions.ring()
    await cancelled(first)
    assert [found.uuid for found in await second] == ["t"]


async def test_a_question_that_the_store_does_not_answer(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told when its wait is over, and what comes later goes back."""
    monkeypatch.setattr(claiming, "LAST_LOOK_S", 0.01)
    claims.store.gate.clear()
    claims.store.queue.append("t")
    with pytest.raises(StoreUnavailableError):
        await claims.claiming.claim(WISH, 0.01)
    claims.store.gate.set()
    await until(lambda: claims.store.returned == ["t"], "it is back")


async def test_a_return_is_tried_until_it_is_stored(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "GIVE_BACK_AGAIN_S", 0.01)
    claims.store.refusals.extend([StoreUnavailableError("away"), StoreUnavailableError("away")])
    claims.claiming.give_back_soon(unharmed([task("t")]))
    await until(lambda: claims.store.returned == ["t"], "it is back")
    assert claims.claiming.returned == 1
    claims.store.refusals.append(LeaseLostError("It is back already."))
    claims.claiming.give_back_soon(unharmed([task("u")]))
    await until(lambda: not claims.store.refusals, "somebody else has it")
    assert claims.claiming.returned == 1


# The end of the process


async def test_at_the_end_all_are_answered_and_nothing_is_claimed(claims: Claims) -> None:
    resting = await claims.resting(5)
    claims.claiming.end_all()
    assert await asyncio.gather(*resting) == [[]] * 5
    assert await claims.claiming.claim(WISH, 30) == []
    assert await claims.claiming.claim(WISH, 0) == []
    assert claims.store.asked == 0


async def test_what_was_on_its_way_to_nobody_is_back_before_the_connection_closes(claims: Claims) -> None:
    claims.store.gate.clear()
    claims.store.queue.append("t")
    asking = asyncio.create_task(claims.claiming.claim(WISH, 30))
    await until(lambda: not claims.store.queue, "the task is claimed")
    await cancelled(asking)
    asyncio.get_running_loop().call_later(0.02, claims.store.gate.set)
    await claims.claiming.close()
    assert claims.store.returned == ["t"]
