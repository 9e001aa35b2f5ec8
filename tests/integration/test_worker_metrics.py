"""A worker process that serves its numbers."""

from __future__ import annotations

import json

import httpx

from broker.store.embedded import free_port
from tests.integration.conftest import OwnDeployment
from tests.support.metrics import Numbers
from tests.support.processes import wait_until


def test_a_worker_shows_what_it_does(own: OwnDeployment) -> None:
    port = free_port()
    worker = own.worker(metrics_port=str(port))
    api = own.api()
    with httpx.Client(trust_env=False) as http:
        body = json.dumps({"queue": "test-echo", "payload": 1, "wait": 10})
        assert http.post(f"{api.url}/createTask", content=body).json()["state"] == "succeeded"

        def scrape() -> Numbers:
            answer = http.get(f"http://127.0.0.1:{port}/metrics")
            return Numbers(answer.text, answer.headers["content-type"])

        wait_until(
            lambda: scrape()("broker_execution_seconds_count", queue="test-echo", outcome="succeeded") == 1,
            "the execution is counted",
        )
        numbers = scrape()
        assert numbers("broker_slots_free", queue="test-echo") == 16
        assert numbers("broker_attempts_running") == 0
        assert numbers("broker_tasks_claimed_total", queue="test-echo") == 1
        assert numbers("broker_draining") == 0
        assert numbers("broker_redis_connected", link="bell") == 1

        # Ends that cannot be stored are tried again, and that is seen.
        assert numbers("broker_settle_retries_total") == 0
    assert worker.process.stop() == 0
    worker.assert_log_has_no_defect()


def test_a_worker_serves_nothing_unless_it_is_told_to(own: OwnDeployment) -> None:
    worker = own.worker()
    api = own.api()
    with httpx.Client(trust_env=False) as http:
        http.post(f"{api.url}/createTask", content=json.dumps({"queue": "test-echo", "wait": 10}))
    assert "Metrics" not in worker.log_tail()
