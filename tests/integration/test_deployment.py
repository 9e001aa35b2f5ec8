"""The deployment of docker-compose.yml as it is written, run without Docker (see tests/support/compose.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker import Broker, naming
from broker.errors import StoreUnavailableError
from broker.settings import Settings
from broker.store.doctor import examine
from broker.store.findings import Finding
from broker_services.cli.dev import make_demo_repository
from tests.support.compose import BROKER, HAS_NGINX, SENTINELS, SERVERS, Deployment, Instance
from tests.support.processes import wait_until
from tests.support.sentinel import command

# Nobody works on it: its tasks wait for a third party.
UNSERVED_QUEUE = "approval"
CALL_DEADLINE_S = 30.0

needs_nginx = pytest.mark.skipif(not HAS_NGINX, reason="nginx is not installed")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """All services, for tests that leave them running."""
    with Deployment(tmp_path_factory.mktemp("deployment")) as running:
        yield running


@pytest.fixture
def own_deployment(tmp_path: Path) -> Iterator[Deployment]:
    """All services, for one test that stops some."""
    with Deployment(tmp_path) as running:
        yield running


@pytest.fixture
def calls() -> Iterator[ThreadPoolExecutor]:
    """Where calls are held while the test goes on."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        yield pool


def post(deployment: Deployment, call: str, **body: Any) -> httpx.Response:
    """One call on a connection of its own, so that each may go to another instance."""
    return httpx.post(f"{deployment.url}/{call}", json=body, timeout=CALL_DEADLINE_S)


def query(deployment: Deployment, uuid: str) -> httpx.Response:
    """What the deployment says of a task just now."""
    return httpx.get(f"{deployment.url}/queryTaskState", params={"uuid": uuid}, timeout=CALL_DEADLINE_S)


def hold(calls: ThreadPoolExecutor, deployment: Deployment, uuid: str) -> Future[httpx.Response]:
    """A held createTask of a queue that nobody works on; returns once its task is there."""
    held = calls.submit(post, deployment, "createTask", uuid=uuid, queue=UNSERVED_QUEUE, wait=CALL_DEADLINE_S)
    wait_until(lambda: held.done() or query(deployment, uuid).status_code == 200, f"task {uuid} is created")
    assert not held.done(), held.result().text
    return held


def instances_that_answered(proxy: Instance) -> set[str]:
    """From the balancer's log: every address that gave an answer."""
    lines = [json.loads(line) for line in proxy.log.read_text().splitlines() if line.startswith("{")]
    return {line["instance"] for line in lines if line["instance_status"] not in ("", "502", "504")}


# Calls ----------------------------------------------------------------------------------------------------------------


def test_a_branch_is_made(deployment: Deployment) -> None:
    repository = deployment.repositories / "demo"
    make_demo_repository(repository)
    answer = post(deployment, "createTask", payload={"repository": "demo", "branch": "deployed"}, wait=20)
    assert answer.status_code == 200, answer.text
    task = answer.json()
    assert task["state"] == "succeeded", task
    branches = subprocess.run(["git", "-C", str(repository), "branch", "--list", "deployed"], capture_output=True)
    assert b"deployed" in branches.stdout


def test_a_held_call_is_answered_by_whoever_finishes_its_task(
    deployment: Deployment, calls: ThreadPoolExecutor
) -> None:
    held = [hold(calls, deployment, f"held-{number}") for number in range(9)]
    for number in range(9):
        changed = post(deployment, "changeTaskState", uuid=f"held-{number}", result={"number": number})
        assert changed.json()["changed"] is True, changed.text
    for number, call in enumerate(held):
        answer = call.result(timeout=CALL_DEADLINE_S)
        assert answer.status_code == 200
        assert answer.json()["result"] == {"number": number}


@needs_nginx
def test_every_instance_gets_calls(deployment: Deployment, calls: ThreadPoolExecutor) -> None:
    held = [hold(calls, deployment, f"spread-{number}") for number in range(6)]
    for number in range(6):
        post(deployment, "cancelTask", uuid=f"spread-{number}")
    assert {call.result(timeout=CALL_DEADLINE_S).json()["state"] for call in held} == {"cancelled"}
    addresses = {instance.url.removeprefix("http://") for instance in deployment.instances["api"]}
    assert len(addresses) == 3
    assert instances_that_answered(deployment.instances["proxy"][0]) == addresses


@needs_nginx
@pytest.mark.parametrize("size", [1_000_000, 20_000_000, 26_000_000])
def test_a_body_that_is_too_long_is_a_problem_whoever_refuses_it(deployment: Deployment, size: int) -> None:
    answer = httpx.post(f"{deployment.url}/createTask", content=b" " * size, timeout=CALL_DEADLINE_S)
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")
    assert answer.json()["code"] == "payload-too-large"


@needs_nginx
@pytest.mark.parametrize("size", [40_000, 70_000, 600_000])
def test_a_header_that_is_too_long_is_a_problem_whoever_refuses_it(deployment: Deployment, size: int) -> None:
    for answer in (
        httpx.get(f"{deployment.url}/healthz", headers={"X-Long": "x" * size}),
        httpx.get(f"{deployment.url}/healthz?{'x' * min(size, 65_000)}"),
    ):
        assert (answer.status_code, answer.headers["Content-Type"]) == (431, "application/problem+json")
        assert answer.json()["code"] == "headers-too-large"


@needs_nginx
def test_the_balancer_neither_tells_its_version_nor_logs_queries(deployment: Deployment) -> None:
    answer = httpx.get(f"{deployment.url}/queryTaskState", params={"uuid": "never-logged"})
    assert answer.headers["Server"] == "nginx"
    log = deployment.instances["proxy"][0].log.read_text()
    assert '"path":"/queryTaskState"' in log
    assert "never-logged" not in log


# Losing and stopping --------------------------------------------------------------------------------------------------


@needs_nginx
def test_calls_go_on_when_an_instance_is_gone(own_deployment: Deployment) -> None:
    own_deployment.instances["api"][0].running_process.kill()
    answers = [query(own_deployment, "unknown") for _ in range(60)]
    refused = [answer for answer in answers if answer.status_code == 503]
    # Three to notice for each of nginx's processes, and one that tries again after five seconds.
    assert len(refused) <= 3 * (os.cpu_count() or 1) + 1
    assert {answer.status_code for answer in answers} <= {404, 503}
    for answer in refused:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == "draining"
        assert 1 <= int(answer.headers["Retry-After"]) <= 3
    assert [answer.status_code for answer in answers[-10:]].count(404) >= 9


@needs_nginx
def test_a_call_whose_instance_dies_is_not_repeated_elsewhere(
    own_deployment: Deployment, calls: ThreadPoolExecutor
) -> None:
    instances = own_deployment.instances["api"]
    parameters = {"queue": UNSERVED_QUEUE, "wait": str(CALL_DEADLINE_S)}
    pending = naming.pending_key(UNSERVED_QUEUE)
    with as_user(own_deployment, "monitor") as client:
        # Held calls are spread evenly, so each instance has one. As GET: the kind that balancers like to repeat.
        held = [
            calls.submit(httpx.get, f"{own_deployment.url}/createTask", params=parameters, timeout=CALL_DEADLINE_S)
            for _ in instances
        ]
        wait_until(lambda: client.zcard(pending) == len(instances), "all tasks are created")
        instances[0].running_process.kill()
        lost = next(as_completed(held, timeout=CALL_DEADLINE_S)).result()
        assert (lost.status_code, lost.json()["code"]) == (503, "draining")
        own_deployment.stop("api")
        others = [call.result(timeout=CALL_DEADLINE_S).status_code for call in held]
        assert sorted(others) == [202, 202, 503]
        assert client.zcard(pending) == len(instances)


def test_stopping_answers_held_calls_and_everything_ends_by_itself(
    own_deployment: Deployment, calls: ThreadPoolExecutor
) -> None:
    held = [hold(calls, own_deployment, f"stopped-{number}") for number in range(6)]
    exit_codes = own_deployment.stop()
    for call in held:
        answer = call.result(timeout=CALL_DEADLINE_S)
        assert (answer.status_code, answer.headers["Retry-After"]) == (202, "0"), answer.text
    assert set(exit_codes.values()) == {0}, exit_codes
    assert len(exit_codes) == sum(len(instances) for instances in own_deployment.instances.values())


# Redis ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Only Redis, with the configuration and the users of the deployment."""
    with Deployment(tmp_path_factory.mktemp("store"), only=["redis"]) as running:
        yield running


def as_user(store: Deployment, user: str) -> redis.Redis:
    """A connection of a user with the password that is the default."""
    return connection(store.redis_url(f"broker-{user}", f"local-only-{user}"))


def connection(url: str) -> redis.Redis:
    """RESP2, in which a subscription is a plain reply; what is refused is not tried again."""
    return redis.Redis.from_url(url, protocol=2, decode_responses=True, retry=Retry(NoBackoff(), 0))


PUBLISHING_SCRIPT = "#!lua\nredis.call('TIME'); return redis.call('PUBLISH', ARGV[1], '')"
PROCESSES_MAY = (
    "PING",
    "TIME",
    "ROLE",
    "INFO server",
    "WAIT 0 1",
    "SET {broker}:sweep-turn x NX PX 1000",
    "HSET {broker}:tasks state pending",
    "HGETALL {broker}:tasks",
    "ZADD {broker}:pending:createbranch 1 a",
    "BZPOPMIN {broker}:pending:createbranch 1",
    "XADD {broker}:events:1 * data x",
    "UNLINK {broker}:tasks",
    "PUBLISH broker:probe:x y",
    "PUBLISH broker:worker:x y",
    "PUBLISH broker:events:x y",
    "PUBLISH createbranch-request-1 y",
    "PUBLISH any.other-queue-response-1 y",
)
PROCESSES_MAY_NOT = (
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "SCAN 0",
    "CONFIG SET maxmemory 1",
    "CONFIG GET *",
    "ACL LIST",
    "SCRIPT FLUSH",
    "FUNCTION FLUSH",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "DEBUG SLEEP 0",
    "MONITOR",
    "SHUTDOWN NOSAVE",
    "REPLICAOF 127.0.0.1 1",
    "SET another 1",
    "GET another",
    "RENAME {broker}:tasks another",
    "PUBLISH another x",
    "SUBSCRIBE another",
    "PSUBSCRIBE *",
    "PSUBSCRIBE *-request-*",
    "PSUBSCRIBE createbranch-response-*",
)
MAY = {
    "api": (*PROCESSES_MAY, "SUBSCRIBE createbranch-response-1 broker:probe:x broker:events:x"),
    "worker": (
        *PROCESSES_MAY,
        "PSUBSCRIBE createbranch-request-*",
        "SUBSCRIBE broker:worker:x broker:probe:x",
    ),
    "monitor": (
        "PING",
        "ROLE",
        "INFO",
        "CONFIG GET maxmemory-policy",
        "CLIENT LIST",
        "SLOWLOG GET",
        "PUBSUB NUMPAT",
        "ZCARD {broker}:pending:createbranch",
    ),
}
MAY_NOT = {
    "api": (*PROCESSES_MAY_NOT, "SUBSCRIBE another-queue-request-1", "PSUBSCRIBE another-queue-request-*"),
    "worker": (*PROCESSES_MAY_NOT, "SUBSCRIBE createbranch-response-1", "PSUBSCRIBE another-queue-request-*"),
    "monitor": (
        "SET {broker}:x 1",
        "GET another",
        "KEYS *",
        "FLUSHALL",
        "CONFIG SET maxmemory 1",
        "PUBLISH createbranch-response-1 x",
        "SUBSCRIBE createbranch-response-1",
        "CLIENT KILL TYPE normal",
        "ACL LIST",
    ),
}


@pytest.mark.parametrize(("user", "command"), [(user, command) for user in MAY for command in MAY[user]])
def test_a_user_may_do_what_it_needs(store: Deployment, user: str, command: str) -> None:
    with as_user(store, user) as client:
        client.execute_command(*command.split())


@pytest.mark.parametrize(("user", "command"), [(user, command) for user in MAY_NOT for command in MAY_NOT[user]])
def test_a_user_may_do_nothing_else(store: Deployment, user: str, command: str) -> None:
    with as_user(store, user) as client, pytest.raises(redis.ResponseError) as refusal:
        client.execute_command(*command.split())
    assert "permission" in str(refusal.value) or "DEBUG command not allowed" in str(refusal.value)


@pytest.mark.parametrize("user", ["api", "worker"])
def test_scripts_publish_for_both_kinds_of_process_but_nowhere_else(store: Deployment, user: str) -> None:
    with as_user(store, user) as client:
        digest = client.execute_command("SCRIPT LOAD", PUBLISHING_SCRIPT)
        for channel in ("createbranch-request-1", "createbranch-response-1", "broker:worker:x"):
            assert client.execute_command("EVALSHA", digest, 0, channel) == 0
        with pytest.raises(redis.ResponseError, match="channel"):
            client.execute_command("EVAL", PUBLISHING_SCRIPT, 0, "another")


@pytest.mark.parametrize("login", ["", "broker-api:local-only-worker@", "default:local-only-api@"])
def test_nobody_gets_in_without_the_right_password(store: Deployment, login: str) -> None:
    address = store.redis_url("", "").partition("@")[2]
    with connection(f"redis://{login}{address}") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.mark.parametrize("role", ["api", "worker"])
def test_the_doctor_finds_nothing_missing(store: Deployment, role: str) -> None:
    url = store.redis_url(f"broker-{role}", f"local-only-{role}")
    command = [*BROKER, "doctor", "--role", role, "--redis-url", url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    findings = {finding["name"]: finding["status"] for finding in json.loads(done.stdout)}
    assert set(findings.values()) <= {"ok", "skipped"}, done.stdout
    assert done.returncode == 0


def test_what_was_acknowledged_outlives_the_server(tmp_path: Path) -> None:
    with Deployment(tmp_path, only=["redis"]) as store:
        with as_user(store, "api") as client:
            client.set("{broker}:kept", "1")
        store.instances["redis"][0].running_process.kill()
        store.start("redis")
        with as_user(store, "api") as client:
            assert client.get("{broker}:kept") == "1"


# Failover -------------------------------------------------------------------------------------------------------------


SENTINEL_PROFILE = {
    "COMPOSE_PROFILES": "sentinel",
    "REDIS_SCHEME": "redis+sentinel",
    "REDIS_SERVERS": "sentinel-1:26379,sentinel-2:26379,sentinel-3:26379/broker/0",
    "BROKER_WAIT_REPLICAS": "1",
}


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Deployment]:
    """Servers and sentinels that know each other."""
    running = Deployment(tmp_path, only=[*SERVERS, *SENTINELS], environment=SENTINEL_PROFILE)
    try:
        running.start(*SERVERS)
        with redis.Redis.from_url(running.redis_url("broker-monitor", "local-only-monitor")) as master:
            # A sentinel asks for replicas when it starts, and then each ten seconds.
            wait_until(lambda: master.info("replication")["connected_slaves"] == 2, "the replicas are there")
        running.start(*SENTINELS)
        ports = [running.instances[name][0].port for name in SENTINELS]
        for port in ports:
            command(port, "SENTINEL", "SET", "broker", "down-after-milliseconds", "500")
        wait_until(lambda: all(_knows_everybody(port) for port in ports), "the sentinels know everybody")
        yield running
    finally:
        # In order they would take seconds, since masters wait for their replicas.
        running.kill()


async def test_with_the_sentinel_profile_another_server_takes_over(watched: Deployment, tmp_path: Path) -> None:
    async with Broker(Settings.from_environment(watched.environment_of("api"))) as broker:
        await broker.create(uuid="kept")
        watched.instances["redis"][0].running_process.kill()
        await _create_again(broker)
        assert (await broker.query("kept")).state == "pending"
    (found,) = [one for one in await asyncio.to_thread(_examined, watched) if one.name == "sentinels"]
    assert (found.status, found.message) == ("ok", "All 3 sentinels answer and name the same master.")
    # It comes back as a replica: its start asks the sentinels.
    watched.start("redis")
    has_asked = "\nreplicaof 127.0.0.1 " in (tmp_path / "redis-1" / "redis.conf").read_text()
    assert has_asked or shutil.which("redis-cli") is None


def _examined(deployment: Deployment) -> list[Finding]:
    return examine(deployment.environment_of("api")["BROKER_REDIS_URL"], role="api", wait_replicas=1)


def _knows_everybody(port: int) -> bool:
    state = command(port, "SENTINEL", "MASTER", "broker")
    known = dict(zip(state[::2], state[1::2], strict=True)) if state else {}
    return (known.get("num-slaves"), known.get("num-other-sentinels")) == ("2", "2")


async def _create_again(broker: Broker) -> None:
    async with asyncio.timeout(CALL_DEADLINE_S):
        while True:
            with contextlib.suppress(StoreUnavailableError):
                await broker.create(uuid="after")
                return
