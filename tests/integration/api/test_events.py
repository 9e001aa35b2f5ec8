"""GET /taskEvents over real sockets: what is written, who may go on where, and what remains afterwards."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from httpx_sse import aconnect_sse

from broker.store.claims import Claimed
from tests.integration.api.conftest import Deployment
from tests.support.api import ApiProcess
from tests.support.caller import Caller, code_of, request_head
from tests.support.store import LONG_MS, Store, cancelled, open_store, succeeded, until

CUTS: Final = 20
EVENTS: Final = 1_000
NDJSON: Final = {"accept": "application/x-ndjson"}


@pytest.fixture
async def events_store(deployment: Deployment) -> AsyncIterator[Store]:
    async with open_store(deployment.server.url) as store:
        yield store


@pytest.fixture
async def claimed(events_store: Store, uuid: str, queue: str) -> Claimed:
    """A task that somebody works on."""
    await events_store.create(uuid, queue=queue)
    (claimed,) = await events_store.claim(queue=queue)
    return claimed


async def tell(store: Store, claimed: Claimed, *texts: bytes) -> None:
    for text in texts:
        await store.transitions.extend(claimed.uuid, claimed.lease, LONG_MS, text)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        yield client


def lines_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of an answer that has ended."""
    return [json.loads(line) for line in answer.text.splitlines() if line]


@asynccontextmanager
async def followed(
    client: httpx.AsyncClient, url: str, uuid: str, headers: Mapping[str, str] = NDJSON
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The events of a task as lines of JSON; the connection is cut on leaving."""
    async with client.stream("GET", f"{url}/taskEvents?uuid={uuid}", headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield (json.loads(line) async for line in answer.aiter_lines() if line)


async def test_events_as_a_browser_reads_them(events_store: Store, claimed: Claimed, a: Caller) -> None:
    await tell(events_store, claimed, b"1.0", b'{\r\n"percent": "\\n \xe6\x97\xa5"\n}')
    await events_store.transitions.finish(claimed.uuid, succeeded(b"[ ]"), lease=claimed.lease)
    answer = a.call("GET", f"/taskEvents?uuid={claimed.uuid}", headers={"accept-language": "zh"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    first, second, last, rest = answer.text.split("\n\n")
    created = re.escape(f"{claimed.created_ms:x}")
    assert re.fullmatch(rf"retry: 1000\nevent: progress\nid: {created}-1\ndata: 1\.0", first)
    assert re.fullmatch(rf'event: progress\nid: {created}-2\ndata: {{  "percent": "\\n 日" }}', second)
    event, name, data = last.split("\n")
    assert (event, name) == ("event: state", f"id: {claimed.created_ms:x}-3")
    task = json.loads(data.removeprefix("data: "))
    assert task == a.query(claimed.uuid, headers={"accept-language": "zh"}).json()
    assert task["message"] == "已完成"
    assert rest == ""


async def test_events_as_a_library_reads_them(
    events_store: Store, claimed: Claimed, instances: tuple[ApiProcess, ApiProcess], client: httpx.AsyncClient
) -> None:
    await tell(events_store, claimed, b"[ 1 ]", '"a\u2028\u0085b"'.encode())
    seen = []
    async with aconnect_sse(client, "GET", f"{instances[0].url}/taskEvents?uuid={claimed.uuid}") as source:
        async for event in source.aiter_sse():
            seen.append((event.event, event.id, event.json()))
            if len(seen) == 2:
                await events_store.transitions.finish(claimed.uuid, cancelled())
    assert seen[:2] == [
        ("progress", f"{claimed.created_ms:x}-1", [1]),
        ("progress", f"{claimed.created_ms:x}-2", "a\u2028\u0085b"),
    ]
    assert (seen[2][0], seen[2][2]["state"]) == ("state", "cancelled")


async def test_events_as_lines(events_store: Store, claimed: Claimed, a: Caller) -> None:
    await tell(events_store, claimed, b"[1.0 ]")
    await events_store.transitions.finish(claimed.uuid, cancelled())
    for accept in ("application/x-ndjson", "application/json, application/x-ndjson;q=0.9"):
        answer = a.call("GET", f"/taskEvents?uuid={claimed.uuid}", headers={"accept": accept})
        assert answer.headers["content-type"] == "application/x-ndjson"
        sign_of_life, first, last = answer.text.splitlines()
        assert sign_of_life == ""
        assert first == f'{{"id":"{claimed.created_ms:x}-1","event":"progress","data":[1.0 ]}}'
        assert json.loads(last)["event"] == "state"
        assert json.loads(last)["data"] == a.query(claimed.uuid).json()


async def test_going_on_behind_an_event(events_store: Store, claimed: Claimed, a: Caller, b: Caller) -> None:
    await tell(events_store, claimed, b"1", b"2")
    await events_store.transitions.finish(claimed.uuid, cancelled())
    target = f"/taskEvents?uuid={claimed.uuid}"
    lines = lines_of(a.call("GET", target, headers=NDJSON))
    for index, event in enumerate(lines[:-1]):
        answer = b.call("GET", target, headers={**NDJSON, "last-event-id": event["id"]})
        assert lines_of(answer) == lines[index + 1 :]
    done = b.call("GET", target, headers={"last-event-id": lines[-1]["id"]})
    assert (done.status_code, done.content, done.headers.get("content-type")) == (204, b"", None)
    lost = b.call("GET", target, headers={**NDJSON, "last-event-id": b"\xff7"})
    reset, state = lines_of(lost)
    assert (reset["event"], reset["id"], reset["data"]) == ("reset", lines[1]["id"], state["data"])
    empty = b.call("GET", target, headers={**NDJSON, "last-event-id": ""})
    assert len(lines_of(empty)) == 3


def test_what_a_worker_over_http_reports(a: Caller, b: Caller, uuid: str, queue: str) -> None:
    a.create(uuid=uuid, queue=queue)
    (task,) = a.call("POST", "/claimTask", json={"queues": [queue]}).json()["tasks"]
    body = f'{{"uuid":"{uuid}","lease":"{task["lease"]}","progress":[1.0 ]}}'
    for caller in (a, b):
        caller.call("POST", "/heartbeatTask", content=body, headers={"content-type": "application/json"})
    b.change(uuid, lease=task["lease"], result="7")
    answer = a.call("GET", f"/taskEvents?uuid={uuid}", headers=NDJSON)
    assert answer.text.count('"event":"progress","data":[1.0 ]}') == 2
    assert lines_of(answer)[-1]["data"]["result"] == 7


async def test_what_is_refused_before_anything_is_written(claimed: Claimed, a: Caller) -> None:
    assert code_of(a.call("GET", "/taskEvents?uuid=nobody")) == (404, "task-not-found")
    assert code_of(a.call("GET", "/taskEvents")) == (422, "invalid-request")
    assert code_of(a.call("GET", f"/taskEvents?uuid={claimed.uuid}&after=1")) == (422, "invalid-request")
    assert code_of(a.call("POST", f"/taskEvents?uuid={claimed.uuid}")) == (405, "method-not-allowed")
    head = a.call("HEAD", f"/taskEvents?uuid={claimed.uuid}")
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
    assert a.call("HEAD", "/taskEvents?uuid=nobody").status_code == 404


async def test_a_reader_who_is_cut_off_sees_each_event_once(
    events_store: Store, claimed: Claimed, instances: tuple[ApiProcess, ApiProcess], client: httpx.AsyncClient
) -> None:
    """Twenty times, each time going on at the other instance, while the task goes on telling."""
    seen: list[dict[str, Any]] = []
    cuts = 0

    async def work() -> None:
        for start in range(0, EVENTS, 20):
            await asyncio.gather(*(tell(events_store, claimed, b"%d" % (start + more)) for more in range(20)))
            # Never far ahead of the reader, who would then be cut off at a time when nothing is told.
            await until(lambda start=start: len(seen) > start - 40, "the reader follows")  # type: ignore[misc]
        await events_store.transitions.finish(claimed.uuid, succeeded(b"7"), lease=claimed.lease)

    working = asyncio.create_task(work())
    while not seen or seen[-1]["event"] != "state":
        headers = {**NDJSON, "last-event-id": seen[-1]["id"]} if seen else NDJSON
        goal = (cuts + 1) * EVENTS // (CUTS + 1)
        async with followed(client, instances[cuts % 2].url, claimed.uuid, headers) as events:
            async for event in events:
                seen.append(event)
                if len(seen) == goal and cuts < CUTS:
                    cuts += 1
                    break
    await working
    assert cuts == CUTS
    assert [event["data"] for event in seen[:-1]] == list(range(EVENTS))
    assert {event["event"] for event in seen[:-1]} == {"progress"}
    assert len({event["id"] for event in seen}) == EVENTS + 1
    assert seen[-1]["data"]["result"] == 7


async def test_streams_leave_nothing_behind(
    events_store: Store, claimed: Claimed, instances: tuple[ApiProcess, ApiProcess], client: httpx.AsyncClient
) -> None:
    instance = Metrics(client, instances[0].url)
    gone = await instance.value('broker_callers_gone_total{operation="taskEvents"}')
    await tell(events_store, claimed, b"1")
    left = asyncio.Event()

    async def look_in() -> None:
        async with followed(client, instance.url, claimed.uuid) as events:
            await anext(events)
            await left.wait()

    readers = [asyncio.create_task(look_in()) for _ in range(20)]
    await instance.until("broker_event_streams", 20)
    left.set()
    await asyncio.gather(*readers)
    await instance.until("broker_event_streams", 0)
    await instance.until("broker_held_waits", 0)
    await instance.until('broker_callers_gone_total{operation="taskEvents"}', gone + 20)
    await until(lambda: not events_store.raw.pubsub_channels("broker:events:*"), "no channel is left")
    assert await instance.value("broker_channels_leaked") == 0


async def test_a_reader_who_takes_nothing_costs_little(
    events_store: Store,
    claimed: Claimed,
    a: Caller,
    instances: tuple[ApiProcess, ApiProcess],
    client: httpx.AsyncClient,
) -> None:
    """What it has not taken stays in the store, and the others are told as before."""
    long = b'"' + b"x" * 200_000 + b'"'
    instance = Metrics(client, instances[0].url)
    sent = await instance.value("broker_events_sent_total")
    with a.connection(request_head("GET", f"/taskEvents?uuid={claimed.uuid}")):
        async with followed(client, instance.url, claimed.uuid) as events:
            for _ in range(100):
                await tell(events_store, claimed, long)
                assert len((await anext(events))["data"]) == 200_000
        sent = await instance.value("broker_events_sent_total") - sent
        # The sockets' buffers took some.
        assert 100 < sent < 180


async def test_the_end_of_an_instance_is_the_end_of_its_streams(
    deployment: Deployment,
    events_store: Store,
    claimed: Claimed,
    own_log: Path,
    a: Caller,
    client: httpx.AsyncClient,
) -> None:
    await tell(events_store, claimed, b"1")
    with ApiProcess(deployment.server.url, log=own_log, drain_s="8", max_waiters="2") as instance:
        async with (
            followed(client, instance.url, claimed.uuid) as events,
            followed(client, instance.url, claimed.uuid) as others,
        ):
            first = await anext(events)
            await anext(others)
            refused = await client.get(f"{instance.url}/taskEvents?uuid={claimed.uuid}")
            assert code_of(refused) == (503, "too-many-waiters")
            instance.terminate()
            assert [event async for event in events] == [event async for event in others] == []
        assert instance.process.wait(8) == 0
        instance.assert_log_has_no_defect()
    await events_store.transitions.finish(claimed.uuid, cancelled())
    answer = a.call("GET", f"/taskEvents?uuid={claimed.uuid}", headers={**NDJSON, "last-event-id": first["id"]})
    assert [event["event"] for event in lines_of(answer)] == ["state"]


class Metrics:
    """What an instance counts."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self.url = url

    async def value(self, name: str) -> float:
        """As it is now; what has not been counted yet is 0."""
        page = (await self._client.get(f"{self.url}/metrics")).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def until(self, name: str, number: float) -> None:
        """Returns once it is that number."""

        async def is_so() -> bool:
            return await self.value(name) == number

        await until(is_so, f"{name} is {number}")
