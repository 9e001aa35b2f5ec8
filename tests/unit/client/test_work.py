"""A client that works: claims, renews, lets go."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from broker.errors import ApiError, LeaseLostError
from broker.task import TaskFailure, TaskState
from tests.unit.client.fake_api import FakeApi, answer, broken, problem, task

END = "2026-01-02T03:04:05.678Z"
CLAIMED: dict[str, Any] = {**task("running"), "payload": {"n": 1.0}, "lease": "7.x", "lease_expires_at": END}


async def test_a_claim_gives_tasks_with_their_leases() -> None:
    api = FakeApi(answer({"tasks": [CLAIMED, {**CLAIMED, "uuid": "2"}]}))
    first, second = await api.client().claim("a", "b", wait=30, most=5)
    assert api.asked == ["POST /claimTask"]
    assert api.body() == {"queues": ["a", "b"], "max": 5, "wait": 30}
    assert (first.payload, first.lease, second.uuid) == ({"n": 1.0}, "7.x", "2")
    assert first.lease_expires_at == datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)


async def test_a_claim_is_asked_again_when_nothing_answers() -> None:
    api = FakeApi(broken, problem(503, "draining"), answer({"tasks": []}))
    assert list(await api.client().claim("q")) == []
    assert len(api.asked) == 3


async def test_a_heartbeat_renews_or_tells_of_the_end() -> None:
    api = FakeApi(
        answer({"tasks": [CLAIMED]}),
        answer({"lease_expires_at": END, "cancelled": False}),
        answer({"cancelled": True, "state": "cancelled"}),
        problem(409, "lease-lost"),
    )
    (found,) = await api.client().claim("q")
    assert not (await api.client().heartbeat(found, progress={"percent": 5})).cancelled
    assert api.body(1) == {"uuid": "084Tkjfh", "lease": "7.x", "progress": {"percent": 5}}
    ended = await api.client().heartbeat(found, progress_json="1.0")
    assert (ended.cancelled, ended.state) == (True, TaskState.CANCELLED)
    assert b'"progress":1.0' in api.requests[2].content
    with pytest.raises(LeaseLostError):
        await api.client().heartbeat(found)


async def test_a_release_says_why() -> None:
    api = FakeApi(answer({"tasks": [CLAIMED]}), answer(task("pending")), answer(task("running")))
    (found,) = await api.client().claim("q")
    assert (await api.client().release(found, error=TaskFailure("no-space"), delay=5)).state is TaskState.PENDING
    assert api.body(1) == {"uuid": "084Tkjfh", "lease": "7.x", "error": {"code": "no-space"}, "delay": 5}
    await api.client().release(found, defer=True)
    assert api.body(2) == {"uuid": "084Tkjfh", "lease": "7.x", "defer": True}


async def test_what_is_no_claim_is_told() -> None:
    for document in ({}, {"tasks": [task("running")]}, {"cancelled": 1}):
        api = FakeApi(answer({"tasks": [CLAIMED]}), answer(document), answer(document))
        (found,) = await api.client().claim("q")
        with pytest.raises(ApiError):
            await api.client().claim("q")
        with pytest.raises(ApiError):
            await api.client().heartbeat(found)
