"""The first words on a new connection: login, name, scripts, and whether this is a server to work with."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final

from broker.errors import ConfigurationError, StoreError, StoreUnavailableError
from broker.store.batches import joined
from broker.store.commands import Argument, Awaited, Call, Command, Reply
from broker.store.connection import Connection
from broker.store.server import Server

OLDEST_SERVER: Final = {"redis": (7, 0), "valkey": (7, 2)}

_identity: Final = re.compile(rb"^(?:run_id|master_replid):(\w+)\r$", re.MULTILINE)


async def greet(
    connection: Connection, server: Server, *, name: str, scripts: Sequence[str], identifies: bool, deadline: float
) -> None:
    """Logs in, loads the scripts and looks at who answers.

    Args:
        connection: New.
        server: Where it goes.
        name: For CLIENT LIST.
        scripts: Sources to load.
        identifies: Whether `connection.identity` has to be known.
        deadline: In the loop's time.

    Raises:
        ConfigurationError: The server is too old, or refuses the login.
        StoreUnavailableError: It is a replica, has no place for another client, or closed the connection.
    """
    asks: list[tuple[Argument, ...]] = [("INFO", "server"), ("INFO", "replication")] if identifies else []
    commands = [*server.greeting(name), *asks, *[("SCRIPT", "LOAD", source) for source in scripts]]
    replies = await _send(connection, server, commands, deadline)
    _check_server(server, replies[0])
    if identifies:
        told = [reply for reply in replies if isinstance(reply, bytes)]
        connection.identity = b"-".join(part for reply in told for part in _identity.findall(reply))


def unusable(server: Server, reason: str) -> ConfigurationError:
    """The error of a server that has to be looked at by somebody."""
    return ConfigurationError(
        f"Redis at {server.address} cannot be used ({reason}): check user, password and ACL, or run `broker doctor`."
    )


async def _send(
    connection: Connection, server: Server, commands: Sequence[tuple[Argument, ...]], deadline: float
) -> list[Reply]:
    loop = asyncio.get_running_loop()
    receivers = [Awaited(loop.create_future()) for _ in commands]
    calls = [
        Call(Command(arguments), receiver, deadline) for arguments, receiver in zip(commands, receivers, strict=True)
    ]
    connection.write(b"".join(call.packed for call in joined(calls)), calls)
    everything = asyncio.gather(*[receiver.future for receiver in receivers])
    # Of a connection that is lost meanwhile nobody asks for them any more.
    everything.add_done_callback(_forget_outcome)
    parts: list[asyncio.Future[Any]] = [everything, connection.lost]
    await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
    if not everything.done():
        everything.cancel()
        raise StoreUnavailableError(f"{server.address} closed the connection during the greeting.")
    try:
        replies: list[Reply] = everything.result()
    except StoreError as error:
        if "max number of clients" in str(error):
            raise StoreUnavailableError(f"{server.address} has no place for another client.") from None
        raise unusable(server, str(error)) from None
    return replies


def _forget_outcome(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _check_server(server: Server, hello: Reply) -> None:
    """Refuses a server that is too old (a setting to change) or a replica (which may pass, after a failover)."""
    try:
        kind, version, role = hello[b"server"].decode(), hello[b"version"].decode(), hello[b"role"]
    except (TypeError, KeyError, AttributeError):
        raise unusable(server, "its greeting is not that of a Redis server") from None
    oldest = OLDEST_SERVER.get(kind, (7, 0))
    if tuple(int(part) for part in version.split(".")[:2]) < oldest:
        raise ConfigurationError(
            f"{server.address} runs {kind} {version}; Redis 7.0 or Valkey 7.2 is the oldest that works here."
        )
    if role != b"master":
        raise StoreUnavailableError(f"{server.address} is a replica, not a master.")
