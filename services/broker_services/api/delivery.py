"""Whether an answer reached its caller, as far as this end of the connection can know it.

TCP tells who has left: a caller that closed before the answer was written shows at once, and one that closed while
the answer was on its way has not acknowledged it. Whoever acknowledged it counts as having read it; nothing else does.
"""

from __future__ import annotations

import fcntl
import select
import struct
import termios
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

CONNECTION: Final = "broker.connection"
"""Where a request's scope has a weak reference to its `Connection`."""

_GONE: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_RESET: Final = select.POLLHUP | select.POLLERR


class Following:
    """One answer on its way. `on_lost` is called when it turns out that nobody heard of it."""

    __slots__ = ("is_written", "on_lost")

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.on_lost = on_lost
        self.is_written = False


class Connection(Protocol):
    """A connection that follows its answers, and tells a held call when it is closed."""

    on_closed: Callable[[], None] | None
    """Called when the socket is closed; set by the one call that is being answered."""
    transport: Any

    def follow(self, on_lost: Callable[[], None]) -> Following | None:
        """Has `on_lost` called when the answer that is written next turns out to have reached nobody."""


def connection_of(scope: Mapping[str, Any]) -> Connection | None:
    """The connection that a request came by; None where the server is another than the product's own."""
    reference = scope.get(CONNECTION)
    connection: Connection | None = None if reference is None else reference()
    return connection


def has_left(descriptor: int) -> bool:
    """Whether the other end of a socket has closed or reset it, even if nothing was read since."""
    return bool(_events(descriptor, _GONE))


def has_missed(descriptor: int) -> bool:
    """Whether the other end, which has closed a socket, did so before all that was written had reached it."""
    return bool(_events(descriptor, 0) & _RESET) or _unacknowledged(descriptor) > 0


def _events(descriptor: int, mask: int) -> int:
    poll = select.poll()
    poll.register(descriptor, mask)
    found = poll.poll(0)
    return found[0][1] if found else 0


def _unacknowledged(descriptor: int) -> int:
    """Bytes; none where the system does not tell."""
    try:
        answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])
