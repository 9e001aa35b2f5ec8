"""Reads connections in small pieces: what arrives before anybody asked for it is kept in memory, once a connection."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

READ_BYTES: Final = 16_384
"""What one read brings at most. Most requests are shorter."""
LONG_READ_BYTES: Final = 262_144
"""The same while a long body is read whose turn it is."""

# One for all connections of the process: what was read is taken out of it before anything else is read.
_long = memoryview(bytearray(LONG_READ_BYTES))
_short = _long[:READ_BYTES]


class StreamProtocol(Protocol):
    """A protocol that takes bytes as they come."""

    takes_long_reads: bool
    """Whether the bytes that come next were asked for."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """As asyncio calls it."""

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""

    def eof_received(self) -> bool | None:
        """As asyncio calls it."""

    def pause_writing(self) -> None:
        """As asyncio calls it."""

    def resume_writing(self) -> None:
        """As asyncio calls it."""


class SmallReads(asyncio.BufferedProtocol):
    """One connection of `inner`, which would get up to 256 KB with its first bytes by itself."""

    __slots__ = ("inner",)

    def __init__(self, inner: StreamProtocol) -> None:
        self.inner = inner

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection is open."""
        self.inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self.inner.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return _long if self.inner.takes_long_reads else _short

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        self.inner.data_received(_long[:nbytes].tobytes())

    def eof_received(self) -> bool | None:
        """No more bytes will come."""
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        """The other side reads too slowly."""
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.inner.resume_writing()
