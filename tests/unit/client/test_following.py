"""How a client follows a task to its end: 202, Retry-After, long polls, and what it does when nothing answers."""

from __future__ import annotations

import pytest

from broker.errors import ApiError, StoreUnavailableError, TaskNotFoundError
from broker.task import TaskState
from tests.unit.client.fake_api import FakeApi, accepted, answer, broken, problem, refused, task

SUCCEEDED = answer(task("succeeded", result={"commit": "9f1c"}))


async def test_a_task_that_ends_during_the_first_hold_needs_one_call() -> None:
    api = FakeApi(SUCCEEDED)
    done = await api.client().create(payload={"branch": "x"}, uuid="084Tkjfh")
    assert (done.state, done.result) == (TaskState.SUCCEEDED, {"commit": "9f1c"})
    assert api.asked == ["POST /createTask"]
    assert api.body() == {"uuid": "084Tkjfh", "queue": "createbranch", "payload": {"branch": "x"}, "wait": 50}


async def test_a_202_is_followed_by_long_polls_until_the_end() -> None:
    api = FakeApi(accepted(), answer(task("running")), SUCCEEDED)
    done = await api.client(hold_s=20).create(uuid="084Tkjfh")
    assert done.state is TaskState.SUCCEEDED
    assert api.asked[1:] == ["GET /queryTaskState?uuid=084Tkjfh&wait=20"] * 2


async def test_retry_after_is_honoured_before_the_task_is_asked_for() -> None:
    api = FakeApi(accepted(retry_after="3"), SUCCEEDED)
    await api.client().create(uuid="084Tkjfh")
    assert api.time.pauses == [3.0]


async def test_wait_zero_returns_the_pending_task_at_once() -> None:
    api = FakeApi(accepted())
    created = await api.client().create(uuid="084Tkjfh", wait=0)
    assert created.state is TaskState.PENDING
    assert api.body()["wait"] == 0
    assert len(api.requests) == 1


async def test_a_wait_that_is_over_returns_the_task_as_it_stands() -> None:
    api = FakeApi()
    api.steps = [api.holding(accepted(), 5.0)]
    created = await api.client().create(uuid="084Tkjfh", wait=5)
    assert created.state is TaskState.PENDING
    assert len(api.requests) == 1


async def test_a_wait_longer_than_one_hold_takes_several() -> None:
    api = FakeApi()
    api.steps = [api.holding(accepted(), 10.0), api.holding(answer(task("running")), 10.0)]
    seen = await api.client(hold_s=10).create(uuid="084Tkjfh", wait=25)
    assert seen.state is TaskState.RUNNING
    assert [request.url.params.get("wait") for request in api.requests[1:]] == ["10", "5"]


async def test_a_timeout_leaves_the_task_running() -> None:
    api = FakeApi()
    api.steps = [api.holding(accepted("running"), 5.0)]
    with pytest.raises(TimeoutError, match="084Tkjfh was still running after 5 s"):
        await api.client().create(uuid="084Tkjfh", timeout=5)
    assert api.asked == ["POST /createTask"]


async def test_an_end_on_the_last_moment_is_no_timeout() -> None:
    api = FakeApi()
    api.steps = [api.holding(SUCCEEDED, 5.0)]
    done = await api.client().create(uuid="084Tkjfh", timeout=5)
    assert done.state is TaskState.SUCCEEDED


async def test_a_returned_task_waits_through_its_client() -> None:
    api = FakeApi(accepted(), SUCCEEDED)
    created = await api.client().create(uuid="084Tkjfh", wait=0)
    done = await created.wait(timeout=30)
    assert done.raw == api_bytes(SUCCEEDED)
    assert api.asked[1] == "GET /queryTaskState?uuid=084Tkjfh&wait=30"


async def test_a_failed_task_is_an_answer_and_no_exception() -> None:
    api = FakeApi(answer(task("failed", error={"code": "NoSuchBranch", "message": "gone"})))
    done = await api.client().create(uuid="084Tkjfh")
    assert done.error is not None
    assert done.error.code == "NoSuchBranch"


async def test_an_instance_that_answers_early_again_and_again_is_not_asked_in_a_tight_loop() -> None:
    api = FakeApi(accepted(), *[answer(task("running"))] * 5, SUCCEEDED)
    await api.client().create(uuid="084Tkjfh")
    assert api.time.pauses == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.8, 1.6])


async def test_a_lost_connection_repeats_the_creation_under_the_same_uuid() -> None:
    api = FakeApi(broken, SUCCEEDED)
    await api.client().create(payload={"branch": "x"})
    assert api.asked == ["POST /createTask"] * 2
    assert api.body(0)["uuid"] == api.body(1)["uuid"]
    assert len(api.body(0)["uuid"]) == 32  # 128 bits in hexadecimal


async def test_an_idempotency_key_alone_goes_without_a_uuid() -> None:
    api = FakeApi(SUCCEEDED)
    await api.client().create(idempotency_key="order-17")
    assert "uuid" not in api.body()
    assert api.requests[0].headers["Idempotency-Key"] == "order-17"


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_not_now_is_asked_again_while_following(status: int) -> None:
    api = FakeApi(accepted(), problem(status, "draining", retry_after="2"), SUCCEEDED)
    done = await api.client().create(uuid="084Tkjfh")
    assert done.state is TaskState.SUCCEEDED
    assert api.time.pauses == [0.0, 2.0]


async def test_pauses_grow_while_nothing_answers() -> None:
    api = FakeApi(accepted(), broken, refused, broken, SUCCEEDED)
    await api.client().create(uuid="084Tkjfh")
    assert api.time.pauses[1:] == pytest.approx([0.1, 0.2, 0.4])


async def test_a_confirmed_task_is_followed_until_the_deadline_whatever_breaks() -> None:
    api = FakeApi(accepted(), *[refused] * 30, SUCCEEDED)
    done = await api.client(patience_s=1).create(uuid="084Tkjfh", timeout=600)
    assert done.state is TaskState.SUCCEEDED


async def test_a_deadline_without_an_answer_is_a_timeout_once_the_task_is_confirmed() -> None:
    api = FakeApi(accepted(), refused)
    with pytest.raises(TimeoutError):
        await api.client().create(uuid="084Tkjfh", timeout=20)
    assert sum(api.time.pauses) == pytest.approx(20)


async def test_a_creation_that_nothing_confirms_fails_when_patience_is_over() -> None:
    api = FakeApi(refused)
    with pytest.raises(ApiError, match=r"No broker answers at http://broker.test") as caught:
        await api.client(patience_s=3).create(uuid="084Tkjfh")
    assert (caught.value.status, caught.value.code) == (None, "unreachable")
    assert sum(api.time.pauses) == pytest.approx(3)


async def test_a_creation_that_nothing_confirms_does_not_outlast_its_timeout() -> None:
    api = FakeApi(refused)
    with pytest.raises(ApiError):
        await api.client(patience_s=30).create(uuid="084Tkjfh", timeout=1)
    assert sum(api.time.pauses) == pytest.approx(1)


async def test_following_without_an_end_gives_up_when_patience_is_over() -> None:
    api = FakeApi(accepted(), refused)
    with pytest.raises(ApiError):
        await api.client(patience_s=3).create(uuid="084Tkjfh")


async def test_a_store_that_stays_away_is_told_with_what_may_have_happened() -> None:
    api = FakeApi(problem(503, "store-unavailable", detail="Redis is away.", retry_after="1"))
    with pytest.raises(StoreUnavailableError, match=r"Redis is away\.") as caught:
        await api.client(patience_s=3).create(uuid="084Tkjfh")
    assert caught.value.may_have_run


async def test_a_read_that_fails_has_changed_nothing() -> None:
    api = FakeApi(problem(503, "store-unavailable"))
    with pytest.raises(StoreUnavailableError) as caught:
        await api.client(patience_s=1).query("084Tkjfh")
    assert not caught.value.may_have_run


async def test_a_record_that_goes_while_following_is_not_found() -> None:
    api = FakeApi(accepted(), problem(404, "task-not-found"))
    with pytest.raises(TaskNotFoundError):
        await api.client().create(uuid="084Tkjfh", timeout=5)


async def test_a_location_on_another_server_is_not_followed() -> None:
    elsewhere = answer(task("pending"), 202, Location="http://elsewhere.test/queryTaskState?uuid=1")
    api = FakeApi(elsewhere, SUCCEEDED)
    await api.client(api_key="secret").create(uuid="084Tkjfh")
    assert str(api.requests[1].url) == "http://broker.test/queryTaskState?uuid=084Tkjfh&wait=50"


@pytest.mark.parametrize(
    "location",
    ["/queryTaskState?uuid=084Tkjfh", "/tasks/queryTaskState?uuid=084Tkjfh", "queryTaskState?uuid=084Tkjfh", ""],
)
async def test_a_path_in_front_of_the_api_is_kept(location: str) -> None:
    api = FakeApi(answer(task("pending"), 202, Location=location), SUCCEEDED)
    await api.client("http://broker.test/tasks/").create(uuid="084Tkjfh")
    assert [request.url.path for request in api.requests] == ["/tasks/createTask", "/tasks/queryTaskState"]


async def test_the_read_timeout_is_the_hold_and_a_margin() -> None:
    api = FakeApi(SUCCEEDED)
    await api.client(margin_s=7).create(uuid="084Tkjfh", timeout=20)
    assert api.requests[0].extensions["timeout"]["read"] == 27


def api_bytes(step: object) -> bytes:
    assert callable(step)
    content: bytes = step(None).content
    return content
