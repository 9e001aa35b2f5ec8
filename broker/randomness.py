"""Random names and secrets from the system's source, drawn in blocks: a system call a task is a measurable cost."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from typing import Final

NAME_BYTES: Final = 16
"""128 bits: collisions and guesses are out of reach; the contract asks for 122 in names, 128 in seals."""
BLOCK_BYTES: Final = 4_096


class _Source:
    """Random bytes, each given out once."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drops what is left of the block."""
        self._block = b""
        self._next = 0

    def take(self) -> bytes:
        """The next `NAME_BYTES`."""
        start = self._next
        if start >= len(self._block):
            self._block, start = os.urandom(BLOCK_BYTES), 0
        self._next = start + NAME_BYTES
        return self._block[start : self._next]


_source = _Source()
# A child process must not give out what its parent will.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_source.forget)


def new_uuid() -> str:
    """A task name of 128 random bits, lower-case hexadecimal."""
    return _source.take().hex()


def new_version() -> str:
    """48 random bits for a published version, which a number tells from all others of the same store."""
    return urlsafe_b64encode(_source.take())[:8].decode()


def new_secret() -> str:
    """128 random bits for a seal or the secret half of a lease, in letters that need no escape in JSON or a URL."""
    return _source.take().hex()


def new_report() -> str:
    """48 random bits that name one report of progress: only the last few of one task are ever compared."""
    return new_secret()[:8]
