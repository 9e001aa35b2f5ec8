"""The slots of one handler, and what its bells say of its queue."""

from __future__ import annotations

import asyncio
import threading

import pytest

from broker.handlers import Handler
from broker.lane import Lane
from broker.requests import MOST_CLAIMED
from broker.store.claims import ClaimWish
from broker.task import Task, TaskState


async def work(_: Task) -> None: ...


class Places:
    """How often a lane told that it has a place for what its queue holds."""

    def __init__(self) -> None:
        self.told = 0

    def note(self) -> None:
        self.told += 1


@pytest.fixture
def places() -> Places:
    return Places()


def new_lane(places: Places, concurrency: int = 2) -> Lane:
    return Lane(Handler("q", work, max_attempts=5), concurrency, on_place=places.note)


def answered(lane: Lane, count: int) -> bool:
    """A claim is made and brings so many tasks; whether these are all that were wished."""
    lane.wish()
    for _ in range(count):
        lane.take()
    return lane.is_satisfied()


def test_it_wishes_for_its_free_slots(places: Places) -> None:
    lane = new_lane(places, 3)
    lane.take()
    assert lane.wish() == ClaimWish("q", 2, 5)
    assert not lane.may_hold_more


def test_a_wish_is_bounded(places: Places) -> None:
    assert new_lane(places, MOST_CLAIMED + 1).wish().most == MOST_CLAIMED


def test_only_all_that_was_wished_satisfies(places: Places) -> None:
    lane = new_lane(places)
    assert not answered(lane, 1)
    assert answered(lane, 1)
    assert lane.free == 0


def test_a_place_is_told_where_the_queue_may_hold_more(places: Places) -> None:
    lane = new_lane(places)
    answered(lane, 2)
    lane.release()
    assert (places.told, lane.free) == (0, 1)
    lane.hear()
    lane.release()
    assert (places.told, lane.free) == (1, 2)


def test_what_is_found_unrung_counts_as_missed_at_the_next_look(places: Places) -> None:
    lane = new_lane(places)
    answered(lane, 0)
    assert lane.ask_unrung() == 0
    answered(lane, 1)
    assert lane.ask_unrung() == 1
    assert lane.ask_unrung() == 0


def test_a_bell_that_was_only_slower_was_not_missed(places: Places) -> None:
    lane = new_lane(places)
    answered(lane, 0)
    lane.ask_unrung()
    answered(lane, 1)
    lane.hear()
    assert lane.ask_unrung() == 0


async def test_a_plain_function_frees_its_slot_when_it_returns(places: Places) -> None:
    gate = threading.Event()
    lane = Lane(Handler("q", lambda _: gate.wait(20)), 1, on_place=places.note)
    lane.take()
    running = asyncio.ensure_future(lane.call(Task(uuid="t", queue="q", state=TaskState.RUNNING)))
    await asyncio.sleep(0)
    assert lane.free == 0
    gate.set()
    assert await running
    await asyncio.sleep(0)
    assert (lane.free, places.told) == (1, 1)
    assert lane.threads is not None
    lane.threads.close()
