"""Tasks that never work out: they end nevertheless, and can be found and retried."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import OwnDeployment
from tests.support.processes import wait_until
from tests.support.swift_http import SwiftHttp


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where handlers leave their marks."""
    made = tmp_path / "marks"
    made.mkdir()
    return made


def marks(folder: Path) -> set[str]:
    """What handlers left."""
    return {mark.name for mark in folder.iterdir()}


async def until(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


async def test_a_task_that_kills_its_worker_ends_failed(own: OwnDeployment, folder: Path) -> None:
    api = own.api()
    own.worker(lease_s="0.5"), own.worker(lease_s="0.5")
    async with SwiftHttp(api.url) as http:
        answer = await http.post("/createTask", {"queue": "test-killer", "payload": str(folder), "wait": 30})

        assert answer.status == 200
        document = answer.document
        assert (document["state"], document["attempt"]) == ("failed", 2)
        assert document["error"]["code"] == "attempts-exhausted"
        runs = [mark.split("-") for mark in marks(folder)]
        assert sorted(attempt for _, attempt in runs) == ["1", "2"]
        assert len({pid for pid, _ in runs}) == 2, "it killed both workers"

        # Both are gone; their queue counts nothing any more, and a fresh worker serves the next task.
        own.worker(lease_s="0.5")
        echoed = await http.post("/createTask", {"queue": "test-echo", "payload": 1, "wait": 20})
        assert (echoed.status, echoed.document["result"]) == (200, 1)
        queues = {queue["queue"]: queue for queue in (await http.get("/queues")).document["items"]}
        assert (queues["test-killer"]["running"], queues["test-killer"]["pending"]) == (0, 0)


async def test_an_async_handler_over_its_time_is_cancelled_in_each_attempt(own: OwnDeployment, folder: Path) -> None:
    api = own.api()
    own.worker()
    async with SwiftHttp(api.url) as http:
        answer = await http.post("/createTask", {"queue": "test-slow", "payload": str(folder), "wait": 30})

    assert (answer.document["state"], answer.document["attempt"]) == ("failed", 2)
    assert answer.document["error"]["code"] == "timeout"
    assert marks(folder) == {"cancelled-1", "cancelled-2"}


async def test_the_late_result_of_a_plain_function_is_refused(own: OwnDeployment, folder: Path) -> None:
    api = own.api()
    own.worker()
    request = {"queue": "test-slow-thread", "uuid": "t", "payload": str(folder), "wait": 30}
    async with SwiftHttp(api.url) as http:
        answer = await http.post("/createTask", request)
        assert (answer.document["state"], answer.document["error"]["code"]) == ("failed", "timeout")

        (folder / "gate").touch()
        await until((folder / "returned").exists, "the function has returned")
        # The worker has taken note of it by the time that its thread serves again.
        second = await http.post("/createTask", {**request, "uuid": "second"})
        assert second.document["result"] == "late"
        assert (await http.get("/queryTaskState?uuid=t")).document == answer.document


async def broker(*arguments: str) -> str:
    """What the command prints; it must succeed."""
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "broker_services.cli.main", *arguments, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await command.communicate()
    assert command.returncode == 0
    return printed.decode()


async def test_dead_tasks_are_found_and_retried_from_a_shell(own: OwnDeployment) -> None:
    api = own.api()
    async with SwiftHttp(api.url) as http:
        for number in range(3):
            await http.post("/createTask", {"queue": "jobs", "uuid": f"t{number}", "payload": number, "wait": 0})
        await http.post("/changeTaskState", {"uuid": "t1", "state": "failed"})

        listed = await broker("task", "list", "--url", api.url, "--queue", "jobs", "--state", "failed")
        (dead,) = [json.loads(line)["uuid"] for line in listed.splitlines()]
        assert dead == "t1"
        new = json.loads(await broker("task", "retry", dead, "--url", api.url))
        assert (new["retry_of"], new["state"]) == ("t1", "pending")
        everything = await broker("task", "list", "--url", api.url, "--all")
        assert [json.loads(line)["uuid"] for line in everything.splitlines()] == [new["uuid"], "t2", "t1", "t0"]
