"""What a script answers first: one number, known to Python and Lua by the same name."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """`scripts.py` gives each script the names that it uses."""

    CREATED = 1
    ATTACHED = 2
    CONFLICT = 3
    MISMATCH = 4
    CHANGED = 5
    UNCHANGED = 6
    FINAL = 7
    NOT_FOUND = 8
    LEASE_LOST = 9
    REQUEUED = 10
    EXTENDED = 11
    DEFERRED = 12
    FOUND = 13
