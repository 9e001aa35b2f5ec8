"""Long bodies come in turns, at a pace, and end when they must."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from broker.disconnect import ClientGoneError
from broker.errors import BrokerError, PayloadTooLargeError
from broker_services.api import long_bodies
from broker_services.api.long_bodies import MOST_TURNS, LongBodies

MOST = 1_000


class Sender:
    """Sends these messages; None stands for silence."""

    def __init__(self, *messages: bytes | None, ends: bool = True) -> None:
        self._messages = list(messages)
        self._ends = ends
        self.paused = 0
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        if not self._messages:
            return {"type": "http.disconnect"}
        if self._messages[0] is None:
            await asyncio.Event().wait()
        body = self._messages.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self._messages) or not self._ends}

    def pause_reading(self) -> None:
        self.paused += 1


async def read(bodies: LongBodies, sender: Sender, take: Callable[[bytes], Awaitable[None]] | None = None) -> bytes:
    found: list[bytes] = []

    async def keep(part: bytes) -> None:
        found.append(part)

    await bodies.read(sender.receive, sender, 0, max_bytes=MOST, take=take or keep)
    return b"".join(found)


async def test_a_body_comes_in_parts_and_nothing_is_read_in_between() -> None:
    sender = Sender(b"ab", b"", b"c")
    assert await read(LongBodies(timeout_s=1), sender) == b"abc"
    assert sender.paused == sender.asked == 3


async def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    bodies = LongBodies(timeout_s=1)
    assert len(await read(bodies, Sender(bytes(MOST)))) == MOST
    with pytest.raises(PayloadTooLargeError):
        await read(bodies, Sender(bytes(MOST), b"x", ends=False))
    announced = Sender(b"x")
    with pytest.raises(PayloadTooLargeError):
        await bodies.read(announced.receive, None, MOST + 1, max_bytes=MOST, take=None)  # type: ignore[arg-type]
    assert announced.asked == 0


async def test_a_sender_who_leaves_is_noticed() -> None:
    with pytest.raises(ClientGoneError):
        await read(LongBodies(timeout_s=1), Sender(b"ab", ends=False))


async def test_silent_senders_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_bodies, "TURN_S", 0.005)
    bodies = LongBodies(timeout_s=30)
    silent = [asyncio.create_task(read(bodies, Sender(b"x", None))) for _ in range(MOST_TURNS * 2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await read(bodies, Sender(b"a", b"b")) == b"ab"
    bodies.end_all()
    errors = await asyncio.gather(*silent, return_exceptions=True)
    assert {error.code for error in errors if isinstance(error, BrokerError)} == {"draining"}


async def test_a_sender_who_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_bodies, "TURN_S", 0.005)
    with pytest.raises(BrokerError) as raised:
        await read(LongBodies(timeout_s=0.05), Sender(b"x", None))
    assert raised.value.code == "request-timeout"


async def test_time_that_writing_takes_is_not_the_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_bodies, "TURN_S", 0.005)

    async def write_slowly(part: bytes) -> None:
        await asyncio.sleep(0.05)

    await read(LongBodies(timeout_s=0.04), Sender(b"x", b"x"), write_slowly)


async def test_who_drips_is_given_up_although_something_comes_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_bodies, "TURN_S", 0.005)

    class Dripping(Sender):
        async def receive(self) -> dict[str, Any]:
            if self.asked % 4:
                self.asked += 1
                await asyncio.Event().wait()
            return await super().receive()

    with pytest.raises(BrokerError) as raised:
        await read(LongBodies(timeout_s=0.05), Dripping(*[b"x"] * 100))
    assert raised.value.code == "request-timeout"
