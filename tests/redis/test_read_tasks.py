"""read_tasks.lua on a real server."""

from __future__ import annotations

from broker import naming
from broker.errors import StoreError, TaskNotFoundError
from broker.store.queries import StoredTask
from broker.task import TaskState
from tests.support.store import Store, succeeded

MOST_BYTES = 1_000_000


async def test_each_task_is_read_as_if_by_itself(store: Store) -> None:
    await store.create("a", payload=b"[1]")
    await store.create("b", queue="other")
    await store.transitions.finish("b", succeeded(b"[1.0]"))

    found = await store.queries.read_several(["b", "a", "b"], most_bytes=MOST_BYTES)

    assert found == [await store.queries.read(uuid) for uuid in ("b", "a", "b")]


async def test_none_is_read_without_a_question(store: Store) -> None:
    assert await store.queries.read_several([], most_bytes=MOST_BYTES) == []


async def test_unknown_and_damaged_ones_harm_no_other(store: Store) -> None:
    await store.create("a")
    store.raw.hset(naming.tasks_key(), "damaged", "no record")

    unknown, damaged, fine = await store.queries.read_several(["unknown", "damaged", "a"], most_bytes=MOST_BYTES)

    assert isinstance(unknown, TaskNotFoundError)
    assert unknown.uuid == "unknown"
    assert isinstance(damaged, StoreError)
    assert fine == await store.queries.read("a")


async def test_beyond_the_bytes_only_the_state_is_read(store: Store) -> None:
    for uuid in "abc":
        await store.create(uuid)
    length = len((await store.queries.read("a")).document)

    found = await store.queries.read_several(list("abc"), most_bytes=length + 1)

    tasks = [task for task in found if isinstance(task, StoredTask)]
    assert [(task.uuid, task.state, len(task.document)) for task in tasks] == [
        ("a", TaskState.PENDING, length),
        ("b", TaskState.PENDING, 0),
        ("c", TaskState.PENDING, 0),
    ]
    assert all(task.seal for task in tasks)
