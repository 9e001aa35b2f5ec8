"""PUT /queues/{queue}: limits that hold over all workers of a queue, whichever instance they ask."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.support.api import WorkerProcess
from tests.support.caller import Caller, code_of
from tests.support.processes import wait_until


def limit(caller: Caller, queue: str, **limits: Any) -> httpx.Response:
    return caller.call("PUT", f"/queues/{queue}", json=limits)


def claim(caller: Caller, queue: str, **fields: Any) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = caller.call("POST", "/claimTask", json={"queues": [queue], **fields}).json()["tasks"]
    return tasks


def test_limits_are_shown_and_replaced(a: Caller, b: Caller, queue: str) -> None:
    answer = limit(a, queue, max_running=5, max_rate_per_s=2.5)

    assert answer.status_code == 200
    assert (answer.json()["queue"], answer.json()["limits"]) == (queue, {"max_running": 5, "max_rate_per_s": 2.5})
    assert answer.json() in b.call("GET", "/queues").json()["items"]
    assert limit(b, queue, max_running=0).json()["limits"] == {"max_running": 0, "max_rate_per_s": None}
    assert limit(b, queue).json()["limits"] is None


def test_a_put_whose_body_got_lost_takes_no_limit_away(a: Caller, queue: str) -> None:
    limit(a, queue, max_running=5)
    assert code_of(a.call("PUT", f"/queues/{queue}")) == (422, "invalid-request")
    assert {"max_running": 5, "max_rate_per_s": None} in [
        found["limits"] for found in a.call("GET", "/queues").json()["items"] if found["queue"] == queue
    ]


@pytest.mark.parametrize(
    ("path", "limits"),
    [
        ("Q", {}),
        ("q-request-x", {}),
        ("q", {"max_running": -1}),
        ("q", {"max_running": 1.5}),
        ("q", {"max_rate_per_s": 0}),
        ("q", {"max_rate_per_s": "1"}),
        ("q", {"wait": 1}),
    ],
)
def test_what_cannot_be_used_is_refused(a: Caller, path: str, limits: dict[str, Any]) -> None:
    assert code_of(limit(a, path, **limits)) == (422, "invalid-request")


def test_claims_of_all_instances_share_a_limit(a: Caller, b: Caller, queue: str) -> None:
    limit(a, queue, max_running=3)
    a.call("POST", "/createTasks", json={"tasks": [{"queue": queue}] * 5})

    first = claim(a, queue, max=2)
    assert (len(first), len(claim(b, queue, max=9)), len(claim(a, queue))) == (2, 1, 0)
    waiting = b.later("POST", "/claimTask", json={"queues": [queue], "wait": 10})
    wait_until(
        lambda: next(item for item in a.call("GET", "/queues").json()["items"] if item["queue"] == queue)["workers"],
        "the claim waits",
    )
    began = time.monotonic()
    a.change(first[0]["uuid"], lease=first[0]["lease"])

    assert len(waiting.result().json()["tasks"]) == 1
    assert time.monotonic() - began < 5


def test_a_claim_waits_for_the_rate(a: Caller, b: Caller, queue: str) -> None:
    limit(a, queue, max_rate_per_s=2)
    a.call("POST", "/createTasks", json={"tasks": [{"queue": queue}] * 4})
    started = [task["started_at"] for task in claim(a, queue, max=9)]
    assert len(started) == 2

    started += [task["started_at"] for task in claim(b, queue, max=9, wait=10)]

    assert len(started) == 4
    assert started[2] > started[0]


def test_a_worker_works_within_the_limits(a: Caller, worker: WorkerProcess, uuid: str) -> None:
    limit(a, "test-echo", max_running=1)
    try:
        tasks = [{"uuid": f"{uuid}-{place}", "queue": "test-echo", "payload": 1} for place in range(40)]
        a.call("POST", "/createTasks", json={"tasks": tasks})
        query = "&".join(f"uuid={task['uuid']}" for task in tasks)
        ended = a.call("GET", f"/queryTaskState?{query}&wait=15").json()["items"]
    finally:
        limit(a, "test-echo")

    # One after the other, and not one a second.
    times = sorted((item["task"]["started_at"], item["task"]["finished_at"]) for item in ended)
    assert all(finished <= started for (_, finished), (started, _) in pairwise(times))
