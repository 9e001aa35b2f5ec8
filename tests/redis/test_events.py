"""What extend_lease.lua writes of a task's events, and read_events.lua and find_events.lua tell, on a real server."""

from __future__ import annotations

import asyncio
import json

import pytest

from broker import naming
from broker.errors import TaskNotFoundError
from broker.store import scripts
from broker.store.claims import Claimed
from broker.store.event_log import NOWHERE, PAGE_BYTES, PAGE_EVENTS, EventLog, EventPage, Place, place_of
from broker.store.transitions import EVENT_BYTES_KEPT, Transitions
from tests.support.store import LONG_MS, Store, cancelled, succeeded


@pytest.fixture
def log(store: Store) -> EventLog:
    return EventLog(store.link)


async def told(store: Store, claimed: Claimed, *texts: bytes, most: int | None = None) -> None:
    """Reports each as progress."""
    transitions = store.transitions if most is None else Transitions(store.link, events_kept=most)
    for text in texts:
        await transitions.extend(claimed.uuid, claimed.lease, LONG_MS, text)


def kept(store: Store, uuid: str = "t") -> list[str]:
    found: list[str] = store.raw.lrange(naming.events_key(uuid), 0, -1)  # type: ignore[assignment]
    return found


def texts_of(page: EventPage) -> list[bytes]:
    return [event.value for event in page.events]


async def read_all(log: EventLog, after: Place | None = None) -> tuple[list[EventPage], EventPage]:
    """All pages to the newest, and the last of them."""
    pages = [await log.read("t", after)]
    while pages[-1].end < pages[-1].newest:
        pages.append(await log.read("t", Place(pages[-1].created_ms, pages[-1].end)))
    return pages, pages[-1]


async def test_events_are_numbered_over_all_attempts(store: Store, log: EventLog) -> None:
    first = await store.created_and_claimed()
    await told(store, first, b"1", b"[2 ]")
    await store.transitions.give_back("t", first.lease)
    await told(store, await store.claim_one(), b'{"a":1.0}')
    page = await log.read("t")
    assert [(event.number, event.value) for event in page.events] == [(1, b"1"), (2, b"[2 ]"), (3, b'{"a":1.0}')]
    assert (page.queue, page.state, page.newest, page.document) == ("q", "running", 3, None)
    assert not page.is_last
    assert json.loads((await store.queries.read("t")).document)["progress"] == {"a": 1.0}


async def test_a_page_goes_on_behind_a_place(store: Store, log: EventLog) -> None:
    claimed = await store.created_and_claimed()
    await told(store, claimed, b"1", b"2", b"3")
    page = await log.read("t", Place(claimed.created_ms, 2))
    assert [(event.number, event.value) for event in page.events] == [(3, b"3")]
    assert texts_of(await log.read("t", Place(claimed.created_ms, 3))) == []
    assert texts_of(await log.read("t", Place(claimed.created_ms, 0))) == [b"1", b"2", b"3"]


async def test_line_breaks_between_tokens_become_spaces(store: Store, log: EventLog) -> None:
    await told(store, await store.created_and_claimed(), b'{\r\n"a": "\\n"\n}')
    assert texts_of(await log.read("t")) == [b'{  "a": "\\n" }']
    assert kept(store) == ['{\r\n"a": "\\n"\n}']


async def test_only_so_many_are_kept(store: Store, log: EventLog) -> None:
    claimed = await store.created_and_claimed()
    await told(store, claimed, *(b"%d" % number for number in range(1, 8)), most=3)
    assert kept(store) == ["5", "6", "7"]
    page = await log.read("t")
    assert (page.after, page.newest, texts_of(page)) == (4, 7, [b"5", b"6", b"7"])
    await told(store, claimed, b"8", most=1)
    assert kept(store) == ["8"]


async def test_only_so_many_bytes_are_kept_but_always_the_newest(store: Store) -> None:
    claimed = await store.created_and_claimed()
    long = b'"' + b"x" * (EVENT_BYTES_KEPT // 4) + b'"'
    await told(store, claimed, b"1", *[long] * 5)
    assert [len(text) for text in kept(store)] == [len(long)] * 3
    assert store.record()["events"].split()[:2] == ["6", str(3 * (len(long) + 8))]
    await told(store, claimed, b'"' + b"y" * EVENT_BYTES_KEPT + b'"')
    assert [text[1] for text in kept(store)] == ["y"]
    await told(store, claimed, b"2")
    assert kept(store) == ["2"]


async def test_pages_are_bounded_and_leave_nothing_out(store: Store, log: EventLog) -> None:
    claimed = await store.created_and_claimed()
    sent = [b'"%d%s"' % (number, b"z" * (30_000 if number < 9 else 0)) for number in range(PAGE_EVENTS + 60)]
    await asyncio.gather(*(store.transitions.extend("t", claimed.lease, LONG_MS, text) for text in sent))
    pages, last = await read_all(log)
    assert sorted(text for page in pages for text in texts_of(page)) == sorted(sent)
    assert all(len(page.events) <= PAGE_EVENTS for page in pages)
    assert all(sum(map(len, texts_of(page))) <= PAGE_BYTES + 8 * 30_010 for page in pages)
    assert last.end == last.newest == len(sent)


async def test_a_repeated_report_adds_nothing(store: Store) -> None:
    """As after a lost connection: all that was on its way is sent again, in order."""
    claimed = await store.created_and_claimed()

    async def report(name: str, text: str) -> None:
        arguments = ("t", claimed.lease, LONG_MS, text, name * 8, 2_000, EVENT_BYTES_KEPT)
        await store.link.send(scripts.EXTEND_LEASE.command(naming.tasks_key(), *arguments, repeatable=True))

    for _ in range(2):
        for name in "abcdefg":
            await report(name, f'"{name}"')
    assert kept(store) == [f'"{name}"' for name in "abcdefg"]
    assert store.record()["events"] == f"7 {7 * (3 + 8)} " + "".join(name * 8 for name in "gfedcba")


async def test_an_event_is_announced_with_its_seal(store: Store) -> None:
    claimed = await store.created_and_claimed("a-request-x")
    seal = store.record("a-request-x")["seal"]
    with store.ear() as ear:
        await told(store, claimed, b"[1]", b'"' + b"x" * 1_100 + b'"')
        assert ear.messages() == [
            ("broker:events:a.request.x", f"{seal} 1 [1]"),
            ("broker:events:a.request.x", f"{seal} 2"),
        ]


async def test_an_ended_task_comes_with_the_last_page(store: Store, log: EventLog) -> None:
    claimed = await store.created_and_claimed()
    await told(store, claimed, b"1", b"2")
    await store.transitions.finish("t", succeeded(b"7"), lease=claimed.lease)
    page = await log.read("t", Place(claimed.created_ms, 1))
    assert page.is_last
    assert texts_of(page) == [b"2"]
    assert page.document == (await store.queries.read("t")).document
    after_the_end = await log.read("t", Place(claimed.created_ms, 3))
    assert (after_the_end.is_reset, after_the_end.events) == (False, [])


async def test_a_place_without_followers_is_a_reset(store: Store, log: EventLog) -> None:
    claimed = await store.created_and_claimed()
    await told(store, claimed, *[b"1"] * 5, most=2)
    created = claimed.created_ms
    for place in (Place(created, 2), Place(created, 6), Place(created + 1, 5), NOWHERE):
        page = await log.read("t", place)
        assert (page.is_reset, page.end, page.events) == (True, 5, [])
        assert page.document == (await store.queries.read("t")).document
    assert not (await log.read("t", Place(created, 3))).is_reset


async def test_a_task_that_told_nothing(store: Store, log: EventLog) -> None:
    await store.create()
    page = await log.read("t")
    assert (page.state, page.newest, page.after, page.events, page.document) == ("pending", 0, 0, [], None)
    await store.transitions.finish("t", cancelled())
    page = await log.read("t")
    assert page.is_last
    assert page.document is not None
    with pytest.raises(TaskNotFoundError):
        await log.read("nobody")


async def test_events_count_and_go_with_their_task(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await told(store, claimed, b'"' + b"x" * 998 + b'"', b"1")
    await store.transitions.finish("t", cancelled())
    assert store.retained_bytes() == 1_000 + len(',"progress":1') + 1_000 + 1 + 2 * 8
    await store.housekeeping.sweep_retained(0, 2**40)
    assert store.remaining() == set()
    assert store.retained_bytes() == 0


async def test_those_of_which_there_is_more_to_tell(store: Store, log: EventLog) -> None:
    claimed = await store.created_and_claimed()
    await told(store, claimed, b"1")
    await store.create("open")
    await store.create("ended")
    await store.transitions.finish("ended", cancelled())
    assert await log.find_changed({"t": 1, "open": 0}) == []
    assert await log.find_changed({"t": 0, "open": 0, "ended": 0, "gone": 0}) == ["t", "ended", "gone"]
    assert await log.find_changed({}) == []


@pytest.mark.parametrize("text", ["", "7", "-", "0-0x", "19aa-1 ", "19aa-1-2", "-1-1", "١-1", "f" * 14 + "-1"])
def test_what_is_no_id_is_nowhere(text: str) -> None:
    assert place_of(text) == NOWHERE


def test_an_id_is_read_back() -> None:
    assert place_of(Place(1_800_000_000_123, 42).text) == Place(1_800_000_000_123, 42)
