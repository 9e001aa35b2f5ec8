"""Random names and secrets from the system's source, drawn in blocks: a system call a task is a measurable cost."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from typing import Final

NAME_BYTES: Final = 16
"""128 bits: collisions and guesses are out of reach; the contract asks for 122 in names, 128 in seals."""
BLOCK_BYTES: Final = 4_096


_PLACES: Final = [slice(start, start + 2 * NAME_BYTES) for start in range(0, 2 * BLOCK_BYTES, 2 * NAME_BYTES)]
# Names of the present block, each given out once.
_left: Final[list[str]] = []
# A child process must not give out what its parent will.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_left.clear)


def new_uuid() -> str:
    """A task name of 128 random bits, lower-case hexadecimal."""
    try:
        return _left.pop()
    except IndexError:
        return _drawn()


def _drawn() -> str:
    # Another thread may take the last one in between.
    while True:
        digits = os.urandom(BLOCK_BYTES).hex()
        _left.extend(map(digits.__getitem__, _PLACES))
        try:
            return _left.pop()
        except IndexError:
            continue


def new_version() -> str:
    """48 random bits for a published version, which a number tells from all others of the same store."""
    return urlsafe_b64encode(bytes.fromhex(new_uuid()))[:8].decode()


def new_secret() -> str:
    """128 random bits for a seal or the secret half of a lease, in letters that need no escape in JSON or a URL."""
    try:
        return _left.pop()
    except IndexError:
        return _drawn()


def new_report() -> str:
    """48 random bits that name one report of progress: only the last few of one task are ever compared."""
    return new_secret()[:8]
