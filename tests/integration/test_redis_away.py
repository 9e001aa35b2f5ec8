"""Redis goes away in every way it knows: callers are told within seconds, held calls are answered afterwards."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from broker import naming
from broker.store.embedded import EmbeddedServer, free_port
from tests.integration.conftest import OwnDeployment
from tests.support.processes import freeze, wait_until
from tests.support.proxy import Proxy
from tests.support.store import Ear
from tests.support.swift_http import Answer, SwiftHttp

TOLD_WITHIN_S: Final = 5.5
"""Four seconds are what a command waits for its answer; the rest is for a busy machine."""
BACK_WITHIN_S: Final = 20.0
HELD: Final = 20
LONG_WAIT_S: Final = 60

Held = list[asyncio.Task[Answer]]


async def until(condition: Callable[[], object], what: str, deadline_s: float = BACK_WITHIN_S) -> None:
    await asyncio.to_thread(wait_until, condition, what, deadline_s)


# Callers


def held_calls(http: SwiftHttp) -> Held:
    """Calls for tasks `t0`, `t1`, … of a queue that no worker works on."""
    request = {"queue": "held", "wait": LONG_WAIT_S}
    return [asyncio.create_task(http.post("/createTask", {**request, "uuid": f"t{number}"})) for number in range(HELD)]


async def until_held(own: OwnDeployment) -> None:
    await until(lambda: len(own.response_channels()) == HELD, f"{HELD} calls are held")


async def finish_all(http: SwiftHttp) -> None:
    """A third party ends those tasks, as soon as it can."""
    await asyncio.gather(
        *[
            asked_until_possible(http, "/changeTaskState", {"uuid": f"t{number}", "result": number})
            for number in range(HELD)
        ]
    )


async def asked_until_possible(http: SwiftHttp, path: str, document: Any) -> Answer:
    """What a client gets that comes back after each 503."""
    deadline = time.monotonic() + BACK_WITHIN_S
    while (answer := await http.post(path, document)).status == 503:
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.05)
    return answer


async def assert_all_are_answered(held: Held) -> None:
    async with asyncio.timeout(BACK_WITHIN_S):
        answers = await asyncio.gather(*held)
    assert [answer.document.get("result", answer) for answer in answers] == list(range(HELD))


def assert_is_unavailable(answer: Answer) -> None:
    assert (answer.status, answer.document["code"]) == (503, "store-unavailable"), answer
    assert 1 <= int(answer.headers["retry-after"]) <= 3


def creates(http: SwiftHttp) -> list[Any]:
    return [http.post("/createTask", {"queue": "held", "wait": wait}) for wait in (0, LONG_WAIT_S)]


def writes(http: SwiftHttp) -> list[Any]:
    return [
        *creates(http),
        http.post("/changeTaskState", {"uuid": "t0"}),
        http.post("/cancelTask", {"uuid": "t0"}),
    ]


def reads(http: SwiftHttp) -> list[Any]:
    return [http.get("/queryTaskState?uuid=t0"), http.get(f"/queryTaskState?uuid=t0&wait={LONG_WAIT_S}")]


async def assert_all_are_told(calls: Sequence[Any]) -> None:
    """503 in time, neither 500 nor never."""
    async with asyncio.timeout(TOLD_WITHIN_S):
        answers = await asyncio.gather(*calls)
    for answer in answers:
        assert_is_unavailable(answer)


def executions(folder: Path) -> list[str]:
    """Uuid and attempt of each."""
    return [line for log in folder.glob("*.log") for line in log.read_text().splitlines()]


# It ends, and comes back


@pytest.mark.parametrize("end", [EmbeddedServer.stop, EmbeddedServer.kill], ids=["restart", "kill -9"])
async def test_held_calls_outlive_the_server(lasting: OwnDeployment, end: Callable[[EmbeddedServer], None]) -> None:
    api = lasting.api()
    async with SwiftHttp(api.url) as http:
        held = held_calls(http)
        await until_held(lasting)
        end(lasting.server)
        await assert_all_are_told([*writes(http), *reads(http)])
        lasting.server.start()

        await finish_all(http)
        await assert_all_are_answered(held)
    api.assert_log_has_no_defect()


async def test_what_ended_while_an_instance_was_cut_off_is_found_afterwards(own: OwnDeployment) -> None:
    """The messages were published when it could not hear: only the store knows."""
    async with Proxy(own.server.url) as proxy:
        api = await asyncio.to_thread(own.api, proxy.url)
        other = await asyncio.to_thread(own.api)
        async with SwiftHttp(api.url) as http, SwiftHttp(other.url) as elsewhere:
            held = held_calls(http)
            await until_held(own)
            await proxy.refuse()
            await finish_all(elsewhere)
            assert not any(call.done() for call in held)
            await proxy.listen()
            await assert_all_are_answered(held)
    api.assert_log_has_no_defect()


async def test_killed_connections_start_nothing_twice(own: OwnDeployment, tmp_path: Path) -> None:
    api = own.api()
    # What a lost claim had taken comes back soon.
    own.worker(lease_s="1")
    async with SwiftHttp(api.url) as http:

        async def create(number: int) -> None:
            payload = {"folder": str(tmp_path), "number": number}
            request = {"queue": "test-log", "uuid": f"t{number}", "payload": payload, "wait": LONG_WAIT_S}
            answer = await asked_until_possible(http, "/createTask", request)
            assert (answer.status, answer.document["result"]) == (200, number)

        creates = [asyncio.create_task(create(number)) for number in range(200)]
        for _ in range(10):
            own.store.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.05)
        await asyncio.gather(*creates)
    runs = executions(tmp_path)
    assert len(runs) == len(set(runs))
    api.assert_log_has_no_defect()


# It stands still


@contextmanager
def standing_still(server: EmbeddedServer) -> Iterator[None]:
    freeze(server.process, server.pid)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


async def test_a_short_standstill_is_only_a_delay(own: OwnDeployment) -> None:
    api = own.api()
    async with SwiftHttp(api.url) as http:
        held = held_calls(http)
        await until_held(own)
        with standing_still(own.server):
            slow = asyncio.create_task(http.post("/createTask", {"queue": "held", "uuid": "slow", "wait": 0}))
            await asyncio.sleep(1)
            assert not slow.done()
        assert (await slow).status == 202
        await finish_all(http)
        await assert_all_are_answered(held)
    api.assert_log_has_no_defect()


async def test_a_long_standstill_holds_up_nobody(own: OwnDeployment) -> None:
    api = own.api()
    async with SwiftHttp(api.url) as http:
        held = held_calls(http)
        await until_held(own)
        with standing_still(own.server):
            await assert_all_are_told([*writes(http), *reads(http)])
            assert (await http.get("/healthz")).status == 200
        # The cancellation was not confirmed, and may have happened: the first outcome wins, whoever asks.
        await asked_until_possible(http, "/changeTaskState", {"uuid": "t0", "result": 0})
        first = (await http.get("/queryTaskState?uuid=t0")).document
        for number in range(1, HELD):
            await asked_until_possible(http, "/changeTaskState", {"uuid": f"t{number}", "result": number})
        async with asyncio.timeout(BACK_WITHIN_S):
            answers = await asyncio.gather(*held)
        assert answers[0].document == first
        assert [answer.document["result"] for answer in answers[1:]] == list(range(1, HELD))
    api.assert_log_has_no_defect()


# It refuses


async def test_a_full_server_takes_no_tasks_and_drains(own: OwnDeployment) -> None:
    api = own.api()
    async with SwiftHttp(api.url) as http:
        echo = {"queue": "test-echo", "payload": 1, "wait": LONG_WAIT_S}
        waiting = [asyncio.create_task(http.post("/createTask", echo)) for _ in range(10)]
        held = held_calls(http)
        await until(lambda: len(own.response_channels()) == HELD + 10, "all calls are held")
        own.store.config_set("maxmemory", "1")
        try:
            await assert_all_are_told(creates(http))
            own.worker()
            assert [(await call).document["result"] for call in waiting] == [1] * 10
            await finish_all(http)
            await assert_all_are_answered(held)
        finally:
            own.store.config_set("maxmemory", "0")
        assert (await http.post("/createTask", echo)).document["result"] == 1
    api.assert_log_has_no_defect()


async def test_a_replica_is_left_alone(own: OwnDeployment) -> None:
    """As after a failover that demoted the server: what it has is old, and what is written there is lost."""
    api = own.api()
    async with SwiftHttp(api.url) as http:
        held = held_calls(http)
        await until_held(own)
        # Its master does not answer, so it keeps what it has.
        own.store.replicaof("127.0.0.1", str(free_port()))
        await until(lambda: not command_links(own), "the instance has left")
        await assert_all_are_told([*writes(http), *reads(http)])
        own.store.replicaof("NO", "ONE")

        await finish_all(http)
        await assert_all_are_answered(held)
    api.assert_log_has_no_defect()


def command_links(own: OwnDeployment) -> set[str]:
    return links(own, "broker-") - hub_links(own)


def hub_links(own: OwnDeployment) -> set[str]:
    return links(own, "broker-hub-")


def links(own: OwnDeployment, name: str) -> set[str]:
    return {client["id"] for client in own.store.client_list() if client["name"].startswith(name)}


async def test_no_place_for_another_client(own: OwnDeployment) -> None:
    api = own.api()
    async with SwiftHttp(api.url) as http:
        held = held_calls(http)
        await until_held(own)
        own.store.config_set("maxclients", "1")
        try:
            # Who is in stays in.
            assert (await http.post("/createTask", {"queue": "held", "wait": 0})).status == 202
            own.store.client_kill_filter(_type="normal", skipme=True)
            own.store.client_kill_filter(_type="pubsub", skipme=True)
            await assert_all_are_told([*writes(http), *reads(http)])
        finally:
            own.store.config_set("maxclients", "1000")
        await finish_all(http)
        await assert_all_are_answered(held)
    api.assert_log_has_no_defect()


async def test_a_server_that_cannot_save_takes_nothing(lasting: OwnDeployment, tmp_path: Path) -> None:
    """MISCONF, as on a full disk."""
    api = lasting.api()
    async with SwiftHttp(api.url) as http:
        held = held_calls(http)
        await until_held(lasting)
        lasting.store.config_set("save", "3600 1")
        shutil.rmtree(tmp_path / "data")
        lasting.store.bgsave()
        await until(lambda: lasting.store.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")
        await assert_all_are_told(writes(http))
        assert (await http.get("/queryTaskState?uuid=t1")).status == 200
        lasting.store.config_set("stop-writes-on-bgsave-error", "no")

        await finish_all(http)
        await assert_all_are_answered(held)
    # Without these it would try to save when it is stopped.
    lasting.store.config_set("save", "")
    lasting.store.config_set("appendonly", "no")
    api.assert_log_has_no_defect()


# It forgets, or talks too much


async def test_forgotten_scripts_are_sent_again(own: OwnDeployment) -> None:
    api = own.api()
    own.worker()
    async with SwiftHttp(api.url) as http:
        request = {"queue": "test-echo", "payload": [1.0], "wait": LONG_WAIT_S}
        calls = [asyncio.create_task(http.post("/createTask", request)) for _ in range(300)]
        while not all(call.done() for call in calls):
            own.store.script_flush()
            await asyncio.sleep(0.01)
        assert {(call.result().status, call.result().document.get("attempt")) for call in calls} == {(200, 1)}
    api.assert_log_has_no_defect()


async def test_a_subscriber_that_the_server_drops_comes_back(own: OwnDeployment) -> None:
    """The server ends a subscription whose messages pile up: what it had not read is lost."""
    api = own.api()
    async with SwiftHttp(api.url) as http:
        held = held_calls(http)
        await until_held(own)
        own.store.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
        hubs = hub_links(own)
        # In one script, so that nothing is written meanwhile. Valkey does not count messages that it can share.
        flood = "for _ = 1, 1000 do redis.call('PUBLISH', KEYS[1], ARGV[1]) end"
        own.store.eval(flood, 1, "held-response-t0", "x" * 1_000)
        await finish_all(http)
        await until(lambda: hub_links(own) - hubs, "it has been dropped, and is back")
        await assert_all_are_answered(held)
    api.assert_log_has_no_defect()


# The way to it


async def test_a_slow_network_only_takes_longer(own: OwnDeployment) -> None:
    async with Proxy(own.server.url) as proxy:
        api = await asyncio.to_thread(own.api, proxy.url)
        await asyncio.to_thread(own.worker, proxy.url)
        async with SwiftHttp(api.url) as http:
            held = held_calls(http)
            await until_held(own)
            proxy.slow_down(0.3)
            echo = {"queue": "test-echo", "payload": 1, "wait": LONG_WAIT_S}
            assert (await http.post("/createTask", echo)).document["result"] == 1
            await finish_all(http)
            await assert_all_are_answered(held)
    api.assert_log_has_no_defect()


async def test_a_create_whose_reply_was_lost_makes_one_task(own: OwnDeployment) -> None:
    async with Proxy(own.server.url) as proxy:
        api = await asyncio.to_thread(own.api, proxy.url)
        with redis.Redis.from_url(own.server.url, decode_responses=True) as raw:
            ear = Ear(raw, "held-request-*")
            async with SwiftHttp(api.url) as http:
                proxy.keep_replies()
                create = asyncio.create_task(http.post("/createTask", {"queue": "held", "wait": 0}))
                await until(lambda: raw.zcard(naming.pending_key("held")) == 1, "the create has run")
                proxy.lose_replies()
                answer = await create
                assert answer.status == 202
            assert [channel for channel, _ in ear.messages()] == [f"held-request-{answer.document['uuid']}"]
            ear.close()


async def test_a_claim_whose_reply_was_lost_is_not_sent_again(own: OwnDeployment, tmp_path: Path) -> None:
    """The tasks belong to nobody until their leases are over; then somebody executes them, once."""
    async with Proxy(own.server.url) as proxy:
        api = own.api()
        await asyncio.to_thread(own.worker, proxy.url, lease_s="1")
        async with SwiftHttp(api.url) as http:
            echo = {"queue": "test-echo", "payload": 1, "wait": LONG_WAIT_S}
            assert (await http.post("/createTask", echo)).document["result"] == 1
            payload = {"folder": str(tmp_path), "number": 7}
            request = {"queue": "test-log", "uuid": "t", "payload": payload, "wait": LONG_WAIT_S}
            # Only the reply to its claim brings a worker the payload.
            proxy.keep_replies(first=str(tmp_path).encode())
            create = asyncio.create_task(http.post("/createTask", request))
            await until(lambda: own.store.zcard(naming.leases_key()) == 1, "the claim has run")
            proxy.lose_replies()
            answer = await create
        assert (answer.status, answer.document["result"], answer.document["attempt"]) == (200, 7, 2)
        assert executions(tmp_path) == ["t 2"]
    api.assert_log_has_no_defect()
