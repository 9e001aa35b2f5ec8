"""How many calls one process holds, of all kinds, and how many it may."""

from __future__ import annotations

from collections.abc import Callable

from broker.errors import TooManyWaitersError


class Capacity:
    """The held calls of one process.

    Args:
        most: How many it holds at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kinds: list[Callable[[], int]] = []

    def count(self, held: Callable[[], int]) -> None:
        """Counts one more kind of calls: how many of them are held now."""
        self._kinds.append(held)

    @property
    def held(self) -> int:
        """Calls held now."""
        held = 0
        for count in self._kinds:
            held += count()
        return held

    def refuse_beyond(self, more: int = 1) -> None:
        """Raises TooManyWaitersError when not so many more calls may be held."""
        held = self.held
        if held + more > self._most:
            raise TooManyWaitersError(
                f"{held} calls are held here, and no more: ask another instance, or without a wait."
            )
