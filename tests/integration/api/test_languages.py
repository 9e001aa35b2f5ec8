"""`message` and `detail` for people: English, or Chinese when Accept-Language prefers it."""

from __future__ import annotations

import pytest

from tests.support.caller import Caller
from tests.support.processes import wait_until

CHINESE = {"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}


@pytest.fixture
def task(a: Caller, uuid: str, queue: str) -> str:
    """The uuid of a pending task."""
    a.create(uuid=uuid, queue=queue)
    return uuid


def test_a_task_that_goes_on(a: Caller, uuid: str, queue: str) -> None:
    assert a.create(uuid=uuid, queue=queue, headers=CHINESE).json()["message"] == "进行中"
    assert a.query(uuid, headers=CHINESE).json()["message"] == "进行中"


@pytest.mark.parametrize(("state", "message"), [("succeeded", "已完成"), ("failed", "失败"), ("cancelled", "已取消")])
def test_a_task_that_has_ended(a: Caller, task: str, state: str, message: str) -> None:
    assert a.change(task, state=state, headers=CHINESE).json()["message"] == message
    assert a.query(task, headers=CHINESE).json()["message"] == message


def test_an_expired_task(a: Caller, uuid: str, queue: str) -> None:
    answer = a.create(uuid=uuid, queue=queue, expires_in=0.01, wait=10, headers=CHINESE)

    assert answer.json()["message"] == "已超时"


def test_a_repeated_completion(a: Caller, task: str) -> None:
    a.change(task)

    assert a.change(task, headers=CHINESE).json()["message"] == "已完成，无需再次设置"


def test_a_repeated_cancellation(a: Caller, task: str) -> None:
    a.cancel(task)

    assert a.cancel(task, headers=CHINESE).json()["message"] == "已完成，无需再次设置"


def test_an_unknown_task(a: Caller, uuid: str) -> None:
    for answer in (
        a.query(uuid, headers=CHINESE),
        a.change(uuid, headers=CHINESE),
        a.cancel(uuid, headers=CHINESE),
    ):
        assert answer.status_code == 404
        assert answer.json()["detail"] == "未查询到任务"


def test_the_winner_in_a_problem(a: Caller, task: str) -> None:
    a.change(task, state="cancelled")

    assert a.change(task, headers=CHINESE).json()["task"]["message"] == "已取消"


def test_every_waiter_reads_its_own_language(a: Caller, b: Caller, task: str, queue: str) -> None:
    held = [a.query_later(task, headers=CHINESE), a.query_later(task)]
    wait_until(lambda: not any(call.done() for call in held), "both are held")

    b.change(task)

    assert [call.result().json()["message"] for call in held] == ["已完成", "completed"]


@pytest.mark.parametrize(
    "accept",
    [
        "zh",
        "ZH-cn",
        "zh-Hant-TW",
        "zh;q=0.9,en;q=0.8",
        "en;q=0.5, zh",
        "fr;q=0.1,zh;q=0.2",
        "*;q=0.1,zh",
        "en;q=0,zh;q=0.1",
    ],
)
def test_chinese_is_preferred(a: Caller, task: str, accept: str) -> None:
    assert a.query(task, headers={"accept-language": accept}).json()["message"] == "进行中"


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "en",
        "*",
        "en,zh",
        "zh;q=0",
        "zh;q=0.1,en;q=0.2",
        "zh;Q=0.1,en;q=0.2",
        "zha",
        "fr",
        "zh;q=x",
        ";;,,=",
        "zh;q=0.000",
    ],
)
def test_english_is_preferred(a: Caller, task: str, accept: str) -> None:
    assert a.query(task, headers={"accept-language": accept}).json()["message"] == "in progress"


def test_a_header_of_other_letters_is_no_defect(a: Caller, task: str) -> None:
    answer = a.exchange("GET", f"/queryTaskState?uuid={task}", "Accept-Language: 中文".encode())

    assert answer.json()["message"] == "in progress"
