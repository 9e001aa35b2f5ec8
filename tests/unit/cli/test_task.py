"""`broker task …`: what is asked, what is printed where, and the exit codes that scripts branch on."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from broker_services.cli import show
from broker_services.cli.exits import Exit
from tests.unit.cli.conftest import Answering, Invoke
from tests.unit.client.fake_api import accepted, answer, problem, raw_answer, refused, task


def test_creating_prints_the_document_and_waits_for_the_end(broker: Invoke, answering: Answering) -> None:
    api = answering(accepted(), answer(task("succeeded", result={"commit": "9f1c"})))
    result = broker("task", "create", "--payload", '{"branch": "x"}', "--uuid", "084Tkjfh", "--wait", "30")
    assert result.exit_code == Exit.OK
    assert json.loads(result.stdout)["result"] == {"commit": "9f1c"}
    assert result.stdout.count("\n") == 1
    assert api.body() == {"uuid": "084Tkjfh", "queue": "createbranch", "payload": {"branch": "x"}, "wait": 30}


def test_every_option_reaches_the_api(broker: Invoke, answering: Answering) -> None:
    api = answering(answer(task("succeeded")))
    options = "--queue q --priority 9 --delay 1 --expires-in 2.5 --retention 3 --max-attempts 4 --idempotency-key k"
    assert broker("task", "create", "--uuid", "1", "--exclusive", *options.split()).exit_code == Exit.OK
    expected = {
        "queue": "q",
        "priority": 9,
        "delay": 1,
        "expires_in": 2.5,
        "retention": 3,
        "max_attempts": 4,
        "exclusive": True,
    }
    assert {name: value for name, value in api.body().items() if name in expected} == expected
    assert api.requests[0].headers["Idempotency-Key"] == "k"


@pytest.mark.parametrize("flags", [["--no-wait"], ["--wait", "0"]])
def test_without_waiting_an_accepted_task_is_a_success(broker: Invoke, answering: Answering, flags: list[str]) -> None:
    api = answering(accepted())
    assert broker("task", "create", *flags).exit_code == Exit.OK
    assert api.body()["wait"] == 0


def test_a_wait_that_is_over_prints_the_task_as_it_stands(broker: Invoke, answering: Answering) -> None:
    answering(accepted())
    result = broker("task", "create", "--wait", "2")
    assert result.exit_code == Exit.STILL_RUNNING
    assert json.loads(result.stdout)["state"] == "pending"


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired"])
def test_a_task_that_did_not_succeed_is_a_failure_for_who_waits(
    broker: Invoke, answering: Answering, state: str
) -> None:
    answering(answer(task(state)))
    assert broker("task", "create").exit_code == Exit.FAILED
    assert broker("task", "query", "1", "--wait", "1").exit_code == Exit.FAILED
    assert broker("task", "query", "1").exit_code == Exit.OK


def test_values_are_printed_byte_for_byte_on_one_line(broker: Invoke, answering: Answering) -> None:
    document = b'{"uuid":"1","queue":"q","state":"succeeded","result":[1.0,\r\n9007199254740993,"a\\nb"]}'
    answering(raw_answer(document))
    result = broker("task", "query", "1")
    assert result.stdout_bytes == document.replace(b"\r\n", b"  ") + b"\n"


@pytest.mark.parametrize("text", ["1.0", "123456789012345678901234567890", '{"b":1,"a":2}'])
def test_a_payload_is_sent_as_it_was_typed(broker: Invoke, answering: Answering, text: str) -> None:
    api = answering(answer(task("succeeded")))
    broker("task", "create", "--payload", text)
    assert f'"payload":{text},'.encode() in api.requests[0].content


def test_a_payload_from_a_file_or_from_the_standard_input(broker: Invoke, answering: Answering, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"branch": "文"}\n', encoding="utf-8")
    api = answering(answer(task("succeeded")))
    assert broker("task", "create", "--payload", f"@{file}").exit_code == Exit.OK
    assert broker("task", "create", "--payload", "@-", stdin='{"branch": "文"}\n').exit_code == Exit.OK
    assert api.body(0)["payload"] == api.body(1)["payload"] == {"branch": "文"}


def test_a_missing_payload_file_is_a_usage_error(broker: Invoke) -> None:
    result = broker("task", "create", "--payload", "@nowhere.json")
    assert result.exit_code == Exit.USAGE
    assert "nowhere.json cannot be read" in result.stderr


def test_a_payload_that_is_not_json_is_a_usage_error(broker: Invoke, answering: Answering) -> None:
    api = answering(answer(task("succeeded")))
    result = broker("task", "create", "--payload", "{branch: x}")
    assert result.exit_code == Exit.USAGE
    assert result.stderr.startswith("error: `payload` is not valid JSON")
    assert not api.requests


def test_changing_sends_the_outcome(broker: Invoke, answering: Answering) -> None:
    api = answering(answer({**task("failed"), "changed": True}))
    flags = ["--error-code", "broken", "--error-message", "It broke.", "--result", "[]", "--lease", "7.x"]
    result = broker("task", "change", "084Tkjfh", "failed", *flags)
    assert result.exit_code == Exit.OK
    assert json.loads(result.stdout)["changed"] is True
    assert api.body() == {
        "uuid": "084Tkjfh",
        "state": "failed",
        "result": [],
        "error": {"code": "broken", "message": "It broke."},
        "lease": "7.x",
    }


def test_an_error_is_given_as_a_whole_or_in_parts(broker: Invoke, answering: Answering) -> None:
    api = answering(answer({**task("failed"), "changed": True}))
    assert broker("task", "change", "1", "failed", "--error", '{"details": 1.0}').exit_code == Exit.OK
    assert b'"error":{"details": 1.0}' in api.requests[0].content
    assert broker("task", "change", "1", "failed", "--error", "{}", "--error-code", "x").exit_code == Exit.USAGE


def test_cancelling(broker: Invoke, answering: Answering) -> None:
    api = answering(answer({**task("cancelled"), "changed": True}))
    assert broker("task", "cancel", "084Tkjfh").exit_code == Exit.OK
    assert api.asked == ["POST /cancelTask"]


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (404, "task-not-found", Exit.CONFLICT),
        (404, "not-found", Exit.CONFLICT),
        (409, "task-already-final", Exit.CONFLICT),
        (409, "task-conflict", Exit.CONFLICT),
        (409, "waiter-exists", Exit.CONFLICT),
        (422, "idempotency-mismatch", Exit.CONFLICT),
        (422, "invalid-request", Exit.USAGE),
        (401, "unauthorized", Exit.USAGE),
        (413, "payload-too-large", Exit.USAGE),
        (429, "queue-full", Exit.UNREACHABLE),
        (503, "store-unavailable", Exit.UNREACHABLE),
        (503, "draining", Exit.UNREACHABLE),
        (503, "too-many-waiters", Exit.UNREACHABLE),
    ],
)
def test_a_problem_is_one_line_and_an_exit_code(
    broker: Invoke, answering: Answering, status: int, code: str, exit_code: Exit
) -> None:
    answering(problem(status, code, detail="A sentence."))
    result = broker("task", "cancel", "084Tkjfh")
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", "error: A sentence.\n")


def test_a_broker_that_cannot_be_reached(broker: Invoke, answering: Answering) -> None:
    answering(refused)
    result = broker("task", "query", "1")
    assert result.exit_code == Exit.UNREACHABLE
    assert result.stderr.startswith("error: No broker answers at http://127.0.0.1:8080")


def test_a_url_that_is_none_is_a_usage_error(broker: Invoke) -> None:
    result = broker("task", "query", "1", "--url", "broker")
    assert result.exit_code == Exit.USAGE
    assert "is no URL" in result.stderr


def test_url_key_language_and_flags_come_from_the_environment(broker: Invoke, answering: Answering) -> None:
    api = answering(answer(task("succeeded")))
    environment = {"BROKER_URL": "http://elsewhere.test/x", "BROKER_API_KEY": "secret", "BROKER_LANGUAGE": "zh"}
    assert broker("task", "create", **environment, BROKER_TASK_CREATE_UUID="084Tkjfh").exit_code == Exit.OK
    request = api.requests[0]
    assert str(request.url) == "http://elsewhere.test/x/createTask"
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["Accept-Language"] == "zh"
    assert api.body()["uuid"] == "084Tkjfh"


def test_a_defect_is_not_hidden(broker: Invoke, answering: Answering) -> None:
    def defect(request: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    answering(defect)
    assert isinstance(broker("task", "query", "1").exception, ZeroDivisionError)


def test_people_get_lines_and_colours(broker: Invoke, answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "for_people", lambda as_json: not as_json)
    document = task("succeeded", message="已完成", result={"n": 1.0}, links={"query": "/x"})
    answering(answer(document))
    lines = broker("task", "query", "1").stdout.splitlines()
    assert lines[0] == "084Tkjfh  succeeded  已完成"
    assert '  result   {"n":1.0}' in lines
    assert not any("links" in line for line in lines)
    assert json.loads(broker("task", "query", "1", "--json").stdout) == document


def test_no_value_steers_the_terminal(broker: Invoke, answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "for_people", lambda as_json: True)
    error = {"code": "x", "message": "\x9b31m\x7f"}
    answering(raw_answer(json.dumps(task("failed", message="a\x1b[2Jb\nc", error=error), ensure_ascii=False).encode()))
    printed = broker("task", "query", "1").stdout
    assert "a�[2Jb c" in printed
    assert not {"\x1b", "\x9b", "\x7f"} & set(printed)


def test_retrying_prints_the_new_task(broker: Invoke, answering: Answering) -> None:
    api = answering(answer(task("pending", uuid="new", retry_of="084Tkjfh")))
    result = broker("task", "retry", "084Tkjfh")
    assert result.exit_code == Exit.OK
    assert json.loads(result.stdout)["retry_of"] == "084Tkjfh"
    assert api.asked == ["POST /retryTask"]


def page(*uuids: str, cursor: str | None = None) -> dict[str, object]:
    found: dict[str, object] = {"items": [task("failed", uuid=uuid) for uuid in uuids]}
    return found if cursor is None else {**found, "cursor": cursor}


def test_a_list_has_a_document_a_line(broker: Invoke, answering: Answering) -> None:
    api = answering(answer(page("b", "a")))
    result = broker("task", "list", "--queue", "q", "--state", "failed")
    assert result.exit_code == Exit.OK
    assert [json.loads(line)["uuid"] for line in result.stdout.splitlines()] == ["b", "a"]
    assert api.asked == ["GET /tasks?queue=q&state=failed&limit=50"]


def test_a_list_goes_on_until_it_has_as_many_as_were_asked_for(broker: Invoke, answering: Answering) -> None:
    api = answering(answer(page("d", "c", cursor="3")), answer(page(cursor="2")), answer(page("b", cursor="1")))
    result = broker("task", "list", "--limit", "3")
    assert result.stdout.count("\n") == 3
    assert api.asked == ["GET /tasks?limit=3", "GET /tasks?cursor=3&limit=1", "GET /tasks?cursor=2&limit=1"]


def test_all_are_listed(broker: Invoke, answering: Answering) -> None:
    api = answering(answer(page("c", cursor="3")), answer(page("b", cursor="2")), answer(page("a")))
    result = broker("task", "list", "--all")
    assert result.stdout.count("\n") == 3
    assert api.asked[0] == "GET /tasks?limit=500"
    assert len(api.asked) == 3


def test_people_get_a_line_a_task(broker: Invoke, answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "for_people", lambda as_json: True)
    found = task("failed", created_at="2026-11-20T16:20:00.123Z", error={"code": "x"})
    answering(answer({"items": [found, task("succeeded", uuid="2")]}))
    lines = broker("task", "list").stdout.splitlines()
    assert lines[0] == '2026-11-20T16:20:00.123Z  failed     createbranch  084Tkjfh  {"code":"x"}'
    assert len(lines) == 2


@pytest.mark.parametrize("flags", [["--limit", "0"], ["--state", "done"]])
def test_a_list_that_cannot_be_is_a_usage_error(broker: Invoke, answering: Answering, flags: list[str]) -> None:
    api = answering(answer(page()))
    assert broker("task", "list", *flags).exit_code == Exit.USAGE
    assert not api.requests


def test_following_prints_each_event_and_tells_how_it_ended(broker: Invoke, answering: Answering) -> None:
    lines = [
        {"id": "t-1", "event": "progress", "data": {"percent": 50}},
        {"id": "t-2", "event": "state", "data": task("failed")},
    ]
    api = answering(raw_answer("".join(f"\n{json.dumps(line)}\n" for line in lines).encode()))
    result = broker("task", "events", "084Tkjfh", "--after", "t-0")
    assert [json.loads(line) for line in result.stdout.splitlines()] == lines
    assert result.exit_code == Exit.FAILED
    assert api.requests[0].headers["last-event-id"] == "t-0"


def test_following_a_task_on_a_terminal(broker: Invoke, answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "for_people", lambda _: True)
    told = {"id": "t-1", "event": "progress", "data": "half\u001b[1m"}
    answering(
        raw_answer(
            f"{json.dumps(told)}\n".encode()
            + json.dumps({**told, "event": "state", "data": task("succeeded")}).encode()
            + b"\n"
        )
    )
    result = broker("task", "events", "084Tkjfh")
    assert result.exit_code == Exit.OK
    assert "progress" in result.stdout
    assert "succeeded" in result.stdout
    assert "\x1b[1m" not in result.stdout.replace("084Tkjfh", "")
