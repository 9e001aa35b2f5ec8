"""Publishing and watching through the client: what is asked, the version that is echoed, and what is sent again."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from broker.client import BrokerClient
from broker.errors import ApiError, InvalidRequestError, QueueFullError, StoreUnavailableError
from tests.unit.client.fake_api import FakeApi, Step, answer, problem


def told(version: str, value: Any, namespace: str = "n") -> Step:
    document = {"namespace": namespace, "version": version, "value": value, "changed_at": "2026-11-20T10:00:00.000Z"}
    return answer(document, ETag=f'"{version}"')


def unchanged(version: str) -> Step:
    return lambda _: httpx.Response(304, headers={"ETag": f'"{version}"'})


def broken(error: type[httpx.TransportError]) -> Step:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error("x", request=request)

    return fail


async def test_following_echoes_each_version() -> None:
    api = FakeApi(told("1-a", [1.5]), told("2-b", None), answer({"namespace": "n", "version": "0"}))
    seen = []
    async with api.client() as client:
        async for published in client.follow("n"):
            seen.append((published.version, published.value, published.exists))
            if not published.exists:
                break
    assert seen == [("1-a", [1.5], True), ("2-b", None, True), ("0", None, False)]
    assert api.asked == [f"GET /watch/n?version={version}&wait=50" for version in ("0", "1-a", "2-b")]


async def test_a_long_watch_is_several_calls_that_miss_nothing_in_between() -> None:
    api = FakeApi()
    api.steps = [api.holding(unchanged("7-x"), 50), api.holding(told("8-y", 8), 3)]
    async with api.client() as client:
        published = await client.watch("n")
    assert published is not None
    assert published.value == 8
    assert api.asked == ["GET /watch/n?wait=50", "GET /watch/n?version=7-x&wait=50"]
    assert api.time.pauses == []


async def test_a_watch_ends_with_its_time() -> None:
    api = FakeApi()
    api.steps = [api.holding(unchanged("7-x"), 50), api.holding(unchanged("7-x"), 10)]
    async with api.client() as client:
        assert await client.watch("n", "7-x", timeout=60) is None
    assert [request.url.params["wait"] for request in api.requests] == ["50", "10"]


async def test_answers_that_come_early_are_not_asked_for_in_a_loop() -> None:
    api = FakeApi(unchanged("1-a"), unchanged("1-a"), unchanged("1-a"), told("2-b", 2))
    async with api.client() as client:
        await client.watch("n", "1-a")
    assert api.time.pauses == [0.1, 0.2, 0.4]


async def test_several_namespaces() -> None:
    api = FakeApi(answer([{"namespace": "b", "version": "2", "value": 1}]))
    async with api.client() as client:
        (published,) = await client.watch_several({"a": "1-a", "b": "0"})
    assert (published.namespace, published.version) == ("b", "2")
    assert api.asked == ["GET /watch?namespace=a%3A1-a&namespace=b%3A0&wait=50"]


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"[", b'{"namespace":1}'])
async def test_what_is_no_published_value_is_an_error(body: bytes) -> None:
    api = FakeApi(lambda _: httpx.Response(200, content=body))
    async with api.client() as client:
        for call in (client.watch("n"), client.publish("n", 1)):
            with pytest.raises(ApiError):
                await call


# Publishing


@pytest.mark.parametrize(
    ("given", "sent"),
    [({"value": {"a": 1}}, b'{"a":1}'), ({}, b"null"), ({"value_json": "[1.0]"}, b"[1.0]"), ({"value": [1]}, b"[1]")],
)
async def test_the_value_is_the_body(given: dict[str, Any], sent: bytes) -> None:
    api = FakeApi(answer({"namespace": "a.b", "version": "1-a"}))
    async with api.client() as client:
        assert await client.publish("a.b", **given) == "1-a"
    assert api.asked == ["POST /publish/a.b"]
    assert api.requests[0].content == sent
    assert api.requests[0].headers["content-type"] == "application/json"


async def test_a_name_stays_one_segment_of_the_path() -> None:
    api = FakeApi(problem(422, "invalid-request"))
    async with api.client() as client:
        for call in (client.publish("a/../b?c", 1), client.watch("a/../b?c"), client.unpublish("a/../b?c")):
            with pytest.raises(InvalidRequestError):
                await call
    assert {request.url.raw_path.partition(b"?")[0].rpartition(b"/")[2] for request in api.requests} == {
        b"a%2F..%2Fb%3Fc"
    }


async def test_deleting() -> None:
    api = FakeApi(lambda _: httpx.Response(204))
    async with api.client() as client:
        await client.unpublish("n")
    assert api.asked == ["DELETE /publish/n"]


async def test_what_never_arrived_is_sent_again() -> None:
    api = FakeApi(broken(httpx.ConnectError), broken(httpx.ConnectTimeout), answer({"namespace": "n", "version": "1"}))
    async with api.client() as client:
        assert await client.publish("n", 1) == "1"


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (broken(httpx.ReadError), ApiError),
        (broken(httpx.ReadTimeout), ApiError),
        (answer({}, 502), ApiError),
        (problem(503, "store-unavailable"), StoreUnavailableError),
        (problem(429, "queue-full"), QueueFullError),
    ],
)
async def test_what_may_have_arrived_is_not(step: Step, error: type[Exception]) -> None:
    api = FakeApi(step)
    async with api.client() as client:
        for call in (client.publish, _unpublish(client)):
            with pytest.raises(error) as failed:
                await call("n")
            assert getattr(failed.value, "may_have_run", True)
    assert len(api.requests) == 2


def _unpublish(client: BrokerClient) -> Any:
    return client.unpublish
