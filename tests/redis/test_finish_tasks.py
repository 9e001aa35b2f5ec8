"""finish_tasks.lua on a real server."""

from __future__ import annotations

import asyncio
import json

import pytest

from broker import naming
from broker.errors import LeaseLostError, StoreError, TaskAlreadyFinalError, TaskNotFoundError
from broker.requests import Completion
from broker.store.completions import Changed
from broker.task import TaskState
from tests.support.store import LONG_MS, WORKER, Store, answered, cancelled, failed, succeeded

ENDS = [succeeded(b"[1.0, {}]"), failed(b'{"code":"x","details":[]}'), cancelled(), succeeded()]


@pytest.mark.parametrize("completion", ENDS)
async def test_a_lease_holder_ends_its_task(store: Store, completion: Completion) -> None:
    claimed = await store.created_and_claimed(payload=b"[]", retention_ms=1_000)
    before = store.record()
    changed = await store.transitions.finish("t", completion, lease=claimed.lease)
    assert (changed.changed, changed.state, changed.document) == (True, completion.state, None)

    record = store.record()
    at = int(record["finished"])
    kept = int(record["kept"])
    for gone in ("lease", "worker"):
        del before[gone]
    assert record == {
        **before,
        "state": completion.state,
        "finished": str(at),
        "kept": str(kept),
    }
    assert store.indexes() == {"retained", "ended"}
    assert store.score(naming.retained_key()) == at + 1_000
    assert store.retained_bytes() == kept
    assert kept >= 1_000 + len(b"[]") + len(completion.result) + len(completion.error)


@pytest.mark.parametrize("more", ["\0", "\0junk", "\x001\0not json\0nor this\0", "\ud800", " ", "é"])
@pytest.mark.parametrize("begins_with_its_lease", [True, False])
async def test_a_lease_is_compared_whole(store: Store, begins_with_its_lease: bool, more: str) -> None:
    """Whatever it holds: other texts of the call are ended by zero bytes."""
    claimed = await store.created_and_claimed()
    lease = (claimed.lease if begins_with_its_lease else "") + more
    with pytest.raises(LeaseLostError):
        await store.transitions.finish("t", succeeded(), lease=lease)
    assert (await store.document())["state"] == "running"
    assert (await store.transitions.finish("t", succeeded(), lease=claimed.lease)).changed


@pytest.mark.parametrize("completion", ENDS)
async def test_the_outcome_is_stored_and_announced_alike(store: Store, completion: Completion) -> None:
    created = await store.create(payload=b"[]")
    with store.ear() as ear:
        changed = await store.transitions.finish("t", completion, wants_document=True)
        ((channel, text),) = ear.messages()
    stored = (await store.queries.read("t")).document
    assert changed.document == stored
    assert channel == "q-response-t"
    assert text.encode() == b'{"seal":"' + created.seal.encode() + b'",' + stored[1:]


async def test_values_come_back_as_they_went_in(store: Store) -> None:
    await store.create()
    result = '{"a":[] , "b":1.0,"c":9007199254740993,"d":"日本\\u0000"}'.encode()
    await store.transitions.finish("t", succeeded(result))
    assert b'"result":' + result + b"," in (await store.queries.read("t")).document


async def test_the_progress_is_part_of_the_outcome(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.extend("t", claimed.lease, LONG_MS, b"[50]")
    with store.ear() as ear:
        await store.transitions.finish("t", succeeded(), lease=claimed.lease)
        (message,) = answered(ear.messages())
    assert message["progress"] == [50]
    assert (await store.document())["progress"] == [50]


async def test_every_value_counts_as_kept(store: Store) -> None:
    claimed = await store.created_and_claimed(payload=b'"' + b"x" * 998 + b'"')
    await store.transitions.extend("t", claimed.lease, LONG_MS, b'"' + b"x" * 1_998 + b'"')
    await store.transitions.finish("t", succeeded(b'"' + b"x" * 2_998 + b'"'), lease=claimed.lease)
    # The progress is kept twice: as the task's last, and as an event.
    assert 9_000 <= store.retained_bytes() <= 9_100


async def test_the_error_of_an_earlier_attempt_counts_as_kept(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.retry("t", claimed.lease, failed(b'"' + b"x" * 9_998 + b'"'), 0)
    await store.transitions.finish("t", succeeded())
    still_there = sum(len(value) for value in store.values().values())
    assert store.retained_bytes() >= 1_000 + still_there


@pytest.mark.parametrize("delay_ms", [0, 60_000])
async def test_a_third_party_ends_what_nobody_claimed(store: Store, delay_ms: int) -> None:
    await store.create(delay_ms=delay_ms)
    await store.transitions.finish("t", succeeded())
    assert store.indexes() == {"retained", "ended"}
    assert "due" not in store.record()
    assert await store.claim() == []


async def test_a_third_party_ends_a_running_task_and_its_worker_is_told(store: Store) -> None:
    await store.created_and_claimed()
    with store.ear("broker:*") as ear:
        await store.transitions.finish("t", cancelled())
        assert ear.messages() == [(naming.worker_channel(WORKER), "t")]


async def test_a_worker_is_not_told_what_it_did_itself(store: Store) -> None:
    claimed = await store.created_and_claimed()
    with store.ear("broker:*") as ear:
        await store.transitions.finish("t", succeeded(), lease=claimed.lease)
        assert ear.messages() == []


async def test_a_third_party_ends_a_deferred_task(store: Store) -> None:
    claimed = await store.created_and_claimed()
    await store.transitions.defer("t", claimed.lease)
    with store.ear() as ear:
        await store.transitions.finish("t", succeeded())
        assert [channel for channel, _ in ear.messages()] == ["q-response-t"]


# The first writer wins


async def test_the_same_outcome_again_changes_nothing(store: Store) -> None:
    await store.create()
    first = await store.transitions.finish("t", succeeded(b'{"a":1,"b":[]}'), wants_document=True)
    before = store.record()
    with store.ear() as ear:
        second = await store.transitions.finish("t", succeeded(b'{ "b":[], "a":1 }'))
        assert ear.messages() == []
    assert (second.changed, second.state, second.document) == (False, TaskState.SUCCEEDED, first.document)
    assert store.record() == before


async def test_absent_and_null_results_are_the_same(store: Store) -> None:
    await store.create()
    await store.transitions.finish("t", succeeded())
    assert not (await store.transitions.finish("t", succeeded(b"null"))).changed


@pytest.mark.parametrize("other", [succeeded(b"2"), failed(), cancelled()])
async def test_another_outcome_is_refused_and_told_the_winner(store: Store, other: Completion) -> None:
    await store.create()
    winner = await store.transitions.finish("t", succeeded(b"1"), wants_document=True)
    before = store.record()
    with store.ear() as ear:
        with pytest.raises(TaskAlreadyFinalError) as refused:
            await store.transitions.finish("t", other)
        assert ear.messages() == []
    assert (refused.value.state, refused.value.document) == (TaskState.SUCCEEDED, winner.document)
    assert store.record() == before
    assert store.retained_bytes() == int(before["kept"])


async def test_of_many_writers_one_wins(store: Store) -> None:
    await store.create()
    with store.ear() as ear:
        writers = [store.transitions.finish("t", succeeded(str(number).encode())) for number in range(20)]
        answers = await asyncio.gather(*writers, return_exceptions=True)
        (message,) = answered(ear.messages())
    refused = [answer for answer in answers if isinstance(answer, TaskAlreadyFinalError)]
    assert len(refused) == 19
    assert (await store.document())["result"] == message["result"]


async def test_an_ended_task_is_judged_by_its_outcome_before_the_lease(store: Store) -> None:
    await store.created_and_claimed()
    await store.transitions.finish("t", succeeded(b"1"))
    assert not (await store.transitions.finish("t", succeeded(b"1"), lease="0.wrong")).changed
    with pytest.raises(TaskAlreadyFinalError):
        await store.transitions.finish("t", succeeded(b"2"), lease="0.wrong")


# Leases and time


async def test_a_wrong_lease_ends_nothing(store: Store) -> None:
    old = await store.created_and_claimed()
    await store.transitions.give_back("t", old.lease)
    with store.ear() as ear:
        with pytest.raises(LeaseLostError):
            await store.transitions.finish("t", succeeded(), lease=old.lease)
        await store.claim_one()
        with pytest.raises(LeaseLostError):
            await store.transitions.finish("t", succeeded(), lease=old.lease)
        assert ear.messages() == []
    assert store.record()["state"] == "running"


async def test_a_lease_that_ran_out_unswept_may_still_finish(store: Store) -> None:
    claimed = await store.created_and_claimed(lease_ms=1)
    await store.until_over(claimed.lease_end_ms)
    assert (await store.transitions.finish("t", succeeded(), lease=claimed.lease)).changed


async def test_a_task_whose_time_is_over_expires_instead(store: Store) -> None:
    await store.create(expires_ms=1)
    await store.until_expired()
    with store.ear() as ear:
        with pytest.raises(TaskAlreadyFinalError) as refused:
            await store.transitions.finish("t", succeeded())
        (message,) = answered(ear.messages())
    assert refused.value.state is TaskState.EXPIRED
    assert json.loads(refused.value.document)["state"] == message["state"] == "expired"
    assert store.indexes() == {"retained", "ended"}


async def test_no_outcome_counts_as_the_same_as_an_expiry(store: Store) -> None:
    await store.create(expires_ms=1)
    await store.until_expired()
    for completion in ENDS:
        with pytest.raises(TaskAlreadyFinalError):
            await store.transitions.finish("t", completion)


async def test_an_unknown_task(store: Store) -> None:
    with pytest.raises(TaskNotFoundError):
        await store.transitions.finish("t", succeeded())
    assert store.remaining() == set()


async def test_a_full_server_still_takes_outcomes(store: Store) -> None:
    await store.create()
    with store.full():
        assert (await store.transitions.finish("t", succeeded(b"[1]"))).changed
        assert (await store.document())["result"] == [1]


# The length of a message


async def announced_with(store: Store, uuid: str, length: int) -> bytes:
    await store.create(uuid)
    with store.ear() as ear:
        await store.transitions.finish(uuid, succeeded(b'"' + b"x" * (length - 2) + b'"'))
        ((_, text),) = ear.messages()
    return text.encode()


async def test_a_message_has_at_most_a_kibibyte(store: Store) -> None:
    overhead = len(await announced_with(store, "a", 100)) - 100
    longest = await announced_with(store, "b", 1_024 - overhead)
    assert len(longest) == 1_024
    assert "omitted" not in json.loads(longest)

    too_long = json.loads(await announced_with(store, "c", 1_025 - overhead))
    assert too_long["omitted"] is True
    assert "result" not in too_long
    assert set(too_long) == {
        *("seal", "uuid", "queue", "state", "omitted"),
        *("attempt", "created_at", "finished_at", "expires_at"),
    }


async def test_the_longest_names_fit_a_message(store: Store) -> None:
    uuid, queue = "u" * 128, "q" * 64
    await store.create("r" * 128, queue=queue)
    await store.transitions.finish("r" * 128, failed())
    await store.retried("r" * 128, uuid)
    with store.ear() as ear:
        await store.transitions.finish(uuid, failed(b'{"code":"' + b"x" * 2_000 + b'"}'))
        ((_, text),) = ear.messages()
    assert len(text) <= 1_024
    assert json.loads(text)["uuid"] == uuid


async def test_what_was_omitted_is_in_the_store(store: Store) -> None:
    await announced_with(store, "a", 5_000)
    assert len((await store.document("a"))["result"]) == 4_998


# Several in one call


async def test_several_in_one_call_are_as_several_calls(store: Store) -> None:
    for uuid in "abc":
        await store.create(uuid)
    claimed = await store.claim_one()
    assert claimed.uuid == "a"
    store.raw.hset(naming.tasks_key(), "d", "no record")
    finish = store.transitions.finish
    told = await asyncio.gather(
        finish("a", succeeded(b"1"), lease=claimed.lease),
        finish("b", succeeded(), lease="1.wrong"),
        finish("c", failed()),
        finish("c", failed(), wants_document=True),
        finish("c", succeeded()),
        finish("d", succeeded()),
        finish("nobody", succeeded()),
        return_exceptions=True,
    )
    assert [one.changed if isinstance(one, Changed) else type(one) for one in told] == [
        True,
        LeaseLostError,
        True,
        False,
        TaskAlreadyFinalError,
        StoreError,
        TaskNotFoundError,
    ]
    assert store.numbers() == {}
    assert store.indexes("a") == store.indexes("c") == {"retained", "ended"}
    assert store.indexes("b") == {"pending", "expiring"}
