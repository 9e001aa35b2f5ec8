"""The part of `BrokerClient` that publishes values and watches them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from broker.client.answers import published_of, version_of
from broker.client.calls import publish_call, unpublish_call
from broker.client.session import Session
from broker.published import NOTHING, Published


class WatchingClient:
    """Publishes and watches through any API instance.

    Args:
        session: What sends.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def publish(self, namespace: str, value: Any = None, *, value_json: bytes | str | None = None) -> str:
        """Publishes a value, which is kept until the next one, and answers whoever watches; returns its version.

        Not repeated when its answer is lost, since that could undo what others have published meanwhile.

        Args:
            namespace: 1 to 128 letters, digits, `_`, `.` or `-`, the first a letter or digit.
            value: Any JSON-serializable value.
            value_json: The value as JSON text instead, which travels byte for byte.

        Raises:
            QueueFullError: There are as many namespaces as there may be.
            StoreUnavailableError: The API has no store; with `may_have_run` it may be published nevertheless.
            ApiError: Nothing answered; it may be published nevertheless.
        """
        return version_of(await self._session.ask(publish_call(namespace, value, value_json)))

    async def unpublish(self, namespace: str) -> None:
        """Deletes a namespace, if there is one; its version is "0" then. Raises as `publish` does."""
        await self._session.ask(unpublish_call(namespace))

    async def watch(
        self, namespace: str, version: str | None = None, *, timeout: float | None = None
    ) -> Published | None:
        """Waits until a namespace has another version; None when the time was over first.

        Args:
            namespace: What to watch.
            version: The one that is known, "0" for none: then the present value comes at once. Without a version, the
                next publish is waited for, whatever there is now.
            timeout: Seconds to wait at most, over several calls if need be; 0 asks once; without it there is no end.

        Raises:
            BrokerError: The API refused the call, or nothing answered.
        """
        answer = await self._session.until_changed([(namespace, version)], self._session.end_after(timeout))
        return None if answer is None else published_of(answer)[0]

    async def watch_several(self, versions: Mapping[str, str], *, timeout: float | None = None) -> list[Published]:
        """The same for up to 100 namespaces: those that have another version; empty when the time was over first.

        Args:
            versions: The known version of each, "0" for none.
            timeout: As above.
        """
        known = list(versions.items())
        answer = await self._session.until_changed(known, self._session.end_after(timeout))
        return [] if answer is None else published_of(answer)

    async def follow(self, namespace: str, version: str = NOTHING) -> AsyncIterator[Published]:
        """What a namespace holds now, if anything, and then each change, until nobody asks for more.

        What changes several times in a moment comes once, as it is then; nothing older comes after something newer.

        Args:
            namespace: What to follow.
            version: The last that is known: begins after it.

        Raises:
            BrokerError: The API refused the call, or nothing answered for the client's patience.
        """
        while True:
            published = await self.watch(namespace, version)
            if published is not None:
                version = published.version
                yield published
