"""An API that answers from a script, on a clock that only moves when somebody waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from broker.client import BrokerClient
from broker.client.pacing import Clock

Step = Callable[[httpx.Request], httpx.Response]


class FakeTime:
    """Seconds that pass only by sleeping and by held calls."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    @property
    def clock(self) -> Clock:
        """Chance always takes the longest pause."""
        return Clock(now=lambda: self.now, sleep=self.sleep, chance=lambda: 1.0)


class FakeApi:
    """Answers each request with the next step of its script; the last step answers all the rest."""

    def __init__(self, *steps: Step) -> None:
        self.time = FakeTime()
        self.requests: list[httpx.Request] = []
        self.steps = list(steps)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step(request)

    def client(self, url: str = "http://broker.test", **options: Any) -> BrokerClient:
        return BrokerClient(url, transport=httpx.MockTransport(self), clock=self.time.clock, **options)

    @property
    def asked(self) -> list[str]:
        """Method, path and query of each request."""
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]

    def body(self, index: int = 0) -> dict[str, Any]:
        """The JSON body of a request."""
        members: dict[str, Any] = json.loads(self.requests[index].content)
        return members

    def holding(self, step: Step, seconds: float) -> Step:
        """A step that takes so long."""

        def held(request: httpx.Request) -> httpx.Response:
            self.time.now += seconds
            return step(request)

        return held


def task(state: str, *, uuid: str = "084Tkjfh", **members: Any) -> dict[str, Any]:
    """A task JSON."""
    return {"uuid": uuid, "queue": "createbranch", "state": state, "attempt": 0, **members}


def answer(document: Any, status: int = 200, **headers: str) -> Step:
    """A JSON answer; `Retry_After` becomes `Retry-After`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx.Response(status, json=document, headers=named)


def raw_answer(body: bytes, status: int = 200) -> Step:
    """An answer as given."""
    return lambda _: httpx.Response(status, content=body)


def accepted(state: str = "pending", *, retry_after: str = "0") -> Step:
    """202 as createTask gives it."""
    place = "/queryTaskState?uuid=084Tkjfh"
    return answer(task(state), 202, Location=place, Retry_After=retry_after)


def problem(status: int, code: str, *, detail: str = "A sentence.", retry_after: str = "", **members: Any) -> Step:
    """`application/problem+json`."""
    headers = {"Retry_After": retry_after} if retry_after else {}
    return answer({"title": "A title", "status": status, "detail": detail, "code": code, **members}, status, **headers)


def broken(request: httpx.Request) -> httpx.Response:
    """A connection that breaks."""
    raise httpx.ReadError("connection reset by peer", request=request)


def refused(request: httpx.Request) -> httpx.Response:
    """Nobody listens."""
    raise httpx.ConnectError("connection refused", request=request)
