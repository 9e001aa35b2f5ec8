"""An HTTP client of the fault suite: one connection a call, and every call written into the history."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from tests.faults.history import Call

ADDRESS: Final = "127.0.0.1"
PATIENCE_S: Final = 20.0
"""How much longer than its wait a caller listens: longer than any stop of an instance, so that silence is a finding."""
PATHS: Final = {
    "create": "/createTask",
    "query": "/queryTaskState",
    "change": "/changeTaskState",
    "claim": "/claimTask",
    "heartbeat": "/heartbeatTask",
    "release": "/releaseTask",
    "settle": "/changeTaskState",
}


class Reply(NamedTuple):
    """What came back over HTTP."""

    status: int
    document: Any


class Caller:
    """One client, which may ask any instance.

    Args:
        name: For the history.
        ports: Of the instances, by name.
        calls: Where the history of calls goes.
    """

    def __init__(self, name: str, ports: Mapping[str, int], calls: list[Call]) -> None:
        self.name = name
        self.instances = list(ports)
        self._ports = ports
        self._calls = calls

    async def create(
        self, instance: str, request: dict[str, Any], *, key: str | None = None, leaves_after_s: float | None = None
    ) -> Call:
        """POST /createTask."""
        call = self._begun("create", instance, request, request["wait"])
        call.idempotency_key = key
        headers = "" if key is None else f'Idempotency-Key: "{key}"\r\n'
        return await self._ended(call, _post("create", request, headers), leaves_after_s)

    async def query(self, instance: str, uuid: str, wait_s: float) -> Call:
        """GET /queryTaskState."""
        call = self._begun("query", instance, {"uuid": uuid}, wait_s)
        path = f"{PATHS['query']}?{urlencode({'uuid': uuid, 'wait': wait_s})}"
        return await self._ended(call, _get(path))

    async def change(self, instance: str, request: dict[str, Any]) -> Call:
        """POST /changeTaskState, or /cancelTask where no state is asked for."""
        call = self._begun("change", instance, request, 0)
        path = "change" if len(request) > 1 else "/cancelTask"
        return await self._ended(call, _post(path, request))

    async def claim(self, instance: str, queue: str, wait_s: float, *, leaves_after_s: float | None = None) -> Call:
        """POST /claimTask."""
        request = {"queues": [queue], "wait": wait_s, "max": 2}
        call = self._begun("claim", instance, request, wait_s)
        return await self._ended(call, _post("claim", request), leaves_after_s)

    async def work(
        self, operation: str, instance: str, request: dict[str, Any], *, leaves_after_s: float | None = None
    ) -> Call:
        """POST /heartbeatTask, /releaseTask, or /changeTaskState with a lease."""
        call = self._begun(operation, instance, request, 0)
        return await self._ended(call, _post(operation, request), leaves_after_s)

    def _begun(self, operation: str, instance: str, request: dict[str, Any], wait_s: float) -> Call:
        now = time.time()
        return Call(
            client=self.name,
            instance=instance,
            operation=operation,
            request=request,
            started=now,
            ended=now,
            wait_s=wait_s,
        )

    async def _ended(self, call: Call, data: bytes, leaves_after_s: float | None = None) -> Call:
        patience_s = call.wait_s + PATIENCE_S if leaves_after_s is None else leaves_after_s
        try:
            async with asyncio.timeout(patience_s):
                reply = await _exchange(self._ports[call.instance], data)
            call.status, call.answer = reply
        except TimeoutError:
            call.failure, call.left = "no answer in time", leaves_after_s is not None
        except (OSError, EOFError, ValueError) as error:
            call.failure = repr(error)
        finally:
            call.ended = time.time()
            self._calls.append(call)
        return call


def _post(path: str, document: dict[str, Any], headers: str = "") -> bytes:
    body = json.dumps(document).encode()
    head = f"POST {PATHS.get(path, path)} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{headers}"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode()


async def _exchange(port: int, data: bytes) -> Reply:
    reader, writer = await asyncio.open_connection(ADDRESS, port)
    try:
        writer.write(data)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    finally:
        writer.transport.abort()
    status = int(head[0].split(" ")[1])
    return Reply(status, json.loads(body) if body else None)


async def get_status(port: int, path: str, timeout_s: float = 1.0) -> int | None:
    """The status of a GET outside of any history; None when nothing answers."""
    try:
        async with asyncio.timeout(timeout_s):
            return (await _exchange(port, _get(path))).status
    except (OSError, EOFError, ValueError):
        return None
