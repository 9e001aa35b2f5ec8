"""What a user's function is as a handler: its queue, its limits, how it is run and how its errors count."""

from __future__ import annotations

import asyncio
import inspect
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import msgspec

from broker import naming
from broker.errors import ConfigurationError, TaskError
from broker.requests import BACKOFF_FIRST_S, BACKOFF_MOST_S, DEFAULT_MAX_ATTEMPTS, MOST_SECONDS
from broker.task import Task

HandlerFunction = Callable[[Task], Awaitable[Any]] | Callable[[Task], Any]
ErrorTypes = type[BaseException] | Sequence[type[BaseException]]
"""What `except` takes: one class of errors, or several."""

DEFAULT_CONCURRENCY: Final = 16
DEFAULT_TIMEOUT_S: Final = 300.0
MOST_DOUBLINGS: Final = 60


class Handler(msgspec.Struct, frozen=True):
    """A function that runs the tasks of one queue."""

    queue: str
    function: HandlerFunction
    concurrency: int = DEFAULT_CONCURRENCY
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    min_backoff_s: float = BACKOFF_FIRST_S
    max_backoff_s: float = BACKOFF_MOST_S
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    no_retry_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if not naming.is_queue(self.queue):
            raise ConfigurationError(f"{self.queue!r} cannot name a queue: it must match {naming.QUEUE_PATTERN}.")
        for name, value in (("concurrency", self.concurrency), ("max_attempts", self.max_attempts)):
            if value < 1:
                raise ConfigurationError(f"The handler of {self.queue} has {name}={value}; it must be at least 1.")
        if not 0 < self.timeout_s < math.inf:
            raise ConfigurationError(
                f"The handler of {self.queue} has timeout={self.timeout_s}; it must be a positive number of seconds."
            )
        if not 0 <= self.min_backoff_s <= self.max_backoff_s <= MOST_SECONDS:
            raise ConfigurationError(
                f"The handler of {self.queue} has min_backoff={self.min_backoff_s} and max_backoff="
                f"{self.max_backoff_s}; both must be seconds, the first not above the second."
            )
        for name, types in (("retry_on", self.retry_on), ("no_retry_on", self.no_retry_on)):
            if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in types):
                raise ConfigurationError(f"The handler of {self.queue} has {name}={types}; it takes exception classes.")
        if not callable(self.function):
            raise ConfigurationError(f"The handler of {self.queue} is {self.function!r}, which cannot be called.")

    @property
    def is_async(self) -> bool:
        """Whether the function is awaited on the loop; any other runs in a thread."""
        function = self.function
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)

    def may_retry(self, error: BaseException) -> bool:
        """Whether another attempt could help after `error`; an error's own `retry` has a say, too."""
        return bool(getattr(error, "retry", True)) and self.retries(type(error))

    def retries(self, kind: type[BaseException]) -> bool:
        """Whether another attempt could help after an error of this class."""
        # A TaskError(retry=True) asks for it by name.
        return issubclass(kind, (*self.retry_on, TaskError)) and not issubclass(kind, self.no_retry_on)

    def retry_delay_s(self, attempt: int) -> float:
        """Seconds before the attempt after `attempt`: doubling, the upper half of it jittered."""
        doublings = min(attempt - 1, MOST_DOUBLINGS)
        delay = min(self.min_backoff_s * 2.0**doublings, self.max_backoff_s)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311


class ThreadLane:
    """The bounded thread pool of one plain `def` handler.

    A thread cannot be stopped from outside: when its task is given up, the thread goes on until the function returns,
    and keeps its place in the pool until then.
    """

    def __init__(self, handler: Handler, concurrency: int) -> None:
        self._handler = handler
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix=f"broker-{handler.queue}")

    async def run(self, task: Task, on_end: Callable[[], None]) -> Any:
        """Runs the function in a thread; `on_end` is called on the loop once the thread is free again."""
        loop = asyncio.get_running_loop()
        try:
            work: Future[Any] = self._pool.submit(_call, self._handler.function, task)
        except BaseException:
            # There is no thread.
            on_end()
            raise
        work.add_done_callback(lambda _: _call_if_open(loop, on_end))
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Takes no more work; threads end with their functions."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _call_if_open(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)


def _call(function: HandlerFunction, task: Task) -> Any:
    try:
        return function(task)
    except StopIteration as error:
        # No future can carry it.
        raise RuntimeError("The handler raised StopIteration.") from error
