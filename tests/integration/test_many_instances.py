"""Two instances and two workers on one server: what a map of waiting calls in one process cannot do."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.conftest import OwnDeployment
from tests.support.processes import wait_until
from tests.support.swift_http import Answer, SwiftHttp

TASKS: Final = 10_000
RACES: Final = 1_000
RIVALS: Final = 8
CONCURRENCY: Final = 64


async def in_parallel(work: Callable[[int], Awaitable[Any]], count: int, at_a_time: int = CONCURRENCY) -> list[Any]:
    numbers = iter(range(count))

    async def lane() -> list[Any]:
        return [await work(number) for number in numbers]

    lanes = await asyncio.gather(*[lane() for _ in range(at_a_time)])
    return [result for results in lanes for result in results]


async def until(condition: Callable[[], object], what: str, deadline_s: float = 20) -> None:
    await asyncio.to_thread(wait_until, condition, what, deadline_s)


async def test_each_task_runs_once_and_is_answered_to_its_own_caller(own: OwnDeployment, tmp_path: Path) -> None:
    a, b = own.api(), own.api()
    own.worker(), own.worker()
    folder = tmp_path / "executions"
    folder.mkdir()

    async with SwiftHttp(a.url) as http_a, SwiftHttp(b.url) as http_b:

        async def create(number: int) -> None:
            http = (http_a, http_b)[number % 2]
            payload = {"folder": str(folder), "number": number}
            answer = await http.post("/createTask", {"queue": "test-log", "payload": payload, "wait": 60})
            assert (answer.status, answer.document["result"]) == (200, number)

        await in_parallel(create, TASKS)

    executions = [line.split()[0] for log in folder.iterdir() for line in log.read_text().splitlines()]
    assert len(executions) == len(set(executions)) == TASKS
    assert len(list(folder.iterdir())) == 2, "both workers took part"
    await until(lambda: not own.response_channels(), "no response channel is left", deadline_s=3)


@pytest.mark.parametrize("outcomes", ["the same", "different"])
async def test_one_of_many_completions_changes_a_task(own: OwnDeployment, outcomes: str) -> None:
    a, b = own.api(), own.api()
    async with SwiftHttp(a.url) as http_a, SwiftHttp(b.url) as http_b:

        async def complete(uuid: str, rival: int) -> Answer:
            http = (http_a, http_b)[rival % 2]
            result = rival if outcomes == "different" else 0
            return await http.post("/changeTaskState", {"uuid": uuid, "result": result})

        async def race(number: int) -> None:
            uuid = f"race{number}"
            await http_a.post("/createTask", {"queue": "race", "uuid": uuid, "wait": 0})
            answers = await asyncio.gather(*[complete(uuid, rival) for rival in range(RIVALS)])
            told = Counter(answer.document.get("changed", answer.document.get("code")) for answer in answers)
            losers = "task-already-final" if outcomes == "different" else False
            assert told == {True: 1, losers: RIVALS - 1}

        await in_parallel(race, RACES // 2, at_a_time=8)


async def test_the_caller_of_a_killed_instance_finds_its_result_on_another(own: OwnDeployment) -> None:
    a, b = own.api(), own.api()
    request = {"queue": "approval", "uuid": "084Tkjfh", "payload": {"amount": 1}, "wait": 30}
    async with SwiftHttp(a.url) as http_a, SwiftHttp(b.url) as http_b:
        held = asyncio.create_task(http_a.post("/createTask", request))
        await until(lambda: own.response_channels() == [b"approval-response-084Tkjfh"], "the call is held")
        a.process.kill()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await held

        again = asyncio.create_task(http_b.post("/createTask", request))
        await until(lambda: own.response_channels() == [b"approval-response-084Tkjfh"], "it is held again")
        await http_b.post("/changeTaskState", {"uuid": "084Tkjfh", "result": {"paid": True}})

        assert (await again).document["result"] == {"paid": True}
        assert (await http_b.get("/queryTaskState?uuid=084Tkjfh")).document["result"] == {"paid": True}


async def test_the_caller_that_got_202_finds_its_result_on_another_instance(own: OwnDeployment) -> None:
    a, b = own.api(), own.api()
    async with SwiftHttp(a.url) as http_a, SwiftHttp(b.url) as http_b:
        accepted = await http_a.post("/createTask", {"queue": "approval", "uuid": "t", "wait": 0.1})
        assert accepted.status == 202
        await http_b.post("/changeTaskState", {"uuid": "t", "state": "failed", "error": {"code": "declined"}})

        followed = await http_b.get(accepted.headers["location"])
        assert (followed.status, followed.document["error"]) == (200, {"code": "declined"})
        attached = await http_b.post("/createTask", {"queue": "approval", "uuid": "t", "wait": 30})
        assert (attached.status, attached.document["state"]) == (200, "failed")


async def test_a_killed_subscription_loses_no_held_call(own: OwnDeployment) -> None:
    a, b = own.api(), own.api()
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    calls = 200
    async with SwiftHttp(a.url) as http_a, SwiftHttp(b.url) as http_b:

        async def hold(number: int) -> Answer:
            http = (http_a, http_b)[number % 2]
            return await http.post("/createTask", {"queue": "approval", "uuid": f"t{number}", "wait": 60})

        async def finish(number: int) -> None:
            await asyncio.sleep(chance.uniform(0, 3))
            for _ in range(100):
                other = (http_b, http_a)[number % 2]
                answer = await other.post("/changeTaskState", {"uuid": f"t{number}", "result": number})
                if answer.status == 200:
                    return
                # Its create is still on its way.
                assert answer.status == 404, f"seed {seed}"
                await asyncio.sleep(0.05)

        async def kill() -> None:
            for _ in range(20):
                await asyncio.sleep(chance.uniform(0, 0.3))
                await asyncio.to_thread(own.store.client_kill_filter, _type="pubsub")

        held = [asyncio.create_task(hold(number)) for number in range(calls)]
        await asyncio.gather(kill(), *[finish(number) for number in range(calls)])
        answers = await asyncio.gather(*held)
    assert [answer.document.get("result") for answer in answers] == list(range(calls)), f"seed {seed}"


def runs_in(folder: Path, attempt: int) -> int | None:
    """The process that runs that attempt of the gated task."""
    return next((int(path.name.split("-")[0]) for path in folder.glob(f"*-{attempt}")), None)


async def test_a_task_of_a_killed_worker_is_finished_by_another(own: OwnDeployment, tmp_path: Path) -> None:
    api = own.api()
    own.worker(lease_s="1"), own.worker(lease_s="1")
    folder = tmp_path / "runs"
    folder.mkdir()
    async with SwiftHttp(api.url) as http:
        request = {"queue": "test-gated", "payload": str(folder), "wait": 60}
        held = asyncio.create_task(http.post("/createTask", request))
        await until(lambda: runs_in(folder, 1), "one worker runs it")
        first = runs_in(folder, 1)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: runs_in(folder, 2), "the other one runs it")
        (folder / "gate").touch()

        document = (await held).document
        assert (document["attempt"], document["result"]["attempt"]) == (2, 2)
        assert document["result"]["by"] == runs_in(folder, 2) != first


async def test_the_late_result_of_a_stalled_worker_is_refused(own: OwnDeployment, tmp_path: Path) -> None:
    api = own.api()
    own.worker(lease_s="1"), own.worker(lease_s="1")
    folder = tmp_path / "runs"
    folder.mkdir()
    async with SwiftHttp(api.url) as http:
        request = {"queue": "test-gated", "uuid": "t", "payload": str(folder), "wait": 60}
        held = asyncio.create_task(http.post("/createTask", request))
        await until(lambda: runs_in(folder, 1), "one worker runs it")
        first = runs_in(folder, 1)
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        try:
            await until(lambda: runs_in(folder, 2), "the other one runs it")
            (folder / "gate").touch()
            document = (await held).document
        finally:
            os.kill(first, signal.SIGCONT)
        assert document["result"] == {"by": runs_in(folder, 2), "attempt": 2}

        # The stalled one is told by its next renewal, and serves again.
        again = await http.post("/createTask", {"queue": "test-echo", "payload": 1, "wait": 20})
        assert again.status == 200
        assert (await http.get("/queryTaskState?uuid=t")).document["result"] == document["result"]


async def test_a_project_with_a_services_package_of_its_own(own: OwnDeployment, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "services").mkdir(parents=True)
    (project / "services" / "__init__.py").touch()
    (project / "services" / "jobs.py").write_text(
        "from broker import Task, Worker\n"
        "worker = Worker()\n"
        "@worker.handler('theirs')\n"
        "async def run(task: Task) -> str:\n"
        "    return __name__\n"
    )
    api = own.api()
    own.command("worker", "services.jobs:worker", "--redis-url", own.server.url, folder=project)
    async with SwiftHttp(api.url) as http:
        answer = await http.post("/createTask", {"queue": "theirs", "wait": 30})
    assert (answer.status, answer.document["result"]) == (200, "services.jobs")
