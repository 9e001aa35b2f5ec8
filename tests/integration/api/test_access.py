"""An instance with keys: every operation asks for its scope before it reads anything else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx
import pytest

from broker import ApiError
from broker.client import BrokerClient
from broker_services.api.operations import OPERATIONS, Operation
from broker_services.api_keys import SCOPES, parse_keys
from broker_services.cli.exits import Exit
from tests.integration.api.conftest import Deployment, Keys
from tests.support.api import ApiProcess
from tests.support.caller import Caller, code_of
from tests.support.processes import wait_until

NEEDS_A_KEY: Final = [operation for operation in OPERATIONS if operation.scope is not None]
OPEN: Final = [operation for operation in OPERATIONS if operation.scope is None]
FORMS: Final = [
    (operation, method) for operation in NEEDS_A_KEY for method in operation.methods if method in ("GET", "POST")
]


def name_of(operation: object) -> str:
    return operation.name if isinstance(operation, Operation) else str(operation)


def call(keyed: Caller, operation: Operation, method: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """With a field that no operation knows: whoever gets past the access check is told so by a 422, or served."""
    options = {"content": b'{"x":1}'} if method == "POST" else {"params": {"x": "1"}}
    return keyed.call(method, operation.path, headers=headers, **options)


@pytest.mark.parametrize(("operation", "method"), FORMS, ids=name_of)
def test_without_a_key_nothing_is_done(keyed: Caller, operation: Operation, method: str) -> None:
    answer = call(keyed, operation, method)

    assert code_of(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("authorization", ["Bearer bk_nobody", "Basic YTpi", "", "Bearer"])
@pytest.mark.parametrize(("operation", "method"), FORMS, ids=name_of)
def test_what_is_no_key_is_as_good_as_none(
    keyed: Caller, operation: Operation, method: str, authorization: str
) -> None:
    assert code_of(call(keyed, operation, method, {"authorization": authorization})) == (401, "unauthorized")


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("operation", "method"), FORMS, ids=name_of)
def test_a_key_does_what_its_scope_says_and_nothing_else(
    keyed: Caller, keys: Keys, operation: Operation, method: str, scope: str
) -> None:
    answer = call(keyed, operation, method, keys.header(scope))

    if scope == operation.scope:
        assert answer.status_code in (200, 415, 422)
    else:
        assert code_of(answer) == (403, "forbidden")
        assert operation.scope is not None
        assert operation.scope in answer.json()["detail"]


@pytest.mark.parametrize("path", [*[operation.path for operation in OPEN], "/docs", "/openapi.json"])
def test_health_and_documents_are_open(keyed: Caller, path: str) -> None:
    assert keyed.call("GET", path).status_code == 200


def test_the_body_of_a_caller_without_a_key_is_not_waited_for(keyed: Caller) -> None:
    """Or strangers could fill the memory."""
    lines = (b"Content-Type: application/json", b"Content-Length: 1000000000", b"Expect: 100-continue")

    assert code_of(keyed.exchange("POST", "/createTask", *lines)) == (401, "unauthorized")


def test_a_key_in_the_query_is_no_key(keyed: Caller, keys: Keys) -> None:
    for name in ("api_key", "access_token"):
        answer = keyed.call("GET", f"/queryTaskState?uuid=a&{name}={keys.by_name['all']}")
        assert code_of(answer) == (401, "unauthorized")


def test_a_held_call_and_its_completion_each_with_a_key_of_its_own(
    keyed: Caller, keys: Keys, uuid: str, queue: str
) -> None:
    held = keyed.create_later(uuid=uuid, queue=queue, headers=keys.header("create"))
    wait_until(lambda: keyed.query(uuid, headers=keys.header("read")).status_code == 200, "it is created")

    change = keyed.change(uuid, by="GET", result="1", headers=keys.header("complete"))

    assert change.json()["changed"] is True
    assert held.result().json()["result"] == 1


def test_a_key_counts_soon_after_it_was_added_and_not_long_after_it_was_taken_out(
    keyed: Caller, keys: Keys, uuid: str
) -> None:
    before = keys.file.read_text()
    header = {"authorization": f"Bearer {keys.add('new', 'read')}"}
    try:
        wait_until(lambda: keyed.query(uuid, headers=header).status_code == 404, "the key is known")
    finally:
        keys.file.write_text(before)
    wait_until(lambda: keyed.query(uuid, headers=header).status_code == 401, "the key is not known any more")
    assert keyed.query(uuid, headers=keys.header("read")).status_code == 404


@pytest.mark.parametrize("has_keys", [True, False])
def test_the_document_says_what_each_operation_needs(keyed: Caller, a: Caller, has_keys: bool) -> None:
    document = (keyed if has_keys else a).call("GET", "/openapi.json").json()

    (name, scheme), *others = document["components"]["securitySchemes"].items()
    assert others == []
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for operation in OPERATIONS:
        for method in operation.methods:
            described = document["paths"][operation.path][method.lower()]
            needed = None if operation.scope is None else [{name: [operation.scope]}, *([] if has_keys else [{}])]
            assert described.get("security") == needed
            assert ("401" in described["responses"]) == (operation.scope is not None)


# At the start


def test_an_instance_does_not_start_with_a_broken_file(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# mine\nbk_secret\n")
    command = [sys.executable, "-m", "broker_services.cli.main", "api", "--api-keys-file", str(file)]

    done = subprocess.run([*command, "--redis-url", deployment.server.url], capture_output=True, text=True, timeout=20)

    assert done.returncode == Exit.USAGE
    assert f"{file}, line 2" in done.stderr
    assert "bk_secret" not in done.stderr + done.stdout


def test_no_key_is_in_any_log(keyed: Caller, keyed_instance: ApiProcess, keys: Keys) -> None:
    keyed.query("a", headers=keys.header("all"))
    stranger = "bk_" + "x" * 43
    keyed.query("a", headers={"authorization": f"Bearer {stranger}"})

    log = keyed_instance.log_tail()
    assert "API keys: " in log
    assert not [key for key in (*keys.by_name.values(), stranger) if key in log]
    assert not [known for known in parse_keys(keys.file.read_bytes(), keys.file) if known in log]


# Our own clients


async def test_the_client_sends_its_key(keyed: Caller, keys: Keys, uuid: str, queue: str) -> None:
    async with BrokerClient(keyed.url, api_key=keys.by_name["all"]) as client:
        await client.create(queue, uuid=uuid, wait=0)
        assert (await client.change(uuid, result=1)).changed
    async with BrokerClient(keyed.url) as stranger:
        with pytest.raises(ApiError) as refused:
            await stranger.query(uuid)
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")
    async with BrokerClient(keyed.url, api_key=keys.by_name["work"]) as other:
        with pytest.raises(ApiError) as forbidden:
            await other.query(uuid)
    assert (forbidden.value.status, forbidden.value.code) == (403, "forbidden")


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_the_command_sends_its_key(keyed: Caller, keys: Keys, uuid: str, queue: str, by: str) -> None:
    key = keys.by_name["all"]
    words = ["task", "create", "--queue", queue, "--uuid", uuid, "--no-wait", "--json", "--url", keyed.url]
    command = [sys.executable, "-m", "broker_services.cli.main", *words]
    sent = subprocess.run(
        [*command, *(["--api-key", key] if by == "flag" else [])],
        env=_environment({"BROKER_API_KEY": key} if by == "variable" else {}),
        capture_output=True,
        text=True,
        timeout=20,
    )
    refused = subprocess.run(command, env=_environment({}), capture_output=True, text=True, timeout=20)

    assert json.loads(sent.stdout)["uuid"] == uuid
    assert (refused.returncode, refused.stdout) == (Exit.USAGE, "")
    assert "key" in refused.stderr


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    own = {name: text for name, text in os.environ.items() if not name.startswith("BROKER_")}
    return {**own, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **more}
