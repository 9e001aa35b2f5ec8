"""The types of ASGI, as far as they are used here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


CONNECTION: Final = "broker.connection"
"""Where a request's scope has its `Connection`, on this project's own server."""


class Connection(Protocol):
    """What a held call needs of the connection that it came by."""

    on_lost: Callable[[], None] | None
    """Called when the socket is closed; set by the one call that is being answered."""
    transport: Any


class ClientGoneError(Exception):
    """The caller closed its socket: there is nobody to answer."""
