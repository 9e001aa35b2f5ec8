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
        """As asyncio has it; asked several times a request, so it is not left to `__getattr__`."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Closes once everything is written."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
