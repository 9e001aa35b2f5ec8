"""How many calls one process holds, of all kinds, and how many it may."""

from __future__ import annotations

from broker.errors import TooManyWaitersError


class Capacity:
    """The held calls of one process: whoever holds one adds it to `held`, and takes it off again.

    Args:
        most: How many it holds at a time.
    """

    __slots__ = ("_most", "held")

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def refuse_beyond(self, more: int = 1) -> None:
        """Raises TooManyWaitersError when not so many more calls may be held."""
        if self.held + more > self._most:
            raise TooManyWaitersError(
                f"{self.held} calls are held here, and no more: ask another instance, or without a wait."
            )
