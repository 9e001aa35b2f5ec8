"""The master as Redis Sentinel knows it: found for each new connection, and looked for while there are any.

All sentinels are asked, and the newest configuration wins: a sentinel that was cut off with an old master goes on
naming it. The one that leads a failover names the new master a second or two before the others do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from broker.errors import ConfigurationError, StoreUnavailableError
from broker.store.server import TLS_OPTIONS, Server, tls_client_options, tls_context
from broker.store.topology import Topology

log = logging.getLogger("broker.store")

SENTINEL_PORT: Final = 26_379
LOOK_EVERY_S: Final = 0.5
"""How often the sentinels are asked who the master is, while connections are open."""
ANSWER_DEADLINE_S: Final = 1.0
STRAGGLER_S: Final = 0.1
"""How long the others are waited for when most of the sentinels have answered."""
FORM: Final = "redis+sentinel://[[user]:password@]host[:port],host[:port]/service[/db]"
_OPTIONS: Final = TLS_OPTIONS | {"sentinel_username", "sentinel_password"}

Address = tuple[str, int]


class View(msgspec.Struct, frozen=True):
    """What one sentinel says: the master, how new its configuration is, and whether it holds the master for down."""

    address: Address
    epoch: int
    is_down: bool


class SentinelTopology(Topology):
    """The master of a service that sentinels watch.

    Args:
        sentinels: Where they are.
        service: What they call the master.
        server: How to connect to a server and log in; its host and port are the sentinels' to say.
        sentinel_options: How to log in at the sentinels, as redis-py has it.
    """

    is_watched = True

    def __init__(
        self, sentinels: Sequence[Address], service: str, server: Server, sentinel_options: dict[str, Any]
    ) -> None:
        self.sentinels = sentinels
        self.service = service
        self.server = server
        self._sentinel_options = sentinel_options
        self._clients: list[Redis] = []
        self._callbacks: list[Callable[[str], None]] = []
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    def from_sentinel_url(cls, url: str) -> SentinelTopology:
        """See `Topology.from_url`. Raises ConfigurationError."""
        try:
            return _read_url(url)
        except ValueError as error:
            raise ConfigurationError(f"The Redis URL cannot be used ({error}): it has the form {FORM}.") from None

    @property
    def address(self) -> str:
        """The service and its sentinels."""
        return f"{self.service} of {', '.join(f'{host}:{port}' for host, port in self.sentinels)}"

    async def locate(self) -> Server:
        """The present master.

        Raises:
            StoreUnavailableError: No sentinel answers, or they hold the master for down.
        """
        best = newest(await self.views())
        if best is None:
            raise StoreUnavailableError(f"No sentinel names a master for {self.address}.")
        server = self._server_at(best.address)
        if best.is_down:
            raise StoreUnavailableError(f"The sentinels hold the master {server.address} for down.")
        return server

    async def views(self) -> list[View]:
        """What each sentinel that answers says."""
        clients = self._clients or self._open_clients()
        try:
            return await self._ask(clients)
        finally:
            if clients is not self._clients:
                await _close(clients)

    def follow(self, on_moved: Callable[[str], None]) -> Callable[[], None]:
        """See `Topology.follow`; the sentinels are asked for as long as anybody follows."""
        self._callbacks.append(on_moved)
        if self._watch is None:
            self._clients = self._open_clients()
            self._watch = asyncio.create_task(self._look_forever(self._clients), name="sentinel watch")

        def unfollow() -> None:
            self._callbacks.remove(on_moved)
            if not self._callbacks and self._watch is not None:
                self._watch.cancel()
                self._watch, self._clients = None, []

        return unfollow

    async def _look_forever(self, clients: list[Redis]) -> None:
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                try:
                    await self._look(clients)
                except Exception:
                    # Whatever it was: a process that follows no failover is of no use after one.
                    log.exception("The sentinels could not be asked in a way that nobody foresaw.")
        finally:
            await _close(clients)

    async def _look(self, clients: list[Redis]) -> None:
        best = newest(await self._ask(clients))
        if best is not None and not best.is_down:
            address = self._server_at(best.address).address
            for callback in list(self._callbacks):
                callback(address)

    async def _ask(self, clients: Sequence[Redis]) -> list[View]:
        asked = {asyncio.create_task(self._view(client)) for client in clients}
        try:
            views: list[View] = []
            waiting, left_s = asked, ANSWER_DEADLINE_S
            while waiting and left_s > 0:
                began = asyncio.get_running_loop().time()
                done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                views += [view for task in done if (view := task.result()) is not None]
                left_s -= asyncio.get_running_loop().time() - began
                if len(views) * 2 > len(asked):
                    left_s = min(left_s, STRAGGLER_S)
                if not done:
                    break
            return views
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _view(self, client: Redis) -> View | None:
        with suppress(RedisError, OSError, TimeoutError, ValueError, KeyError, TypeError):
            ask: Any = client.execute_command  # redis-py leaves it untyped
            address = await ask("SENTINEL GET-MASTER-ADDR-BY-NAME", self.service)
            state = await ask("SENTINEL MASTER", self.service)
            if address is not None:
                return _view_of((_text(address[0]), int(address[1])), state)
        return None

    def _open_clients(self) -> list[Redis]:
        sentinel: Any = Sentinel(list(self.sentinels), sentinel_kwargs=self._sentinel_options)  # type: ignore[no-untyped-call]
        return list(sentinel.sentinels)

    def _server_at(self, address: Address) -> Server:
        return msgspec.structs.replace(self.server, host=address[0], port=address[1])


def newest(views: Sequence[View]) -> View | None:
    """The view of the newest configuration; the master is down when most of those who share that view say so."""
    if not views:
        return None
    epoch = max(view.epoch for view in views)
    latest = [view for view in views if view.epoch == epoch]
    is_down = sum(view.is_down for view in latest) * 2 > len(latest)
    return msgspec.structs.replace(latest[0], is_down=is_down)


def _view_of(address: Address, state: dict[str, Any]) -> View:
    # Of a failover under way `address` is the new master, and the state still the old one's.
    is_same = (state["ip"], int(state["port"])) == address
    is_down = bool(state["is_sdown"] or state["is_odown"] or not state["is_master"])
    return View(address, int(state["config-epoch"]), is_same and is_down)


async def _close(clients: Sequence[Redis]) -> None:
    await asyncio.gather(*[client.aclose() for client in clients], return_exceptions=True)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# URLs -----------------------------------------------------------------------------------------------------------------


def _read_url(url: str) -> SentinelTopology:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("it names no service")
    if database and not database.isdigit():
        raise ValueError(f"{database!r} is no number of a database")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise ValueError(f"the option {unknown[0]} is not known; there are {', '.join(sorted(_OPTIONS))}")
    username, colon, password = credentials.partition(":")
    tls_options = {name: value for name, value in options.items() if name in TLS_OPTIONS}
    is_tls = parts.scheme == "rediss+sentinel"
    server = Server(
        tls=tls_context(tls_options) if is_tls else None,
        tls_options=tls_options,
        username=unquote(username) or None,
        password=unquote(password) if colon else None,
        database=int(database or 0),
    )
    return SentinelTopology(
        list(_addresses(hosts)), unquote(service), server, _sentinel_options(options, tls_options if is_tls else None)
    )


def _addresses(hosts: str) -> Iterator[Address]:
    for text in hosts.split(","):
        # urlsplit knows the brackets of IPv6 and refuses what is no port.
        one = urlsplit(f"//{text}")
        if not one.hostname:
            raise ValueError("a sentinel has no host")
        yield one.hostname, one.port or SENTINEL_PORT


def _sentinel_options(options: dict[str, str], tls_options: dict[str, str] | None) -> dict[str, Any]:
    tls = {} if tls_options is None else tls_client_options(tls_options)
    return {
        "username": options.get("sentinel_username"),
        "password": options.get("sentinel_password"),
        "socket_timeout": ANSWER_DEADLINE_S,
        "socket_connect_timeout": ANSWER_DEADLINE_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        **tls,
    }
