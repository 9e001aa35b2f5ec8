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
    FINAL = 6
    NOT_FOUND = 7
    LEASE_LOST = 8
    REQUEUED = 9
    EXTENDED = 10
    DEFERRED = 11
    FOUND = 12
    FULL = 13
    FREE = 14
    WAITED = 15
    BROKEN = 16
