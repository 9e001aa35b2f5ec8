"""A seed says what happens."""

from __future__ import annotations

import random

from tests.faults.plan import KINDS, draw


def drawn(seed: int, seconds: float = 600, **options: object) -> list[object]:
    return list(draw(random.Random(seed), seconds, apis=3, workers=3, **options))  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_faults() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_ten_minutes_have_a_hundred_faults_of_every_kind() -> None:
    faults = draw(random.Random(1), 600, apis=3, workers=3)
    assert len(faults) >= 100
    assert {fault.kind for fault in faults} == {kind.name for kind in KINDS}


def test_a_minute_has_ten() -> None:
    assert all(len(drawn(seed, 60)) >= 10 for seed in range(50))


def test_nobody_is_struck_twice_at_a_time_and_all_is_over_in_time() -> None:
    until: dict[str, float] = {}
    for fault in draw(random.Random(3), 300, apis=2, workers=2):
        assert until.get(fault.target, 0) <= fault.at_s
        until[fault.target] = fault.at_s + fault.seconds
        assert until[fault.target] <= 300.01


def test_only_the_kinds_that_are_asked_for() -> None:
    faults = draw(random.Random(1), 60, apis=1, workers=1, kinds=["cut"])
    assert {fault.kind for fault in faults} == {"cut"}
