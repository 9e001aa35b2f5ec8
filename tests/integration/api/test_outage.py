"""Redis goes away, and comes back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import redis

from tests.support.api import ApiProcess
from tests.support.caller import Caller, code_of
from tests.support.processes import wait_until
from tests.support.server import OwnServer


def _wait_until_held(url: str, channel: str) -> None:
    with redis.Redis.from_url(url) as store:
        wait_until(lambda: store.pubsub_numsub(channel)[0][1] == 1, "the call is held")


def test_without_redis_callers_are_told_to_come_back(
    own_server: OwnServer, own_log: Path, http: httpx.Client, threads: ThreadPoolExecutor
) -> None:
    server = own_server()
    with ApiProcess(server.url, log=own_log) as instance:
        caller = Caller(instance.url, http, threads)
        caller.create(uuid="known", queue="q")
        held = [
            caller.create_later(uuid="known", queue="q", wait=1.5),
            caller.create_later(uuid="other", queue="q", wait=1.5, payload='"x"'),
        ]
        for uuid in ("known", "other"):
            _wait_until_held(server.url, f"q-response-{uuid}")
        server.kill()

        refused = [
            caller.create_later(uuid="new", queue="q", wait=0),
            caller.create_later(uuid="held", queue="q", wait=5),
            caller.query_later("known", wait=0),
            caller.later("POST", "/changeTaskState", json={"uuid": "known"}),
            caller.later("POST", "/cancelTask", json={"uuid": "known"}),
            caller.later("GET", "/changeTaskState?uuid=known&raw=1"),
        ]

        wait_until(lambda: caller.call("GET", "/readyz").status_code == 503, "the instance knows")
        assert code_of(caller.call("GET", "/readyz")) == (503, "store-unavailable")
        assert caller.call("GET", "/healthz").status_code == 200
        for call in refused:
            assert code_of(call.result()) == (503, "store-unavailable")
            assert int(call.result().headers["retry-after"]) >= 1
        # A creation that was confirmed is answered with the last known state.
        for call, uuid in zip(held, ("known", "other"), strict=True):
            answer = call.result()
            assert answer.status_code == 202
            assert (answer.json()["uuid"], answer.json()["state"]) == (uuid, "pending")
            assert answer.headers["location"] == f"/queryTaskState?uuid={uuid}"
            assert "retry-after" in answer.headers
        instance.assert_log_has_no_defect()


def test_a_held_call_survives_a_restart_of_redis(
    own_server: OwnServer, own_log: Path, http: httpx.Client, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    server = own_server(tmp_path / "data")
    with ApiProcess(server.url, log=own_log) as instance:
        caller = Caller(instance.url, http, threads)
        held = caller.create_later(uuid="084Tkjfh", queue="q", wait=15)
        _wait_until_held(server.url, "q-response-084Tkjfh")

        server.stop()
        server.start()

        caller.change("084Tkjfh", result='"after"')
        assert held.result().json()["result"] == "after"
        instance.wait_until_ready()
        instance.assert_log_has_no_defect()
