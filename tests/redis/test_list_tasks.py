"""list_tasks.lua on a real server: pages of tasks, newest created first."""

from __future__ import annotations

import json

import pytest

from broker import naming
from broker.store import queries
from broker.store.queries import Page
from tests.support.store import Store, failed, succeeded


def uuids(page: Page) -> list[str]:
    return [item.uuid for item in page.items]


async def all_pages(store: Store, **arguments: object) -> list[Page]:
    """Follows the cursors to the end."""
    pages = [await store.queries.list_tasks(**arguments)]  # type: ignore[arg-type]
    while (cursor := pages[-1].cursor) is not None:
        assert len(pages) < 100
        pages.append(await store.queries.list_tasks(cursor=cursor, **arguments))  # type: ignore[arg-type]
    return pages


@pytest.fixture
def small_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a few tasks reach."""
    monkeypatch.setattr(queries, "LOOKS_PER_SCRIPT", 3)
    monkeypatch.setattr(queries, "MOST_LOOKS", 6)


async def test_an_empty_store_has_an_empty_page(store: Store) -> None:
    assert await store.queries.list_tasks() == Page([], None)


async def test_the_newest_created_comes_first_whatever_its_priority(store: Store) -> None:
    for number in range(5):
        await store.create(f"t{number}", priority=number % 2 * 9)
    page = await store.queries.list_tasks()
    assert uuids(page) == ["t4", "t3", "t2", "t1", "t0"]
    assert page.cursor is None


async def test_an_item_is_the_task_as_it_is_stored(store: Store) -> None:
    await store.create(payload=b"[1]")
    await store.transitions.finish("t", succeeded(b"[1.0]"))
    (item,) = (await store.queries.list_tasks()).items
    assert (item.uuid, item.state) == ("t", "succeeded")
    assert item.document == (await store.queries.read("t")).document


async def test_pages_follow_one_another(store: Store) -> None:
    for number in range(7):
        await store.create(f"t{number}")
    pages = await all_pages(store, limit=3)
    assert [uuids(page) for page in pages] == [["t6", "t5", "t4"], ["t3", "t2", "t1"], ["t0"]]


async def test_what_is_created_meanwhile_moves_no_page(store: Store) -> None:
    for number in range(4):
        await store.create(f"t{number}")
    first = await store.queries.list_tasks(limit=2)
    await store.create("t4")
    second = await store.queries.list_tasks(limit=2, cursor=first.cursor)
    assert uuids(second) == ["t1", "t0"]


async def test_filters(store: Store) -> None:
    for number in range(6):
        await store.create(f"t{number}", queue="even" if number % 2 == 0 else "odd")
    await store.transitions.finish("t2", failed())
    await store.transitions.finish("t3", failed())
    assert uuids(await store.queries.list_tasks(queue="even")) == ["t4", "t2", "t0"]
    assert uuids(await store.queries.list_tasks(state="failed")) == ["t3", "t2"]
    assert uuids(await store.queries.list_tasks(queue="odd", state="failed")) == ["t3"]
    assert uuids(await store.queries.list_tasks(queue="odd", state="running")) == []


@pytest.mark.usefixtures("small_looks")
async def test_a_page_looks_at_so_many_tasks_and_no_more(store: Store) -> None:
    for number in range(20):
        await store.create(f"t{number}", queue="rare" if number in (2, 11) else "common")
    pages = await all_pages(store, queue="rare", limit=2)
    assert [uuids(page) for page in pages] == [[], ["t11"], ["t2"], []]


@pytest.mark.usefixtures("small_looks")
async def test_a_page_is_filled_by_several_scripts(store: Store) -> None:
    for number in range(5):
        await store.create(f"t{number}")
    page = await store.queries.list_tasks(limit=5)
    assert uuids(page) == ["t4", "t3", "t2", "t1", "t0"]


async def test_a_page_ends_when_it_is_long_enough(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "PAGE_BYTES", 10_000)
    for number in range(5):
        await store.create(f"t{number}")
        await store.transitions.finish(f"t{number}", succeeded(b'"' + b"x" * 6_000 + b'"'))
    assert [len(page.items) for page in await all_pages(store)] == [2, 2, 1]


async def test_a_forgotten_task_is_gone_from_the_list(store: Store) -> None:
    await store.create("a", retention_ms=0)
    await store.create("b")
    await store.transitions.finish("a", succeeded())
    await store.until_retention_is_over("a")
    await store.housekeeping.sweep_retained(10**9, 10**9)
    assert uuids(await store.queries.list_tasks()) == ["b"]
    assert store.listed() == ["b"]


async def test_an_entry_without_a_record_is_left_out(store: Store) -> None:
    for uuid in ("a", "b", "c"):
        await store.create(uuid)
    store.raw.hdel(naming.tasks_key(), "b")
    assert uuids(await store.queries.list_tasks()) == ["c", "a"]
    assert uuids(await store.queries.list_tasks(state="pending")) == ["c", "a"]


async def test_a_great_sequence_is_a_cursor_too(store: Store) -> None:
    store.raw.set(naming.sequence_key(), 2**48)
    for uuid in ("a", "b", "c"):
        await store.create(uuid)
    assert [uuids(page) for page in await all_pages(store, limit=1)][:3] == [["c"], ["b"], ["a"]]


async def test_it_writes_nothing_and_a_full_server_lists(store: Store) -> None:
    await store.create()
    with store.full():
        assert json.loads((await store.queries.list_tasks()).items[0].document)["uuid"] == "t"
