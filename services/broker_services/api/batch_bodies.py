"""The long bodies of batches, of which only so many bytes are in memory at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from broker.errors import TooManyWaitersError
from broker_services.api.asgi import Message
from broker_services.api.bodies import Bodies
from broker_services.api.http_request import HttpRequest

MOST_BATCHES: Final = 4
"""Bodies of the longest acceptable length that one instance holds; each takes some four times its length while its
tasks are on their way to Redis. Shorter ones count by their bytes."""


class BatchBodies:
    """The batches being read and created by one process.

    Args:
        bodies: Reads them.
        most_bytes: Bytes of them in memory at most.
    """

    def __init__(self, bodies: Bodies, *, most_bytes: int) -> None:
        self._bodies = bodies
        self._most_bytes = most_bytes
        self.held_bytes = 0

    @asynccontextmanager
    async def hold(self, request: HttpRequest) -> AsyncIterator[bytes]:
        """Gives one body, which counts until the context ends.

        Raises:
            TooManyWaitersError: The others leave no room for it.
            PayloadTooLargeError, HttpError, InvalidRequestError, ClientGoneError: As `HttpRequest.read_json` does.
        """
        taken = 0

        async def receive() -> Message:
            nonlocal taken
            message = await request.receive()
            length = len(message.get("body", b""))
            taken += length
            self.held_bytes += length
            if self.held_bytes > self._most_bytes:
                raise TooManyWaitersError(f"{self._most_bytes} bytes of batches are being worked on here: try again.")
            return message

        try:
            yield await request.read_batch(self._bodies, receive)
        finally:
            self.held_bytes -= taken

    def end_all(self) -> None:
        """Ends unfinished bodies: this process ends, and their senders try elsewhere."""
        self._bodies.end_all()
