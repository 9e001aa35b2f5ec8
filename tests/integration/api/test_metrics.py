"""`/metrics`: what operators see of an instance."""

from __future__ import annotations

import httpx
import pytest

from broker.measures import OTHER
from broker_services.api.measures import MOST_QUEUES
from broker_services.api.operations import OPERATIONS
from tests.integration.api.conftest import Deployment
from tests.support.api import ApiProcess
from tests.support.caller import Caller
from tests.support.channels import Channels
from tests.support.metrics import OPENMETRICS, Numbers
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def instances(deployment: Deployment) -> tuple[ApiProcess, ApiProcess]:
    """This file's own: an instance tells only the first hundred queues apart, and other tests use many."""
    first, second = deployment.start_instances(2)
    return first, second


def scrape(caller: Caller, accept: str | None = None) -> Numbers:
    answer = caller.call("GET", "/metrics", headers={} if accept is None else {"accept": accept})
    assert answer.status_code == 200
    return Numbers(answer.text, answer.headers["content-type"])


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", f"{OPENMETRICS}; version=1.0.0; charset=utf-8"),
        (f"{OPENMETRICS}; version=what; escaping=\x7f", f"{OPENMETRICS}; version=1.0.0; charset=utf-8"),
    ],
)
def test_both_formats_are_spoken(a: Caller, accept: str | None, content_type: str) -> None:
    answer = a.call("GET", "/metrics", headers={} if accept is None else {"accept": accept.replace("\x7f", "x")})

    assert answer.headers["content-type"] == content_type
    assert Numbers(answer.text, content_type)("broker_build_info") == 1


def test_an_instance_in_health(a: Caller) -> None:
    numbers = scrape(a)

    assert numbers("broker_delivering") == 1
    for name in ("broker_draining", "broker_channels_leaked"):
        assert name in numbers.families
        assert numbers(name) == 0
    for link in ("commands", "subscriptions"):
        assert numbers("broker_redis_connected", link=link) == 1
        assert numbers("broker_redis_connections_made_total", link=link) >= 1
    assert numbers("process_resident_memory_bytes") > 0
    assert numbers("process_open_fds") > 0


def test_a_held_call_is_seen_while_it_is_held_and_after(
    a: Caller, b: Caller, channels: Channels, uuid: str, queue: str
) -> None:
    before = scrape(a)
    held = a.create_later(uuid=uuid, queue=queue)
    channels.wait_for_listeners(f"{queue}-response-{uuid}")

    during = scrape(a)
    assert during("broker_held_waits") >= 1
    assert during("broker_channels_desired") >= 1
    assert during("broker_channels_actual") >= 1

    b.change(uuid)
    held.result()
    after = scrape(a)
    assert after("broker_outcomes_total", operation="createTask", queue=queue, state="succeeded") == 1
    assert after("broker_hold_seconds_count", operation="createTask") == 1 + before(
        "broker_hold_seconds_count", operation="createTask"
    )
    assert after("broker_waits_rescued_total") == before("broker_waits_rescued_total")
    told = scrape(b)
    assert told("broker_outcomes_total", operation="changeTaskState", queue=queue, state="succeeded") == 1
    assert told("broker_answer_seconds_count", operation="changeTaskState") >= 1


def test_answers_are_counted_by_operation_and_status_and_problems_by_code(a: Caller, uuid: str, queue: str) -> None:
    before = scrape(a)
    a.create(uuid=uuid, queue=queue)
    a.query("nobody")
    a.call("DELETE", "/createTask")
    a.call("GET", "/nothing")
    after = scrape(a)

    def grown(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    assert grown("broker_calls_total", operation="createTask", status="202") == 1
    assert grown("broker_calls_total", operation="createTask", status="405") == 1
    assert grown("broker_calls_total", operation="queryTaskState", status="404") == 1
    assert grown("broker_calls_total", operation="documents", status="404") == 1
    assert grown("broker_problems_total", code="task-not-found") == 1
    assert grown("broker_problems_total", code="method-not-allowed") == 1
    assert grown("broker_answer_seconds_count", operation="createTask") == 2
    known = {operation.name for operation in OPERATIONS} | {"documents"}
    assert after.labels("broker_calls_total", "operation") <= known


def test_a_cancelled_task_is_counted_under_its_queue(a: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue, payload='{"queue": "\\"x\\""}')
    a.cancel(uuid)
    a.query(uuid)

    numbers = scrape(a)
    for operation in ("cancelTask", "queryTaskState"):
        assert numbers("broker_outcomes_total", operation=operation, queue=queue, state="cancelled") == 1


def test_a_caller_that_leaves_is_counted(a: Caller, channels: Channels, uuid: str, queue: str) -> None:
    before = scrape(a)("broker_callers_gone_total", operation="createTask")
    head = f"GET /createTask?uuid={uuid}&queue={queue}&wait=20 HTTP/1.1\r\nHost: t\r\n\r\n".encode()
    with a.connection(head):
        channels.wait_for_listeners(f"{queue}-response-{uuid}")
    wait_until(
        lambda: scrape(a)("broker_callers_gone_total", operation="createTask") == before + 1, "the leaving is counted"
    )


def test_refused_heads_are_counted(tight: Caller) -> None:
    before = scrape(tight)
    tight.exchange("GET", "/healthz", b"X-Long: " + b"x" * 5_000)
    with tight.connection(b"GET /") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
    after = scrape(tight)

    for code in ("headers-too-large", "request-timeout"):
        assert after("broker_problems_total", code=code) == before("broker_problems_total", code=code) + 1


def test_callers_cannot_make_labels_without_end(
    deployment: Deployment, http: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("logs") / "log"
    with ApiProcess(deployment.server.url, log=log) as instance, httpx.Client(base_url=instance.url) as client:
        for number in range(MOST_QUEUES + 5):
            task = client.post("/createTask", json={"queue": f"many-{number}", "wait": 0}).json()
            client.post("/cancelTask", json={"uuid": task["uuid"]})
        answer = client.get("/metrics")
    numbers = Numbers(answer.text, answer.headers["content-type"])

    assert len(numbers.labels("broker_outcomes_total", "queue")) == MOST_QUEUES + 1
    assert numbers("broker_outcomes_total", queue=OTHER) == 5
    assert numbers("broker_outcomes_total") == MOST_QUEUES + 5
