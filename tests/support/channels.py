"""The public channels, as a third program sees them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

import redis
from redis.client import PubSub

from tests.support.processes import wait_until

GONE_WITHIN_S: Final = 2.0
"""What the contract allows a channel after its last waiter."""
SLACK_S: Final = 1.5
"""For a machine that is busy with other tests."""


class Channels:
    """Looks at the server's channels.

    Args:
        store: The server.
        stack: Ends the subscriptions.
    """

    def __init__(self, store: redis.Redis, stack: ExitStack) -> None:
        self._store = store
        self._stack = stack

    def listeners(self, channel: str) -> int:
        """How many connections are subscribed to it."""
        return int(self._store.pubsub_numsub(channel)[0][1])

    def names(self, pattern: str) -> list[str]:
        """Channels that anybody is subscribed to."""
        return [str(name, "utf-8") for name in self._store.pubsub_channels(pattern) if isinstance(name, bytes)]

    def wait_for_listeners(self, channel: str, count: int = 1) -> None:
        """Waits until so many instances hold calls for that task."""
        wait_until(lambda: self.listeners(channel) == count, f"{count} instances listen to {channel}")

    def wait_until_left(self, channel: str, since_s: float = 0.0) -> None:
        """The instances let go of the channel; `since_s` more than the time that the contract gives them."""
        wait_until(
            lambda: self.listeners(channel) == 0,
            f"nobody listens to {channel}",
            GONE_WITHIN_S + since_s + SLACK_S,
        )

    def listen(self, pattern: str) -> Messages:
        """Hears from now on what is published to matching channels."""
        subscription = self._stack.enter_context(self._store.pubsub())  # type: ignore[no-untyped-call]
        subscription.psubscribe(pattern)
        assert subscription.get_message(timeout=5)
        return Messages(subscription)

    def publish(self, channel: str, message: bytes) -> None:
        """Publishes as anybody could."""
        self._store.publish(channel, message)


class Messages:
    """A subscription to a pattern."""

    def __init__(self, subscription: PubSub) -> None:
        self._subscription = subscription

    def next(self, timeout_s: float = 5.0) -> tuple[str, bytes]:
        """The next message with its channel."""
        message = self._subscription.get_message(timeout=timeout_s)
        assert message is not None, "no message"
        return message["channel"].decode(), message["data"]

    def assert_no_more(self) -> None:
        """Everything that was published before this call has been read."""
        assert self._subscription.get_message(timeout=0.05) is None
