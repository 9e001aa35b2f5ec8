"""How many confirmations are enough."""

from __future__ import annotations

import pytest

from broker.store.replicas import FORGIVE_S, HOLD_S, Replicas


def info(*offsets: int, master: int = 100) -> bytes:
    lines = [
        "# Replication",
        "role:master",
        *[f"slave{n}:ip=::1,port={n},state=online,offset={offset},lag=0" for n, offset in enumerate(offsets)],
        "slave9:ip=::1,port=9,state=wait_bgsave,offset=0,lag=0",
        "master_replid:abc",
        f"master_repl_offset:{master}",
    ]
    return "\r\n".join([*lines, ""]).encode()


@pytest.fixture
def two() -> Replicas:
    """Two replicas, of which one has to confirm."""
    replicas = Replicas(1)
    replicas.look(info(100, 100), 0)
    return replicas


def test_only_replicas_that_are_in_step_are_waited_for() -> None:
    replicas = Replicas(1)
    assert replicas.expected == 1
    replicas.look(info(100, 3), 0)
    assert replicas.expected == 2
    late = Replicas(1)
    late.look(info(master=100), 0)
    late.look(info(150, 99, master=200), 1)
    assert late.expected == 1


def test_less_than_the_least_is_never_enough() -> None:
    replicas = Replicas(2)
    assert not replicas.judge(1, 0, 0)
    assert not replicas.judge(1, 100, 100)
    assert replicas.judge(2, 101, 101)


def test_one_that_goes_missing_may_have_become_the_master(two: Replicas) -> None:
    assert two.judge(2, 1, 1)
    assert not two.judge(1, 2, 2)
    assert not two.judge(1, 2 + HOLD_S, 2 + HOLD_S - 0.1)
    assert two.judge(1, 3 + HOLD_S, 2 + HOLD_S)
    assert two.expected == 1


def test_one_that_is_back_in_time_counts_on(two: Replicas) -> None:
    assert not two.judge(1, 2, 2)
    assert two.judge(2, 3, 3)
    assert not two.judge(1, 4, 2 + HOLD_S)


def test_nothing_is_taken_for_dead_while_nobody_knows_the_master(two: Replicas) -> None:
    assert not two.judge(1, 2, 2)
    assert not two.judge(1, 100, 2)


def test_one_that_was_taken_for_dead_is_not_waited_for_at_once(two: Replicas) -> None:
    two.judge(1, 0, 0)
    two.judge(1, HOLD_S, HOLD_S)
    two.look(info(100, 100), HOLD_S + 1)
    assert two.expected == 1
    two.look(info(100, 100), HOLD_S + FORGIVE_S)
    assert two.expected == 2
