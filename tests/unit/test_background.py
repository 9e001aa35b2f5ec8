"""Background tasks: heard when they fail, gone when their owner is."""

from __future__ import annotations

import asyncio
import logging

import pytest

from broker.background import Background
from tests.support.store import until


async def test_a_failure_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise ValueError("unheard of")

    background = Background()
    with caplog.at_level(logging.ERROR):
        background.spawn(failing(), "the failing one")
        await until(lambda: "the failing one" in caplog.text, "it was logged")
    assert "unheard of" in caplog.text
    await background.cancel()


async def test_all_are_gone_after_cancelling() -> None:
    ended: list[str] = []

    async def waiting(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    background = Background()
    tasks = [background.spawn(waiting(name), name) for name in ("a", "b")]
    await asyncio.sleep(0)
    await background.cancel()
    assert sorted(ended) == ["a", "b"]
    assert all(task.cancelled() for task in tasks)


async def test_cancelling_nothing() -> None:
    await Background().cancel()


async def test_what_must_not_stop_begins_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("broker.background.BEGIN_ANEW_S", 0.0)
    background, begun, works = Background(), list[int](), asyncio.Event()

    async def work() -> None:
        begun.append(1)
        if len(begun) < 3:
            raise ValueError("a defect")
        works.set()
        await asyncio.Event().wait()

    background.keep(work, "test")
    async with asyncio.timeout(5):
        await works.wait()
    await background.cancel()
    assert len(begun) == 3
    assert caplog.text.count("begins anew") == 2
