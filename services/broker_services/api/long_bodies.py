"""Long bodies, part by part: a few of them are read at a time, so that what waits to be written stays small.

A connection that nobody reads costs nothing here; one that is read brings up to 256 KiB at a time. So reading goes in
turns: whose turn it is gives one part, which is dealt with before the turn ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from broker.disconnect import ClientGoneError
from broker.errors import PayloadTooLargeError
from broker_services.api.asgi import Message, Receive
from broker_services.api.problems import HttpError

MOST_TURNS: Final = 16
TURN_S: Final = 0.1
"""How long a turn waits for a sender who has nothing ready, while others may."""
SLOWEST_BYTES_PER_S: Final = 16_384
"""The pace that a sender must keep up on the whole: a slow phone's. Who drips holds a file open for nothing."""


class Flow(Protocol):
    """What a connection's reading can be stopped by; `receive` has it go on."""

    def pause_reading(self) -> None:
        """Leaves what comes with the sender's system."""


class LongBodies:
    """The long bodies being read by one process.

    Args:
        timeout_s: Seconds for which a sender may send nothing.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(MOST_TURNS)
        self._is_ending = False

    def end_all(self) -> None:
        """Ends unfinished bodies at their next turn: their senders try elsewhere."""
        self._is_ending = True

    async def read(
        self,
        receive: Receive,
        flow: Flow | None,
        announced_bytes: int,
        *,
        max_bytes: int,
        take: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Reads one body to its end.

        Args:
            receive: ASGI's.
            flow: Of the connection, where there is one.
            announced_bytes: Content-Length, or 0.
            max_bytes: Longest acceptable body.
            take: Awaited with each part, within its turn; it must not keep it.

        Raises:
            PayloadTooLargeError: Longer than the limit; what follows is not read.
            HttpError: It came too slowly, or this process ends.
            ClientGoneError: The sender went away.
        """
        _check_length(announced_bytes, max_bytes)
        pace = _Pace(self._timeout_s)
        more = True
        while more:
            async with self._turns:
                if self._is_ending:
                    raise _draining()
                # A function of its own: what waits for its next turn must not hold the part of its last one.
                more = await _take_turn(receive, flow, max_bytes, pace, take)


async def _take_turn(
    receive: Receive, flow: Flow | None, max_bytes: int, pace: _Pace, take: Callable[[bytes], Awaitable[None]]
) -> bool:
    """Deals with what comes in one turn; whether there is more."""
    message = await _receive(receive, flow)
    if message is None:
        pace.check()
        return True
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    part: bytes = message.get("body", b"")
    pace.add(len(part))
    _check_length(pace.received, max_bytes)
    await take(part)
    pace.go_on()
    return bool(message.get("more_body"))


class _Pace:
    """How fast one body comes. Only waits that nothing came of count: for others, this process was the slow one.

    Args:
        timeout_s: Seconds for which a sender may send nothing.
    """

    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._waited_s = 0.0
        self._silent_since: float | None = None
        self._ready_at = self._loop.time()
        self.received = 0

    def check(self) -> None:
        """Nothing came. Raises HttpError when that has lasted too long, here or in sum."""
        now = self._loop.time()
        silent_s = now - self._ready_at
        credit_s = self.received / SLOWEST_BYTES_PER_S
        if silent_s > self._timeout_s or self._waited_s + silent_s > self._timeout_s + credit_s:
            raise _too_slow(self._timeout_s)
        self._silent_since = self._ready_at

    def add(self, length: int) -> None:
        """Some bytes came."""
        if self._silent_since is not None:
            self._waited_s += self._loop.time() - self._silent_since
            self._silent_since = None
        self.received += length

    def go_on(self) -> None:
        """They have been dealt with; the sender's time runs again."""
        self._ready_at = self._loop.time()


async def _receive(receive: Receive, flow: Flow | None) -> Message | None:
    """What one turn brings; None when nothing came."""
    try:
        async with asyncio.timeout(TURN_S):
            return await receive()
    except TimeoutError:
        return None
    finally:
        if flow is not None:
            flow.pause_reading()


def _check_length(length: int, most: int) -> None:
    if length > most:
        raise PayloadTooLargeError(f"The body has {length} bytes or more; at most {most} are read.")


def _too_slow(timeout_s: float) -> HttpError:
    return HttpError(
        "request-timeout",
        f"Nothing came for {timeout_s:g} s, or less than {SLOWEST_BYTES_PER_S} bytes a second; send it again.",
        (b"connection", b"close"),
    )


def _draining() -> HttpError:
    return HttpError("draining", "This instance ends; send the request again.", (b"connection", b"close"))
