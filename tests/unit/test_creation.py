"""One create on its way, in every order in which its reply and its holder can come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.creation import Creation, begin_creation
from broker.deadlines import Deadlines
from broker.errors import IdempotencyMismatchError, StoreUnavailableError, TaskConflictError
from broker.response_hub import Channel, Waiter
from broker.store.codes import Code
from broker.store.commands import Command, Receiver
from broker.task import TaskState
from tests.support.store import new_task


class FakeHub:
    """Keeps the command for the test to answer."""

    def __init__(self) -> None:
        self.deadlines = Deadlines(asyncio.get_running_loop())
        self.handed: list[Command] = []

    def join(self, queue: str, uuid: str, seal: str, timeout: float) -> Waiter:
        channel = Channel(self, b"c", queue, uuid, 0.0)  # type: ignore[arg-type]
        return Waiter(timeout, self.deadlines, channel=channel, seal=seal)

    def hand(self, command: Command, receiver: Receiver) -> None:
        self.handed.append(command)


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    hub = FakeHub()
    yield hub
    hub.deadlines.close()


def creation_of(hub: FakeHub, wait_s: float = 20) -> Creation:
    return begin_creation(hub, new_task(), wait_s)  # type: ignore[arg-type]


def reply(code: Code, uuid: bytes = b"t", state: bytes = b"pending") -> list[object]:
    return [code, uuid, b"seal", state, 0, 1795198489995, 1795198499995]


def known(creation: Creation) -> asyncio.Task[object]:
    return asyncio.create_task(bounded(creation))


async def bounded(creation: Creation) -> object:
    async with asyncio.timeout(2):
        return await creation.created()


CREATED = 1795198489995
OUTAGE = StoreUnavailableError("away")


async def test_the_reply_confirms_the_wait(hub: FakeHub) -> None:
    creation = creation_of(hub)
    assert len(hub.handed) == 1
    seal = creation.waiter.seal
    creation.succeed(CREATED)
    assert (creation.waiter.is_confirmed, creation.waiter.seal) == (True, seal)
    assert not creation.waiter.is_settled
    assert (await creation.created()).is_new


@pytest.mark.parametrize("state", [state.encode() for state in TaskState if state.is_terminal])
async def test_a_task_that_has_ended_ends_the_wait(hub: FakeHub, state: bytes) -> None:
    creation = creation_of(hub)
    creation.succeed(reply(Code.ATTACHED, state=state))
    assert await creation.waiter.wait() is None
    assert (await creation.created()).state == state.decode()


async def test_a_key_that_stands_for_another_task_ends_the_wait_here(hub: FakeHub) -> None:
    creation = creation_of(hub)
    creation.succeed(reply(Code.ATTACHED, uuid=b"other"))
    assert await creation.waiter.wait() is None
    assert (await creation.created()).uuid == "other"
    assert not creation.waiter.is_confirmed


@pytest.mark.parametrize(
    ("code", "error"), [(Code.CONFLICT, TaskConflictError), (Code.MISMATCH, IdempotencyMismatchError)]
)
async def test_a_refusal_is_the_holders(hub: FakeHub, code: Code, error: type[Exception]) -> None:
    creation = creation_of(hub)
    creation.succeed([code, b"t"])
    with pytest.raises(error):
        await creation.waiter.wait()


async def test_an_outage_is_the_holders(hub: FakeHub) -> None:
    creation = creation_of(hub)
    creation.fail(OUTAGE)
    with pytest.raises(StoreUnavailableError):
        await creation.waiter.wait()


async def test_the_reply_comes_after_the_wait(hub: FakeHub) -> None:
    creation = creation_of(hub)
    creation.waiter.expire()
    asking = known(creation)
    await asyncio.sleep(0)
    creation.succeed(CREATED)
    assert (await asking) is not None


async def test_the_outage_comes_after_the_wait(hub: FakeHub) -> None:
    creation = creation_of(hub)
    creation.waiter.expire()
    asking = known(creation)
    await asyncio.sleep(0)
    creation.fail(OUTAGE)
    with pytest.raises(StoreUnavailableError):
        await asking


async def test_the_outage_comes_between_the_end_of_the_wait_and_its_holder(hub: FakeHub) -> None:
    """Both fall into one turn of the loop when the wait is as long as a command's deadline."""
    creation = creation_of(hub)
    creation.waiter.expire()
    creation.fail(OUTAGE)
    assert await creation.waiter.wait() is None
    with pytest.raises(StoreUnavailableError):
        await bounded(creation)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_reply_whose_caller_has_left_harms_nothing(hub: FakeHub, fails: bool) -> None:
    creation = creation_of(hub)
    creation.waiter.abandon()
    if fails:
        creation.fail(OUTAGE)
    else:
        creation.succeed(CREATED)
    assert not creation.is_abandoned
