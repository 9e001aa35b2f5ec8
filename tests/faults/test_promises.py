"""Promises that have a test of their own: lost messages, a rolling restart, an end under held calls."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
import redis.asyncio as redis

from tests.faults.caller import Caller
from tests.faults.checker import check
from tests.faults.deployment import Deployment, deployment
from tests.faults.drain import allow_descriptors, drain_under
from tests.faults.growth import WAVE, grow
from tests.faults.load import Client
from tests.faults.proxy import Drop

TASKS: Final = 1_000
HELD: Final = 200
DRAINED: Final = 1_000
LEASE_S: Final = 5.0
SLOW_TIMERS_S: Final = 30.0
"""The slow re-read looks every 12 s (a sixth jittered) at waits that are older than that."""
DEADLINE_S: Final = 60.0


def client_of(running: Deployment, number: int, folder: Path) -> Client:
    caller = Caller(f"client{number}", running.ports, running.history.calls)
    return Client(caller, random.Random(number), folder=folder, lease_s=LEASE_S, prefix=f"t{number}")


@pytest.mark.parametrize("drop", [Drop.ALL, Drop.QUIETLY])
async def test_without_any_message_all_tasks_finish_and_all_held_calls_are_answered(tmp_path: Path, drop: Drop) -> None:
    executions = tmp_path / "executions"
    executions.mkdir()
    async with deployment(tmp_path, apis=2, workers=2, lease_s=LEASE_S) as running:
        for member in running.members.values():
            member.proxy.drop = drop
        clients = [client_of(running, number, executions) for number in range(TASKS)]
        with running.disturbing("drop-all", "all"):
            calls = await asyncio.gather(
                *[client.create_once(client.request("f-quick", wait=SLOW_TIMERS_S)) for client in clients]
            )
        assert Counter((call.status, (call.document or {}).get("state")) for call in calls) == {
            (200, "succeeded"): TASKS
        }
        assert max(call.ended - call.started for call in calls) < SLOW_TIMERS_S
        assert sum(member.proxy.dropped for member in running.members.values()) > TASKS
        assert not check(running.history)


async def test_a_rolling_restart_under_held_calls(tmp_path: Path) -> None:
    executions = tmp_path / "executions"
    executions.mkdir()
    async with deployment(tmp_path, apis=3, workers=1, lease_s=LEASE_S) as running:
        clients = [client_of(running, number, executions) for number in range(HELD)]
        requests = [client.request("f-deferred", wait=DEADLINE_S) for client in clients]
        following = [
            asyncio.create_task(client.create_and_follow(request))
            for client, request in zip(clients, requests, strict=True)
        ]
        await until_held(running, HELD)
        for name in running.ports:
            await running.restart(running.members[name], "api-term")
        third_party = client_of(running, HELD, executions)
        for number, request in enumerate(requests):
            await third_party.change({"uuid": request["uuid"], "state": "succeeded", "result": number})
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*following)

    calls = running.history.calls
    answered = {call.document["uuid"]: call.document.get("result") for call in calls if call.document}
    assert [answered[request["uuid"]] for request in requests] == list(range(HELD))
    assert Counter(call.status for call in calls)[202] >= HELD
    assert {call.code for call in calls if (call.status or 0) >= 500} <= {"draining"}
    assert not check(running.history)


async def until_held(running: Deployment, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S), redis.Redis.from_url(running.server.url) as store:
        while len(await store.pubsub_channels("*-response-*")) < count:  # noqa: ASYNC110 - another process tells
            await asyncio.sleep(0.05)


async def test_the_end_of_an_instance_under_many_held_calls(tmp_path: Path) -> None:
    """`python -m tests.faults.drain` measures how long it takes."""
    if not allow_descriptors(DRAINED):
        pytest.skip("the limit of open files is too low")
    drained = await drain_under(DRAINED, tmp_path)
    assert (drained.answers, drained.exit_code) == ({"202": DRAINED}, 0)
    assert drained.exit_s < 10


def test_tasks_watches_and_streams_leave_nothing_behind(tmp_path: Path) -> None:
    """A hundred thousand a round by hand: `python -m tests.faults.growth`."""
    if not allow_descriptors(8 * WAVE):
        pytest.skip("the limit of open files is too low")
    grow({"tasks": WAVE, "watches": WAVE, "streams": 100}, 1, tmp_path)
