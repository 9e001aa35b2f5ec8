"""Watching and publishing over HTTP, on two instances of which neither knows what the other holds."""

from __future__ import annotations

import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.integration.api.conftest import Deployment
from tests.support.api import ApiProcess
from tests.support.caller import Caller, code_of, value_bytes
from tests.support.metrics import Numbers
from tests.support.processes import wait_until


@pytest.fixture
def namespace(uuid: str) -> str:
    """A namespace of the test's own, with all that makes names hard."""
    return f"N.{uuid}-request-_"


def publish(caller: Caller, namespace: str, value: str) -> str:
    answer = caller.call("POST", f"/publish/{namespace}", content=value, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["namespace"] == namespace
    return str(answer.json()["version"])


def watch_later(caller: Caller, target: str, **options: object) -> Future[httpx.Response]:
    """A watch that is held by the time this returns."""
    before = held(caller)
    watching = caller.later("GET", target, **options)
    wait_until(lambda: held(caller) > before or watching.done(), "the watch is held")
    return watching


def held(caller: Caller) -> float:
    page = caller.call("GET", "/metrics")
    return Numbers(page.text, page.headers["content-type"])("broker_held_watches")


def test_a_publish_on_one_instance_answers_watches_on_both(a: Caller, b: Caller, namespace: str) -> None:
    watches = [watch_later(caller, f"/watch/{namespace}?version=0&wait=10") for caller in (a, b, b)]

    version = publish(a, namespace, ' {"n": 1.0, "big": 9007199254740993}\n')

    for watching in watches:
        told = watching.result()
        assert told.status_code == 200
        assert told.headers["etag"] == f'"{version}"'
        assert value_bytes(told, "value") == b'{"n": 1.0, "big": 9007199254740993}'
        assert told.json().keys() == {"namespace", "version", "value", "changed_at"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.json()["changed_at"])


def test_who_echoes_the_version_misses_nothing_between_two_calls(a: Caller, b: Caller, namespace: str) -> None:
    first = publish(a, namespace, "1")
    publish(a, namespace, "2")

    told = b.call("GET", f"/watch/{namespace}?version={first}&wait=10")

    assert told.json()["value"] == 2


def test_who_does_not_gets_the_next_publish(a: Caller, b: Caller, namespace: str) -> None:
    publish(a, namespace, "1")
    watching = watch_later(b, f"/watch/{namespace}?wait=10")

    publish(a, namespace, "2")

    assert watching.result().json()["value"] == 2


def test_nothing_new_is_a_304_with_the_version(a: Caller, b: Caller, namespace: str) -> None:
    version = publish(a, namespace, "null")

    for target, headers in (
        (f"?version={version}&wait=0.05", {}),
        ("?wait=0.05", {}),
        ("?wait=0", {"if-none-match": f'"{version}"'}),
        ("", {"if-none-match": f'"x", W/"{version}"', "prefer": "wait=0.05"}),
    ):
        told = b.call("GET", f"/watch/{namespace}{target}", headers=headers)
        assert (told.status_code, told.content, told.headers["etag"]) == (304, b"", f'"{version}"')
        assert told.headers.get("preference-applied") == ("wait=0.05" if "prefer" in headers else None)

    told = b.call("GET", f"/watch/{namespace}?wait=5", headers={"if-none-match": '"another"'})
    assert (told.status_code, told.json()["value"]) == (200, None)
    assert b.call("HEAD", f"/watch/{namespace}?version=0&wait=5").headers["etag"] == f'"{version}"'


def test_the_version_in_the_query_beats_the_header(a: Caller, namespace: str) -> None:
    version = publish(a, namespace, "1")

    assert a.call("GET", f"/watch/{namespace}?version=0", headers={"if-none-match": f'"{version}"'}).status_code == 200


def test_several_namespaces_in_one_call(a: Caller, b: Caller, namespace: str) -> None:
    known = publish(a, namespace, "1")
    target = f"/watch?namespace={namespace}:{known}&namespace={namespace}2:0&namespace={namespace}3&wait="
    watching = watch_later(b, target + "10")

    publish(a, f"{namespace}2", "[2]")

    assert [(told["namespace"], told["value"]) for told in watching.result().json()] == [(f"{namespace}2", [2])]
    assert b.call("GET", f"/watch?namespace={namespace}:{known}&wait=0.05").status_code == 304
    told = b.call("GET", f"/watch?namespace={namespace}2:0&namespace={namespace}:x")
    assert [item["namespace"] for item in told.json()] == [f"{namespace}2", namespace]


def test_a_deleted_namespace_is_told_and_is_then_nothing(a: Caller, b: Caller, namespace: str) -> None:
    version = publish(a, namespace, "1")
    watching = watch_later(b, f"/watch/{namespace}?version={version}&wait=10")

    for _ in range(2):
        deleted = a.call("DELETE", f"/publish/{namespace}")
        assert (deleted.status_code, deleted.content) == (204, b"")

    assert watching.result().json() == {"namespace": namespace, "version": "0"}
    assert b.call("GET", f"/watch/{namespace}?version=0&wait=0").status_code == 304


def test_publishing_by_get(a: Caller, b: Caller, tight: Caller, namespace: str) -> None:
    assert a.call("GET", f"/publish/{namespace}?value=%7B%22a%22:1.0%7D").status_code == 200
    assert value_bytes(b.call("GET", f"/watch/{namespace}?version=0"), "value") == b'{"a":1.0}'

    refused = a.call("HEAD", f"/publish/{namespace}?value=1")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST, GET, DELETE")
    for headers in ({"sec-purpose": "prefetch"}, {"sec-fetch-site": "cross-site"}):
        assert code_of(a.call("GET", f"/publish/{namespace}?value=1", headers=headers)) == (403, "forbidden")
    refused = tight.call("GET", f"/publish/{namespace}?value=1")
    assert (code_of(refused), refused.headers["allow"]) == ((405, "method-not-allowed"), "POST, DELETE")


@pytest.mark.parametrize(
    ("method", "target", "body", "code"),
    [
        ("GET", "/watch/-a", b"", "invalid-request"),
        ("GET", "/watch/", b"", "invalid-request"),
        ("GET", "/watch/a%0a", b"", "invalid-request"),
        ("GET", "/watch/%E4%B8%AD?version=0", b"", "invalid-request"),
        ("GET", "/watch/" + "a" * 129, b"", "invalid-request"),
        ("GET", "/watch/a/b", b"", "not-found"),
        ("GET", "/watch/a?version=", b"", "invalid-request"),
        ("GET", "/watch/a?version=a%0d%0ab", b"", "invalid-request"),
        ("GET", "/watch/a?version=0&version=1", b"", "invalid-request"),
        ("GET", "/watch/a?wait=-1", b"", "invalid-request"),
        ("GET", "/watch/a?namespace=b", b"", "invalid-request"),
        ("GET", "/watch", b"", "invalid-request"),
        ("GET", "/watch?namespace=a:", b"", "invalid-request"),
        ("GET", "/watch?namespace=a:1&namespace=a:2", b"", "invalid-request"),
        ("GET", "/watch?" + "&".join(f"namespace=a{number}:0" for number in range(101)), b"", "invalid-request"),
        ("GET", "/publish/a", b"", "invalid-request"),
        ("GET", "/publish/a?value=%7B", b"", "malformed-json"),
        ("POST", "/publish/a", b"", "malformed-json"),
        ("POST", "/publish/a", b'{"a":', "malformed-json"),
        ("POST", "/publish/a", b"[18446744073709551616]", "invalid-request"),
        ("POST", "/publish/a", b"NaN", "invalid-request"),
        ("POST", "/publish/a", b"[" * 129 + b"]" * 129, "invalid-request"),
        ("POST", "/publish/a?value=1", b"1", "invalid-request"),
        ("POST", "/publish/a%20b", b"1", "invalid-request"),
        ("DELETE", "/publish/a?x=1", b"", "invalid-request"),
        ("PUT", "/publish/a", b"1", "method-not-allowed"),
        ("POST", "/watch/a", b"", "method-not-allowed"),
    ],
)
def test_what_cannot_be_is_refused(a: Caller, method: str, target: str, body: bytes, code: str) -> None:
    assert code_of(a.call(method, target, content=body))[1] == code


def test_a_value_that_is_too_long_or_no_json_is_refused(tight: Caller, a: Caller, namespace: str) -> None:
    assert code_of(tight.call("POST", f"/publish/{namespace}", content=json.dumps("x" * 2048)))[0] == 413
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert code_of(a.call("POST", f"/publish/{namespace}", content="a=1", headers=form))[0] == 415


def test_a_caller_that_hangs_up_leaves_nothing(a: Caller, namespace: str) -> None:
    before = held(a)
    with a.connection(f"GET /watch/{namespace}?wait=60 HTTP/1.1\r\nHost: test\r\n\r\n".encode()):
        wait_until(lambda: held(a) == before + 1, "the watch is held")
    wait_until(lambda: held(a) == before, "the watch is gone")


def test_an_instance_has_bounds_and_an_end(
    deployment: Deployment, http: httpx.Client, threads: ThreadPoolExecutor, a: Caller, namespace: str, own_log: Path
) -> None:
    bounds = {"namespaces_max": "1", "max_waiters": "1"}
    publish(a, namespace, "1")
    with ApiProcess(deployment.server.url, log=own_log, **bounds) as instance:
        bounded = Caller(instance.url, http, threads)
        assert code_of(bounded.call("POST", f"/publish/{namespace}2", content="1")) == (429, "queue-full")
        publish(bounded, namespace, "2")

        watching = watch_later(bounded, f"/watch/{namespace}?wait=10")
        assert code_of(bounded.call("GET", f"/watch/{namespace}?wait=10")) == (503, "too-many-waiters")
        assert bounded.call("GET", f"/watch/{namespace}?version=0&wait=0").status_code == 200
        version = publish(bounded, namespace, "3")
        assert watching.result().json()["value"] == 3

        watching = watch_later(bounded, f"/watch/{namespace}?version={version}&wait=60")
        instance.terminate()
        told = watching.result()
        assert (told.status_code, told.headers["etag"]) == (304, f'"{version}"')
        assert instance.process.wait(10) == 0

    assert a.call("GET", f"/watch/{namespace}?version=0").json()["version"] == version
