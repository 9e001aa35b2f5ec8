"""Each system that this project takes the place of, told on two instances: none of it works from one process's memory.

The rows of the README's table "What it replaces", and where their story is:

- a map of tasks, a result service, `Callable` and `WebAsyncTask`, `SseEmitter` and its kin: here.
- an upload endpoint: `test_upload.py`, test_a_file_that_came_to_one_instance_is_processed_and_told_by_another.
- Apollo's watch: `test_watch.py`, test_a_publish_on_one_instance_answers_watches_on_both.
- `DeferredResult`: `../test_own_application.py`, test_another_process_sets_the_result and the others there.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

from broker import Broker, Settings, TaskState
from tests.integration.api.conftest import Deployment
from tests.support.api import WorkerProcess
from tests.support.caller import Caller, code_of
from tests.support.channels import Channels
from tests.support.processes import wait_until

VALUES: Final = ["[1.0]", '"half"', "{}"]


def test_a_map_of_tasks(a: Caller, b: Caller, channels: Channels, uuid: str, queue: str) -> None:
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")
    assert b.query(uuid).json()["state"] == "pending"

    assert b.change(uuid, result='{"sum": 3}').json()["changed"] is True

    assert held.result().json()["result"] == a.query(uuid).json()["result"] == {"sum": 3}
    assert a.change(uuid, result='{"sum": 3}').json()["changed"] is False
    assert code_of(a.change(uuid, result='{"sum": 4}')) == (409, "task-already-final")


def test_a_result_service(a: Caller, b: Caller, channels: Channels, uuid: str, queue: str) -> None:
    """A guard against a second waiter, failure, and timeout with a late result; success is told above."""
    held = b.create_later(uuid=uuid, queue=queue, exclusive=True)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")
    assert code_of(a.create(uuid=uuid, queue=queue, wait=5, exclusive=True)) == (409, "waiter-exists")

    a.change(uuid, state="failed", error='{"code": "declined"}')
    assert (held.result().status_code, held.result().json()["error"]) == (200, {"code": "declined"})

    late = f"{uuid}-late"
    assert a.create(uuid=late, queue=queue, wait=0.02).status_code == 202
    a.change(late, result="1")
    assert b.create(uuid=late, queue=queue, wait=5).json()["result"] == 1


async def test_work_that_a_server_runs(deployment: Deployment, worker: WorkerProcess, a: Caller, uuid: str) -> None:
    """Asked for by two processes at once it runs once, in a third one; when that is over its time, both are told."""
    settings = Settings(redis_url=deployment.server.url)
    async with Broker(settings, sweeps=False) as one, Broker(settings, sweeps=False) as other:
        runs = [broker.run("test-echo", {"n": 1}, uuid=uuid, timeout=10) for broker in (one, other)]
        assert await asyncio.gather(*runs) == [{"n": 1}] * 2
    assert (a.query(uuid).json()["attempt"], a.query(uuid).json()["result"]) == (1, {"n": 1})


def test_work_that_a_server_stops(worker: WorkerProcess, a: Caller, b: Caller, uuid: str, tmp_path: Path) -> None:
    folder = json.dumps(str(tmp_path))
    held = [caller.create_later(uuid=uuid, queue="test-slow", payload=folder, max_attempts=1) for caller in (a, b)]
    for call in held:
        assert (call.result().json()["state"], call.result().json()["error"]["code"]) == (TaskState.FAILED, "timeout")


def test_an_emitter_of_values(a: Caller, b: Caller, channels: Channels, uuid: str, queue: str) -> None:
    """Told at either instance, read at both while it goes on, as server-sent events and as lines of JSON."""
    a.create(uuid=uuid, queue=queue)
    (task,) = a.claim(queue).json()["tasks"]
    target = f"/taskEvents?uuid={uuid}"
    browser = a.later("GET", target, headers={"accept": "text/event-stream"})
    library = b.later("GET", target, headers={"accept": "application/x-ndjson"})
    wait_until(lambda: all(streams(caller) for caller in (a, b)), "both read")

    for caller, value in zip((a, b, a), VALUES, strict=True):
        caller.heartbeat(uuid, task["lease"], progress=value)
    b.change(uuid, result="7")

    lines = [json.loads(line) for line in library.result().text.splitlines() if line]
    assert [line["data"] for line in lines[:-1]] == [json.loads(value) for value in VALUES]
    assert lines[-1]["data"]["result"] == 7
    told = [line.partition(": ")[2] for line in browser.result().text.splitlines() if line.startswith("id: ")]
    assert told == [line["id"] for line in lines]


def streams(caller: Caller) -> bool:
    """Whether somebody reads events at that instance."""
    page = caller.call("GET", "/metrics").text
    return any(float(line.split()[1]) for line in page.splitlines() if line.startswith("broker_event_streams "))
