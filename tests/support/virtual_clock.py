"""The product's own scripts on a clock that the test sets, so that hours pass without waiting."""

from __future__ import annotations

import hashlib
from typing import Final

import pytest
import redis

from broker import naming
from broker.store import scripts

CLOCK_KEY: Final = naming.KEY_PREFIX + "test-clock"

_SERVER_CLOCK: Final = """\
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
"""
_TEST_CLOCK: Final = f"  return tonumber(redis.call('GET', '{CLOCK_KEY}'))\n"
# A plain SET is refused by a full server, on which time passes nevertheless.
_SET_CLOCK: Final = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], ARGV[1])"


def run_on_test_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, every script reads `CLOCK_KEY` where it read the server's TIME; nothing else changes."""
    for script in scripts.ALL:
        source = script.source.replace(_SERVER_CLOCK, _TEST_CLOCK)
        assert "'TIME'" not in source, f"{script.name} reads the server's clock in another way."
        monkeypatch.setattr(script, "source", source)
        monkeypatch.setattr(script, "digest", hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


class VirtualClock:
    """The clock of the scripts.

    Args:
        raw: A client of the server.
    """

    def __init__(self, raw: redis.Redis) -> None:
        self._set = raw.register_script(_SET_CLOCK)

    def set(self, ms: int) -> None:
        """It is that moment now."""
        self._set(keys=[CLOCK_KEY], args=[ms])
