"""What is made late is made once, beside the event loop, for all that ask."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from broker_services.late import Late


class Making:
    """Makes one thing, once `finish` was called."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self._has_begun = threading.Event()
        self._may_finish = threading.Event()

    def __call__(self) -> object:
        self.threads.append(threading.current_thread())
        self._has_begun.set()
        assert self._may_finish.wait(10)
        return object()

    async def begun(self) -> None:
        """Returns once somebody waits for it."""
        assert await asyncio.to_thread(self._has_begun.wait, 10)

    def finish(self) -> None:
        """Lets it be made."""
        self._may_finish.set()


async def test_it_is_made_once_in_a_thread_for_all_that_ask() -> None:
    making = Making()
    late = Late(making)
    asking = [asyncio.create_task(late.get()) for _ in range(3)]
    # The loop runs meanwhile.
    await making.begun()
    making.finish()
    assert len({id(made) for made in [*await asyncio.gather(*asking), await late.get()]}) == 1
    assert len(making.threads) == 1
    assert making.threads[0] is not threading.main_thread()


async def test_nothing_is_made_before_somebody_asks() -> None:
    making = Making()
    Late(making)
    await asyncio.sleep(0.01)
    assert making.threads == []


async def test_a_caller_that_leaves_takes_nothing_from_the_others() -> None:
    making = Making()
    late = Late(making)
    leaving, staying = asyncio.create_task(late.get()), asyncio.create_task(late.get())
    await making.begun()
    leaving.cancel()
    making.finish()
    assert await staying is await late.get()
    with pytest.raises(asyncio.CancelledError):
        await leaving


@pytest.fixture
def failing() -> Callable[[], object]:
    """What cannot be made."""

    def make() -> object:
        raise ImportError("there is no such package")

    return make


async def test_a_failure_is_told_to_all_that_ask(failing: Callable[[], object]) -> None:
    late = Late(failing)
    for _ in range(2):
        with pytest.raises(ImportError, match="no such package"):
            await late.get()
