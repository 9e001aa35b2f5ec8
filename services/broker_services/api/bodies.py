"""Reads request bodies within bounds of size and time, and lets go of unfinished ones when the process ends."""

from __future__ import annotations

import asyncio

from broker.deadlines import Deadlines
from broker.disconnect import ClientGoneError
from broker.errors import PayloadTooLargeError
from broker_services.api.asgi import Receive
from broker_services.api.problems import HttpError


class Bodies:
    """The bodies being read by one process.

    Args:
        max_bytes: Longest acceptable body.
        timeout_s: Seconds within which a body must have arrived.
        deadlines: Of the running loop.
    """

    def __init__(self, *, max_bytes: int, timeout_s: float, deadlines: Deadlines) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._deadlines = deadlines
        self._readings: set[_Reading] = set()
        self._is_ending = False

    async def read(self, receive: Receive, announced_bytes: int) -> bytes:
        """One whole body.

        Args:
            receive: ASGI's.
            announced_bytes: Content-Length, or 0.

        Raises:
            PayloadTooLargeError: Longer than the limit; what follows is not read.
            HttpError: It took too long, or this process ends.
            ClientGoneError: The sender went away.
        """
        self._check_length(announced_bytes)
        reading = _Reading(self._timeout_s, asyncio.current_task(self._deadlines.loop))
        tick = self._deadlines.start(reading, 0 if self._is_ending else self._timeout_s)
        self._readings.add(reading)
        try:
            return await self._receive_all(receive)
        except asyncio.CancelledError:
            raise reading.error_for_cancelled() from None
        finally:
            self._readings.discard(reading)
            self._deadlines.stop(reading, tick)

    def end_all(self) -> None:
        """Ends unfinished bodies now, and those that still come soon after they begin: their senders try elsewhere."""
        self._is_ending = True
        for reading in self._readings:
            reading.stop(_draining())

    async def _receive_all(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part: bytes = message.get("body", b"")
            body += part
            self._check_length(len(body))
            if not message.get("more_body"):
                return bytes(body) if len(body) > len(part) else part

    def _check_length(self, length: int) -> None:
        if length > self._max_bytes:
            raise PayloadTooLargeError(f"The body has {length} bytes or more; at most {self._max_bytes} are read.")


class _Reading:
    """One body on its way, and why it was given up."""

    def __init__(self, timeout_s: float, reader: asyncio.Task[object] | None) -> None:
        self._timeout_s = timeout_s
        self._reader = reader
        self._reason: HttpError | None = None

    def expire(self) -> None:
        self.stop(_too_slow(self._timeout_s))

    def stop(self, reason: HttpError) -> None:
        if self._reason is None and self._reader is not None:
            self._reason = reason
            self._reader.cancel()

    def error_for_cancelled(self) -> BaseException:
        if self._reason is None or self._reader is None:
            return asyncio.CancelledError()
        self._reader.uncancel()
        return self._reason


def _too_slow(timeout_s: float) -> HttpError:
    return HttpError(
        "request-timeout",
        f"The body did not arrive within {timeout_s:g} s; send the request again.",
        (b"connection", b"close"),
    )


def _draining() -> HttpError:
    return HttpError("draining", "This instance ends; send the request again.", (b"connection", b"close"))
