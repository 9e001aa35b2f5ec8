"""Random names and secrets from the system's source, drawn in blocks: a system call a task is a measurable cost."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from typing import Final

NAME_BYTES: Final = 16
"""128 bits: collisions and guesses are out of reach; the contract asks for 122 in names, 128 in seals."""
SECRET_LENGTH: Final = 22
"""Letters of six bits each, which are 132."""
BLOCK_BYTES: Final = 4_080
"""Whole names, and threes of bytes: no secret ends in padding."""


# Names and secrets of the present blocks, each given out once.
_names: Final[list[str]] = []
_secrets: Final[list[str]] = []


def _forget() -> None:
    _names.clear()
    _secrets.clear()


# A child process must not give out what its parent will.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def new_uuid() -> str:
    """A task name of 128 random bits, lower-case hexadecimal."""
    # Another thread may take the last one in between.
    while True:
        try:
            return _names.pop()
        except IndexError:
            _names.extend(_pieces(os.urandom(BLOCK_BYTES).hex(), 2 * NAME_BYTES))


def new_secret() -> str:
    """132 random bits for a seal or the secret half of a lease, in letters that need no escape in JSON or a URL.

    Shorter than a name: the server hashes each letter of a text as often as a script reads it or writes it.
    """
    while True:
        try:
            return _secrets.pop()
        except IndexError:
            _secrets.extend(_pieces(urlsafe_b64encode(os.urandom(BLOCK_BYTES)).decode(), SECRET_LENGTH))


def _pieces(text: str, length: int) -> list[str]:
    """The text cut into pieces of this length, without what is left over."""
    return [text[start : start + length] for start in range(0, len(text) - length + 1, length)]


def new_version() -> str:
    """48 random bits for a published version, which a number tells from all others of the same store."""
    return urlsafe_b64encode(bytes.fromhex(new_uuid()))[:8].decode()


def new_report() -> str:
    """48 random bits that name one report of progress: only the last few of one task are ever compared."""
    return new_secret()[:8]
