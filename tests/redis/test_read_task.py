"""read_task.lua on a real server, and the calendar that it renders times with."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.errors import TaskNotFoundError
from broker.task import TaskState, task_from_json
from tests.support.store import LONG_MS, Store, cancelled, failed, succeeded

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END = datetime(2100, 1, 1, tzinfo=UTC)
LAST_MS = int((END - EPOCH).total_seconds() * 1_000) - 1


async def test_a_pending_task(store: Store) -> None:
    created = await store.create(payload=b"[1]")
    read = await store.queries.read("t")
    assert (read.uuid, read.queue, read.seal, read.state) == ("t", "q", created.seal, TaskState.PENDING)
    record = store.record()
    assert json.loads(read.document) == {
        "uuid": "t",
        "queue": "q",
        "state": "pending",
        "attempt": 0,
        "created_at": rendered(int(record["created"])),
        "expires_at": rendered(int(record["expires"])),
    }


async def test_a_running_task(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.extend("t", claimed.lease, LONG_MS, b'{"percent":50}')
    document = await store.document()
    assert (document["state"], document["attempt"], document["progress"]) == ("running", 1, {"percent": 50})
    assert document["started_at"] == rendered(int(store.record()["started"]))


async def test_an_ended_task(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.finish("t", failed(b'{"code":"x","message":"y"}'), lease=claimed.lease)
    document = await store.document()
    assert document["error"] == {"code": "x", "message": "y"}
    assert document["finished_at"] == rendered(int(store.record()["finished"]))


async def test_neither_seal_nor_lease_nor_payload_is_part_of_the_document(store: Store) -> None:
    created = await store.create(payload=b'"hidden"')
    (claimed,) = await store.claim()
    document = (await store.queries.read("t")).document
    for secret in (created.seal, claimed.lease, claimed.lease.partition(".")[2], "hidden"):
        assert secret.encode() not in document


async def test_the_document_is_what_python_reads(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", succeeded(b'{"a":[]}'))
    task = task_from_json((await store.queries.read("t")).document)
    assert (task.state, task.result) == (TaskState.SUCCEEDED, {"a": []})
    assert task.finished_at is not None
    assert task.finished_at.tzinfo is not None


async def test_an_unknown_task(store: Store) -> None:
    with pytest.raises(TaskNotFoundError):
        await store.queries.read("t")


async def test_reading_writes_nothing(store: Store) -> None:
    await store.create(expires_ms=1)
    await store.until_expired()
    before = store.record()
    with store.ear() as ear:
        await store.queries.read("t")
        assert ear.messages() == []
    assert store.record() == before


async def test_a_full_server_still_reads(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", cancelled())
    with store.full():
        assert (await store.queries.read("t")).state is TaskState.CANCELLED


# Times


def rendered(ms: int) -> str:
    return (EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.fixture
def calendar(redis_url: str) -> Any:
    """The fragment alone: many times in, their texts out. Times are text, as a record's fields are."""
    fragment = resources.files("broker.store").joinpath("lua", "fragments", "rfc3339.lua").read_text()
    body = "local texts = {} for i, ms in ipairs(ARGV) do texts[i] = rfc3339(ms) end return texts"
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client.register_script(f"{fragment}\n{body}")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, LAST_MS), min_size=1, max_size=200))
def test_any_time_is_rendered_right(calendar: Any, times: list[int]) -> None:
    assert calendar(args=times) == [rendered(ms) for ms in times]


def test_every_day_of_130_years_begins_and_ends_right(calendar: Any) -> None:
    days = range(0, LAST_MS, 86_400_000)
    times = [moment for day in days for moment in (day, day + 86_399_999)]
    for start in range(0, len(times), 5_000):
        batch = times[start : start + 5_000]
        assert calendar(args=batch) == [rendered(ms) for ms in batch]


def test_a_time_that_is_a_number(redis_url: str) -> None:
    fragment = resources.files("broker.store").joinpath("lua", "fragments", "rfc3339.lua").read_text()
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.eval(f"{fragment}\nreturn rfc3339(951827696789)", 0) == "2000-02-29T12:34:56.789Z"
