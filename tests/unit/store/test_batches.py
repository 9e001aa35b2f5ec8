"""Neighbours of one batch leave as one call, and each gets its own answer."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import StoreError
from broker.store.batches import MOST_JOINED, joined
from broker.store.commands import Batch, Call, Command


class Text:
    source = "return ARGV"
    digest = "d" * 40


class Taker:
    """Keeps what it was told."""

    def __init__(self, *, is_abandoned: bool = False) -> None:
        self.is_abandoned = is_abandoned
        self.answers: list[Any] = []
        self.errors: list[Exception] = []

    def succeed(self, reply: Any) -> None:
        self.answers.append(reply)

    def fail(self, error: Exception) -> None:
        self.errors.append(error)


BATCH = Batch(Text(), "k", ("shared",))
OTHER = Batch(Text(), "k", ("other",))


def call(*arguments: str, batch: Batch | None = BATCH, repeatable: bool = True, deadline: float = 1.0) -> Call:
    return Call(Command(arguments, repeatable=repeatable, batch=batch), Taker(), deadline)


def arguments(calls: list[Call]) -> list[tuple[object, ...]]:
    return [written.command.arguments for written in calls]


def test_neighbours_are_one_call() -> None:
    (one,) = joined([call("a", "1", deadline=3.0), call("b", "2", deadline=2.0)])
    assert one.command.arguments == ("EVALSHA", "d" * 40, 1, "k", "shared", "a", "1", "b", "2")
    assert one.command.if_unknown is not None
    assert one.command.if_unknown() == ("EVAL", "return ARGV", 1, "k", "shared", "a", "1", "b", "2")
    assert (one.deadline, one.command.repeatable) == (2.0, True)
    assert one.packed


def test_order_is_kept_and_others_stay_apart() -> None:
    plain = call("PING", batch=None)
    written = joined([call("a"), plain, call("b"), call("c", batch=OTHER), call("d", batch=OTHER)])
    assert written[1] is plain
    assert [words[4:] for words in arguments(written)] == [("shared", "a"), (), ("shared", "b"), ("other", "c", "d")]


def test_what_was_joined_is_sent_again_as_it_is() -> None:
    (one,) = joined([call("a"), call("b")])
    assert joined([one, call("c")])[0] is one


def test_one_that_may_not_run_twice_decides_for_all() -> None:
    (one,) = joined([call("a"), call("b", repeatable=False)])
    assert not one.command.repeatable


def test_a_call_is_bounded() -> None:
    assert len(joined([call("a") for _ in range(MOST_JOINED + 1)])) == 2


def test_each_gets_its_own_answer() -> None:
    calls = [call("a"), call("b")]
    joined(calls)[0].receiver.succeed(["one", "two"])
    assert [taker.answers for taker in (calls[0].receiver, calls[1].receiver)] == [["one"], ["two"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("reply", [["one"], [], None, "text", ["one", "two", "three"]])
def test_another_number_of_answers_is_an_error_for_all(reply: object) -> None:
    calls = [call("a"), call("b")]
    joined(calls)[0].receiver.succeed(reply)
    for one in calls:
        (error,) = one.receiver.errors  # type: ignore[attr-defined]
        assert isinstance(error, StoreError)


def test_an_error_is_everybodys() -> None:
    calls = [call("a"), call("b")]
    joined(calls)[0].receiver.fail(StoreError("no"))
    assert all(one.receiver.errors for one in calls)  # type: ignore[attr-defined]


def test_it_is_abandoned_when_all_have_left() -> None:
    calls = [call("a"), call("b")]
    (one,) = joined(calls)
    calls[0].receiver.is_abandoned = True  # type: ignore[misc]
    assert not one.receiver.is_abandoned
    calls[1].receiver.is_abandoned = True  # type: ignore[misc]
    assert one.receiver.is_abandoned


@pytest.mark.parametrize("batch", [BATCH, None])
def test_what_cannot_be_written_harms_no_neighbour(batch: Batch | None) -> None:
    fine, poisoned, other = call("a", batch=batch), call("\ud800", batch=batch), call("b", batch=batch)
    written = joined([fine, poisoned, other])
    assert [words[-1] for words in arguments(written)] == (["b"] if batch else ["a", "b"])
    assert all(one.packed for one in written)
    assert isinstance(poisoned.receiver, Taker)
    assert [type(error) for error in poisoned.receiver.errors] == [StoreError]
    assert joined([poisoned]) == []


class Broken(Taker):
    def succeed(self, reply: Any) -> None:
        raise ZeroDivisionError

    def fail(self, error: Exception) -> None:
        raise ZeroDivisionError


def test_a_receiver_that_breaks_takes_nothing_from_its_neighbours() -> None:
    broken, neighbour = call("a"), call("b")
    broken.receiver = Broken()
    (one,) = joined([broken, neighbour])
    one.receiver.succeed([1, 2])
    one.receiver.fail(StoreError("away"))
    assert isinstance(neighbour.receiver, Taker)
    assert (neighbour.receiver.answers, len(neighbour.receiver.errors)) == ([2], 1)
