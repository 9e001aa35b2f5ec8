"""Real servers for the tests: one that all tests of a process share, and ones of a test's own to kill and restart."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import redis

from broker.store.embedded import EmbeddedServer


class OwnServer(Protocol):
    """What the fixture `own_server` gives: call it for a server that is running and stops with the test."""

    def __call__(
        self, data_folder: Path | None = None, *, options: Mapping[str, str] | None = None
    ) -> EmbeddedServer: ...


class ServerStarter:
    """Starts servers that belong to one test; `stack` stops them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, data_folder: Path | None = None, *, options: Mapping[str, str] | None = None) -> EmbeddedServer:
        """Starts one. Without a data folder it keeps nothing between `stop` or `kill` and the next `start`."""
        return self._stack.enter_context(EmbeddedServer(data_folder, options=options))


def make_empty(url: str) -> None:
    """Leaves no key and no script on the server."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
        client.script_flush()
