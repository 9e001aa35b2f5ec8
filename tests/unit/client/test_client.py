"""What a client sends, and what it makes of the answers."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from broker.client import BrokerClient
from broker.client.pacing import LONGEST_RETRY_AFTER_S, retry_after_s
from broker.errors import (
    ApiError,
    BrokerError,
    ConfigurationError,
    IdempotencyMismatchError,
    InvalidRequestError,
    LeaseLostError,
    MalformedJsonError,
    PayloadTooLargeError,
    QueueFullError,
    TaskAlreadyFinalError,
    TaskConflictError,
    TaskFailedError,
    TaskNotFoundError,
    WaiterExistsError,
)
from broker.task import TaskFailure, TaskState
from tests.unit.client.fake_api import FakeApi, answer, broken, problem, raw_answer, task


async def test_a_query_reads_once_and_does_not_wait() -> None:
    api = FakeApi(answer(task("running")))
    seen = await api.client().query("084Tkjfh")
    assert seen.state is TaskState.RUNNING
    assert api.asked == ["GET /queryTaskState?uuid=084Tkjfh&wait=0"]


async def test_a_query_with_wait_returns_the_task_as_soon_as_it_has_ended() -> None:
    api = FakeApi(answer(task("running")), answer(task("succeeded")))
    assert (await api.client().query("084Tkjfh", wait=30)).state is TaskState.SUCCEEDED


async def test_whatever_stands_in_a_uuid_stays_one_parameter() -> None:
    api = FakeApi(problem(422, "invalid-request"))
    with pytest.raises(InvalidRequestError):
        await api.client().query("a&wait=9#b c")
    assert dict(api.requests[0].url.params) == {"uuid": "a&wait=9#b c", "wait": "0"}


async def test_a_change_sends_what_was_given_and_tells_whether_it_changed_anything() -> None:
    api = FakeApi(answer({**task("failed"), "changed": True}))
    change = await api.client().change(
        "084Tkjfh", "failed", error=TaskFailure(code="broken", message="It broke."), lease="7.x"
    )
    assert change.changed
    assert change.task.state is TaskState.FAILED
    assert api.asked == ["POST /changeTaskState"]
    assert api.body() == {
        "uuid": "084Tkjfh",
        "state": "failed",
        "error": {"code": "broken", "message": "It broke."},
        "lease": "7.x",
    }


async def test_a_change_is_repeated_after_a_lost_answer() -> None:
    api = FakeApi(broken, answer({**task("succeeded"), "changed": False}))
    change = await api.client().change("084Tkjfh", result={"commit": "9f1c"})
    assert not change.changed
    assert api.body(0) == api.body(1) == {"uuid": "084Tkjfh", "state": "succeeded", "result": {"commit": "9f1c"}}


async def test_cancelling_is_a_call_of_its_own() -> None:
    api = FakeApi(answer({**task("cancelled"), "changed": True}))
    assert (await api.client().cancel("084Tkjfh")).task.cancelled
    assert api.asked == ["POST /cancelTask"]


@pytest.mark.parametrize("text", ["1.0", "9007199254740993", "123456789012345678901234567890", ' {"b":1,\n "a": [ ]} '])
async def test_json_text_travels_as_it_was_typed(text: str) -> None:
    api = FakeApi(answer(task("succeeded")))
    await api.client().create(uuid="1", payload_json=text)
    assert f'"payload":{text},'.encode() in api.requests[0].content


async def test_the_raw_document_holds_values_as_they_were_sent() -> None:
    document = b'{"uuid":"1","queue":"q","state":"succeeded","message":"completed","result":[1.0,9007199254740993]}'
    api = FakeApi(raw_answer(document))
    done = await api.client().query("1")
    assert done.raw == document
    assert done.message == "completed"


@pytest.mark.parametrize("text", ["", "{", "1, 2", '1, "uuid": "other"', "NaN", b"\xff", "[" * 100_000])
async def test_text_that_is_not_json_is_refused_here(text: str | bytes) -> None:
    api = FakeApi(answer(task("succeeded")))
    with pytest.raises(MalformedJsonError, match="`payload` is not valid JSON"):
        await api.client().create(payload_json=text)
    assert not api.requests


@pytest.mark.parametrize("value", [{1, 2}, object(), "\ud800", 2**70])
async def test_a_value_without_a_word_in_json_is_refused_here(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be written as JSON"):
        await FakeApi(answer(task("succeeded"))).client().create(payload=value)


async def test_a_value_is_given_only_once() -> None:
    with pytest.raises(InvalidRequestError, match="either `result` or `result_json`"):
        await FakeApi(answer({})).client().change("1", result=1, result_json="1")


async def test_every_option_of_a_task_is_sent_and_absent_ones_are_not() -> None:
    api = FakeApi(answer(task("succeeded")))
    await api.client().create(
        "q",
        uuid="1",
        wait=2.5,
        expires_in=9,
        retention=8,
        priority=7,
        delay=6,
        max_attempts=5,
        idempotency_key='"k"',
        exclusive=True,
    )
    assert api.body() == {
        "uuid": "1",
        "queue": "q",
        "wait": 2.5,
        "expires_in": 9,
        "retention": 8,
        "priority": 7,
        "delay": 6,
        "max_attempts": 5,
        "exclusive": True,
    }


async def test_key_and_language_stand_in_the_headers() -> None:
    api = FakeApi(answer(task("running")))
    await api.client(api_key="secret", language="zh").query("1")
    headers = api.requests[0].headers
    assert (headers["Authorization"], headers["Accept-Language"]) == ("Bearer secret", "zh")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "malformed-json", MalformedJsonError),
        (404, "task-not-found", TaskNotFoundError),
        (409, "lease-lost", LeaseLostError),
        (409, "task-already-final", ApiError),  # without the winner, which every instance sends
        (409, "task-conflict", TaskConflictError),
        (413, "payload-too-large", PayloadTooLargeError),
        (422, "idempotency-mismatch", IdempotencyMismatchError),
        (422, "invalid-request", InvalidRequestError),
        (401, "unauthorized", ApiError),
        (429, "queue-full", QueueFullError),
        (418, "of-tomorrow", ApiError),
    ],
)
async def test_a_problem_becomes_the_error_of_its_code(status: int, code: str, kind: type[BrokerError]) -> None:
    api = FakeApi(problem(status, code, detail="那个任务不行。"))
    with pytest.raises(kind, match="那个任务不行。") as caught:
        await api.client().change("084Tkjfh")
    assert caught.value.code == code
    assert len(api.requests) == 1


async def test_the_winner_of_a_final_task_comes_with_the_error() -> None:
    api = FakeApi(problem(409, "task-already-final", task=task("succeeded")))
    with pytest.raises(TaskAlreadyFinalError) as caught:
        await api.client().cancel("084Tkjfh")
    assert (caught.value.uuid, caught.value.state) == ("084Tkjfh", TaskState.SUCCEEDED)
    assert b'"state":"succeeded"' in caught.value.document
    assert str(caught.value) == "A sentence."


async def test_a_full_queue_tells_when_to_try_again() -> None:
    api = FakeApi(problem(429, "queue-full", retry_after="4"))
    with pytest.raises(QueueFullError) as caught:
        await api.client().create()
    assert caught.value.retry_after_s == 4.0
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
        (500, b""),
        (404, b"nginx"),
        (404, b"{}"),
        (301, b""),
        (400, b"[" * 9_000),
    ],
)
async def test_an_answer_of_something_else_says_so(status: int, body: bytes) -> None:
    with pytest.raises(ApiError, match="none of a broker's") as caught:
        await FakeApi(raw_answer(body, status)).client().query("1")
    assert caught.value.code == "unexpected-answer"


async def test_a_balancer_without_instances_says_so() -> None:
    with pytest.raises(ApiError, match="no API instance is reachable behind it") as caught:
        await FakeApi(raw_answer(b"<html>", 502)).client(patience_s=1).query("1")
    assert caught.value.status == 502


@pytest.mark.parametrize("url", ["", "broker:8080", "ftp://broker", "http://", "http://broker:port"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no URL"):
        BrokerClient(url)


@pytest.mark.parametrize("key", ["", "a\nb", "键"])
async def test_an_idempotency_key_must_fit_a_header(key: str) -> None:
    with pytest.raises(InvalidRequestError, match="printable ASCII"):
        await FakeApi(answer({})).client().create(idempotency_key=key)


def test_an_api_key_must_fit_a_header() -> None:
    with pytest.raises(ConfigurationError, match="printable ASCII"):
        BrokerClient("http://broker.test", api_key="a\nb")


async def test_a_client_reports_no_progress() -> None:
    seen = await FakeApi(answer(task("running"))).client().query("1")
    assert not seen.cancelled
    with pytest.raises(InvalidRequestError, match="reported by its handler"):
        await seen.progress(1)


async def test_a_client_closes_its_connections() -> None:
    async with FakeApi(answer(task("running"))).client() as client:
        await client.query("1")
    with pytest.raises(RuntimeError, match="closed"):
        await client.query("1")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1e", None),
        ("nan", None),
        ("0", 0.0),
        ("1.5", 1.5),
        ("9" * 400, LONGEST_RETRY_AFTER_S),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


def test_retry_after_as_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after_s(in_a_minute) == pytest.approx(60, abs=2)


async def test_a_retry_names_a_key_of_its_own_so_that_it_may_be_repeated() -> None:
    api = FakeApi(broken, answer(task("pending", uuid="new", retry_of="084Tkjfh")))
    new = await api.client().retry("084Tkjfh")
    assert (new.uuid, new.retry_of, new.state) == ("new", "084Tkjfh", TaskState.PENDING)
    assert api.asked == ["POST /retryTask"] * 2
    assert api.body() == {"uuid": "084Tkjfh"}
    first, second = (request.headers["Idempotency-Key"] for request in api.requests)
    assert first == second


async def test_a_retry_takes_a_key() -> None:
    api = FakeApi(answer(task("pending")))
    await api.client().retry("084Tkjfh", idempotency_key="k")
    assert api.requests[0].headers["Idempotency-Key"] == "k"


async def test_a_task_that_cannot_be_retried() -> None:
    api = FakeApi(problem(409, "task-conflict"))
    with pytest.raises(TaskConflictError):
        await api.client().retry("084Tkjfh")


async def test_a_list_is_read_page_by_page() -> None:
    api = FakeApi(answer({"items": [task("failed", uuid="b"), task("failed", uuid="a")], "cursor": "1f"}))
    page = await api.client().list(queue="q", state="failed", cursor="2a", limit=2)
    assert [found.uuid for found in page.items] == ["b", "a"]
    assert page.cursor == "1f"
    assert api.asked == ["GET /tasks?queue=q&state=failed&cursor=2a&limit=2"]


async def test_values_in_a_list_stay_the_bytes_they_are() -> None:
    item = b'{"uuid":"1","queue":"q","state":"succeeded","result":[1.0,9007199254740993]}'
    api = FakeApi(raw_answer(b'{"items":[' + item + b"]}"))
    page = await api.client().list()
    assert (page.items[0].raw, page.cursor) == (item, None)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"items":[1]}', b"<html>"])
async def test_a_list_that_is_none(body: bytes) -> None:
    with pytest.raises(ApiError, match="none of a broker's"):
        await FakeApi(raw_answer(body)).client().list()


async def test_running_gives_the_result_or_raises_the_failure() -> None:
    api = FakeApi(answer({**task("succeeded"), "result": [1]}))
    assert await api.client().run("q", {"a": 1}, timeout=5) == [1]
    assert api.body()["wait"] == 5
    assert "exclusive" not in api.body()

    failed = FakeApi(answer({**task("failed"), "error": {"code": "broken", "message": "It broke.", "details": 7}}))
    with pytest.raises(TaskFailedError, match="It broke") as raised:
        await failed.client().run("q")
    assert (raised.value.code, raised.value.details) == ("broken", 7)


async def test_an_exclusive_call_that_finds_a_waiter() -> None:
    api = FakeApi(problem(409, "waiter-exists"))
    with pytest.raises(WaiterExistsError) as refused:
        await api.client().create("q", uuid="084Tkjfh", exclusive=True)
    assert refused.value.uuid == "084Tkjfh"


async def test_an_upload_is_sent_as_a_form_and_again_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"pixels")
    api = FakeApi(broken, answer(task("succeeded")))
    done = await api.client().upload(path, timeout=30)
    assert done.state is TaskState.SUCCEEDED
    assert api.asked == ["POST /asyncUpload"] * 2
    sent = api.requests[1].content
    assert b'name="file"; filename="photo.png"' in sent
    assert b"\r\n\r\npixels\r\n" in sent
    assert b'name="wait"\r\n\r\n' in sent


async def test_an_open_file_is_uploaded_under_any_name() -> None:
    api = FakeApi(answer(task("succeeded")))
    await api.client().upload(io.BytesIO(b"pixels"), name="a.png", wait=0)
    assert b'filename="a.png"' in api.requests[0].content
    assert b"\r\n\r\n0\r\n" in api.requests[0].content
    await api.client().upload(io.BytesIO(b"pixels"))
    assert b'filename="file"' in api.requests[1].content
