"""Deferred tasks: they wait for a third party without a worker, a slot or a lease, whatever is restarted meanwhile."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from tests.integration.conftest import OwnDeployment
from tests.support.processes import wait_until
from tests.support.swift_http import SwiftHttp

HANDLED = "test-deferred"
BY_HTTP = "by-http"


async def until_deferred(http: SwiftHttp, queue: str) -> None:
    async def is_deferred() -> bool:
        items = (await http.get("/queues")).document["items"]
        return any(item["queue"] == queue and item["deferred"] == 1 and not item["running"] for item in items)

    async with asyncio.timeout(20):
        while not await is_deferred():  # noqa: ASYNC110 - another process defers it
            await asyncio.sleep(0.05)


async def task_of(http: SwiftHttp, uuid: str) -> dict[str, Any]:
    document: dict[str, Any] = (await http.get(f"/queryTaskState?uuid={uuid}")).document
    return document


async def test_a_deferred_task_survives_a_restart_of_everything(lasting: OwnDeployment) -> None:
    api, worker = lasting.api(), lasting.worker()
    async with SwiftHttp(api.url) as http:
        await http.post("/createTask", {"uuid": "handled", "queue": HANDLED, "wait": 0})
        await http.post("/createTask", {"uuid": "brief", "queue": f"{HANDLED}-within", "payload": 1.0, "wait": 0})
        await http.post("/createTask", {"uuid": "claimed", "queue": BY_HTTP, "wait": 0})
        (claimed,) = (await http.post("/claimTask", {"queues": [BY_HTTP]})).document["tasks"]
        await http.post("/releaseTask", {"uuid": "claimed", "lease": claimed["lease"], "defer": True})
        await until_deferred(http, HANDLED)
        before = [await task_of(http, uuid) for uuid in ("handled", "claimed")]

    for process in (api, worker):
        process.process.kill()
    lasting.server.kill()
    lasting.server.start()

    again = lasting.api()
    async with SwiftHttp(again.url) as http:
        assert [await task_of(http, uuid) for uuid in ("handled", "claimed")] == before
        assert all(task["state"] == "running" for task in before)
        held = asyncio.create_task(http.post("/createTask", {"uuid": "handled", "queue": HANDLED, "wait": 30}))
        await asyncio.to_thread(wait_until, lambda: lasting.response_channels(), "the call is held")
        for uuid in ("handled", "claimed"):
            changed = await http.post("/changeTaskState", {"uuid": uuid, "result": uuid})
            assert (changed.status, changed.document["changed"]) == (200, True)
        assert (await held).document["result"] == "handled"

        brief = (await http.get("/queryTaskState?uuid=brief&wait=20")).document
        assert brief["state"] == "expired"
        lasted = datetime.fromisoformat(brief["expires_at"]) - datetime.fromisoformat(brief["started_at"])
        assert 1 <= lasted.total_seconds() < 10
    again.assert_log_has_no_defect()
