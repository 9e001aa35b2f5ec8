"""How many replicas have to confirm, judged by which ones did a moment ago. Pure: it knows no socket and no clock.

`WAIT 1` alone is not enough where a master has two replicas. In a failover one of them becomes the master while the
other still follows, and confirms to, the old one: what only that one has is lost. A replica that becomes a master
confirms nothing more from that moment on. So whoever confirmed lately has to confirm again, or stay away for longer
than a failover takes to be seen; only then is it taken for dead, and the least number is enough.
"""

from __future__ import annotations

import re
from typing import Final

HOLD_S: Final = 3.0
"""Sentinel sees that a replica has become a master within a second, and names it at once; we ask twice a second."""

FORGIVE_S: Final = 30.0
"""How long a replica that was taken for dead is not waited for: one that is always late must not hold up all again."""

_master_offset: Final = re.compile(rb"^master_repl_offset:(\d+)", re.MULTILINE)
_online: Final = re.compile(rb"^slave\d+:[^\r\n]*state=online,offset=(\d+)", re.MULTILINE)


class Replicas:
    """The replicas of one master.

    Args:
        least: How many have to confirm in any case.
    """

    def __init__(self, least: int) -> None:
        self.least = least
        self.expected = least
        """How many confirmations to wait for."""
        self._missing_since: float | None = None
        self._offset: int | None = None
        self._trusts_again_at = float("-inf")

    def look(self, info: bytes, now: float) -> None:
        """Counts those that are in step, by `INFO replication`: what the master had at the last look, they have now."""
        found = _master_offset.search(info)
        offsets = [int(offset) for offset in _online.findall(info)]
        in_step = [offset for offset in offsets if self._offset is None or offset >= self._offset]
        self._offset = int(found[1]) if found else None
        if now >= self._trusts_again_at:
            self.expected = max(self.expected, len(in_step))

    def judge(self, confirmed: int, asked_at: float, master_seen_at: float) -> bool:
        """Whether so many confirmations are enough.

        Args:
            confirmed: Replicas that have everything.
            asked_at: When they were asked.
            master_seen_at: The last time at which the server was known to be the master still.
        """
        if confirmed >= self.expected:
            self._missing_since = None
            return True
        if self._missing_since is None:
            self._missing_since = asked_at
        if confirmed < self.least or master_seen_at - self._missing_since < HOLD_S:
            return False
        self.expected, self._missing_since = confirmed, None
        self._trusts_again_at = master_seen_at + FORGIVE_S
        return True
