"""The files that a process may open: each held call is a socket, so no more calls are held than there is room for."""

from __future__ import annotations

import logging
import resource
from typing import Final

import msgspec

from broker import Settings

log = logging.getLogger("broker.api")

RESERVED: Final = 512
"""For calls that are not held, idle connections and the process itself; a quarter where so many are not to be had."""

MOST_FILES: Final = 65_536
"""Where the system names no limit."""


def fit_waiters(settings: Settings) -> Settings:
    """The settings, with no more waiters than this process may have sockets; that limit is raised as far as it goes."""
    allowed = raised_limit()
    room = allowed - min(RESERVED, allowed // 4)
    if allowed == resource.RLIM_INFINITY or room >= settings.max_waiters:
        return settings
    log.warning(
        "At most %d calls are held, not BROKER_MAX_WAITERS=%d: this process may open %d files (ulimit -n).",
        room,
        settings.max_waiters,
        allowed,
    )
    return msgspec.structs.replace(settings, max_waiters=room)


def most_files() -> int:
    """How many files may be open beside the sockets: an eighth of what this process may open."""
    allowed = raised_limit()
    return MOST_FILES if allowed == resource.RLIM_INFINITY else max(1, min(allowed // 8, MOST_FILES))


def raised_limit() -> int:
    """How many files this process may open, after raising that as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            # Some systems name a limit that they do not grant.
            return soft
    return hard
