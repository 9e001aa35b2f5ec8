"""A user's own FastAPI application in two processes of a real web server: each ends what the other holds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import redis

from broker.store.embedded import EmbeddedServer, free_port
from tests.support.api import ServiceProcess, stop_together
from tests.support.processes import wait_until

ADDRESS: Final = "127.0.0.1"
CHANNEL: Final = "deferredresult-response-"


class AppProcess(ServiceProcess):
    """One process of the application `tests.support.shop`."""

    def __init__(self, redis_url: str, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://{ADDRESS}:{self.port}"
        super().__init__(
            *("tests.support.shop:app", "--host", ADDRESS, "--port", str(self.port)),
            log=log,
            command=(sys.executable, "-m", "uvicorn"),
            redis_url=redis_url,
        )

    def wait_until_ready(self) -> None:
        with httpx.Client(trust_env=False) as http:
            self._wait_until_running(lambda: self._answers(http), "it answers")

    def _answers(self, http: httpx.Client) -> bool:
        try:
            return http.get(self.url + "/plain").status_code == 200
        except httpx.TransportError:
            return False

    def called(self) -> list[Any]:
        """What was called back since the last look."""
        return list(httpx.get(self.url + "/called", trust_env=False).json())


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="module")
def processes(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[AppProcess]]:
    """Three, of which the last is there to be ended."""
    folder = tmp_path_factory.mktemp("logs")
    running = [AppProcess(server.url, folder / f"{number}.log") for number in range(3)]
    try:
        for process in running:
            process.start()
        for process in running:
            process.wait_until_ready()
        yield running
    finally:
        stop_together(running)
    for process in running:
        process.assert_log_has_no_defect()


@pytest.fixture
def held(server: EmbeddedServer) -> Iterator[Callable[..., Future[httpx.Response]]]:
    """`held(process, "7")`: a call that waits, once it does."""
    with ExitStack() as stack:
        raw = stack.enter_context(redis.Redis.from_url(server.url))
        threads = stack.enter_context(ThreadPoolExecutor(8))
        http = stack.enter_context(httpx.Client(trust_env=False, timeout=20))

        def hold(process: AppProcess, order: str, **query: Any) -> Future[httpx.Response]:
            call = threads.submit(http.get, f"{process.url}/orders/{order}", params=query)
            wait_until(lambda: raw.pubsub_numsub(CHANNEL + order)[0][1], f"{order} is waited for")
            return call

        yield hold


def post(process: AppProcess, path: str, **body: Any) -> httpx.Response:
    return httpx.post(process.url + path, json=body, trust_env=False)


Held = Callable[..., Future[httpx.Response]]


def test_another_process_sets_the_result(processes: list[AppProcess], held: Held) -> None:
    one, other, _ = processes
    calls = [held(one, "a"), held(other, "a")]

    assert post(other, "/orders/a/payment", amount=12.5).json() is True
    assert post(one, "/orders/a/payment", amount=1).json() is False

    for call in calls:
        assert (call.result().status_code, call.result().content) == (200, b'{"amount":12.5}')
        assert call.result().headers["content-type"] == "application/json"
    # Who comes late gets it, too.
    assert httpx.get(f"{other.url}/orders/a", trust_env=False).json() == {"amount": 12.5}


def test_another_process_sets_an_error(processes: list[AppProcess], held: Held) -> None:
    one, other, _ = processes
    call = held(one, "b")

    assert post(other, "/orders/b/refusal").json() is True

    assert call.result().status_code == 500
    assert call.result().json()["code"] == "declined"
    assert (call.result().json()["detail"], call.result().json()["details"]) == ("No money.", [1])


def test_nobody_waits_for_it(processes: list[AppProcess]) -> None:
    assert post(processes[0], "/orders/nobody/payment", amount=1).status_code == 404
    answer = post(processes[0], "/orders/nobody/refusal")
    assert (answer.status_code, answer.json()["code"]) == (404, "task-not-found")
    assert httpx.get(processes[0].url + "/orders/n%20n", trust_env=False).json()["code"] == "invalid-request"


def test_an_exclusive_call_is_refused_by_the_other_process(processes: list[AppProcess], held: Held) -> None:
    one, other, _ = processes
    call = held(one, "c", exclusive=True)

    refused = httpx.get(f"{other.url}/orders/c?exclusive=true", trust_env=False)

    assert (refused.status_code, refused.json()["code"]) == (409, "waiter-exists")
    assert post(other, "/orders/c/payment", amount=1).json() is True
    assert call.result().status_code == 200


def test_a_client_that_hangs_up(processes: list[AppProcess], server: EmbeddedServer) -> None:
    one = processes[0]
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(one.url + "/orders/d", timeout=0.4, trust_env=False)
    with redis.Redis.from_url(server.url) as raw:
        wait_until(lambda: one.called()[-2:] == ["ClientDisconnect", "completion"], "both were called")
        wait_until(lambda: not raw.pubsub_numsub(CHANNEL + "d")[0][1], "the channel is left")
    assert one.called().count("ClientDisconnect") == 1


def test_held_calls_are_answered_when_the_process_is_told_to_end(processes: list[AppProcess], held: Held) -> None:
    ending = processes[2]
    calls = [held(ending, f"e{number}") for number in range(3)]
    started = time.monotonic()

    ending.terminate()

    assert [call.result().json() for call in calls] == [{"paid": False}] * 3
    ending.process.wait(10)
    assert time.monotonic() - started < 5
    # The keys are still there: whoever asks elsewhere gets the result.
    again = held(processes[0], "e0")
    assert post(processes[1], "/orders/e0/payment", amount=2).json() is True
    assert again.result().json() == {"amount": 2}
