"""What few processes need, made when it is first asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Late(Generic[T]):
    """Something whose making takes long, mostly for what it imports: not done before somebody asks.

    It is made in a thread, once, however many ask meanwhile, and the event loop answers other calls.

    Args:
        make: Makes it. What fails is told to all that ask; it is not tried again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._making: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The one that all get."""
        if self._making is None:
            self._making = asyncio.create_task(asyncio.to_thread(self._make))
        # Shielded, since others may wait for it when a caller leaves.
        return await asyncio.shield(self._making)
