"""What a process reports of itself, without a store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

import pytest

from broker import presence
from broker.errors import StoreUnavailableError
from broker.presence import PRESENT_MS, Presence
from tests.support.store import until


class Reports:
    """Takes reports; `errors` are raised by the next ones."""

    def __init__(self) -> None:
        self.taken: list[dict[str, int]] = []
        self.errors: deque[Exception] = deque()

    async def __call__(self, numbers: Mapping[str, int], ttl_ms: int) -> None:
        assert ttl_ms == PRESENT_MS
        self.taken.append(dict(numbers))
        if self.errors:
            raise self.errors.popleft()


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "REPORT_EVERY_S", 0.001)


async def test_a_queue_that_is_no_longer_there_is_taken_out_once(reports: Reports) -> None:
    one = Presence(reports, dict)
    await one.report({"a": 2, "b": 1})
    await one.report({"b": 3})
    await one.report({"b": 3})
    assert reports.taken == [{"a": 2, "b": 1}, {"a": 0, "b": 3}, {"b": 3}]


async def test_nothing_to_say_is_not_said(reports: Reports) -> None:
    one = Presence(reports, dict)
    await one.report({})
    await one.leave()
    assert reports.taken == []


async def test_leaving_takes_it_out_of_all(reports: Reports) -> None:
    one = Presence(reports, dict)
    await one.report({"a": 2, "b": 1})
    await one.leave()
    assert reports.taken[-1] == {"a": 0, "b": 0}


async def test_a_report_whose_answer_was_lost_is_taken_back(reports: Reports) -> None:
    one = Presence(reports, dict)
    reports.errors.append(StoreUnavailableError("away", may_have_run=True))
    with pytest.raises(StoreUnavailableError):
        await one.report({"a": 1})
    await one.leave()
    assert reports.taken == [{"a": 1}, {"a": 0}]


async def test_leaving_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "FAREWELL_S", 0.01)

    async def report(numbers: Mapping[str, int], _: int) -> None:
        if not any(numbers.values()):
            await asyncio.Event().wait()

    one = Presence(report, dict)
    await one.report({"a": 1})
    await one.leave()


@pytest.mark.usefixtures("often")
async def test_it_reports_at_once_again_and_after_an_outage(reports: Reports) -> None:
    reports.errors.append(StoreUnavailableError("away"))
    numbers = {"a": 1}
    reporting = asyncio.create_task(Presence(reports, lambda: numbers).report_forever())
    await until(lambda: len(reports.taken) >= 2, "two reports")
    numbers["a"] = 2
    await until(lambda: reports.taken[-1] == {"a": 2}, "the new number")
    reporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reporting
