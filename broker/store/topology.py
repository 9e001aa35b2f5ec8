"""From a URL to an open connection on the right server, ready to talk: standalone, TLS, unix socket or Sentinel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from broker.errors import ConfigurationError
from broker.store.server import TLS_OPTIONS, Server, tls_context

SCHEMES: Final = "redis://, rediss://, unix:// or redis+sentinel://"
_SERVER_SCHEMES: Final = ("redis", "rediss", "unix")
_SENTINEL_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")


class Topology(ABC):
    """Where the master is. Several links may share one."""

    @staticmethod
    def from_url(url: str) -> Topology:
        """Reads the URL of one server, or of the sentinels that know which one is the master.

        One server: `redis://[[user]:password@]host[:port][/db]`, `rediss://` (TLS) or `unix://[…@]/path[?db=n]`.
        Sentinels: `redis+sentinel://[[user]:password@]host[:port],host[:port]/service[/db]`, `rediss+sentinel://` (TLS
        to sentinels and servers alike); user and password are the servers', the sentinels' own are the query options
        `sentinel_username` and `sentinel_password`.

        Special characters in user and password are percent-encoded. TLS takes redis-py's query options `ssl_ca_certs`,
        `ssl_ca_path`, `ssl_certfile`, `ssl_keyfile`, `ssl_password`, `ssl_cert_reqs` and `ssl_check_hostname`.

        Raises:
            ConfigurationError: The URL is not of that form, or of a kind this version does not connect to.
        """
        if url.partition("://")[0] in _SENTINEL_SCHEMES:
            # Imported here: most deployments have none.
            from broker.store.sentinel import SentinelTopology

            return SentinelTopology.from_sentinel_url(url)
        return Standalone(read_server(url))

    is_watched = False
    """Whether somebody knows when the master changes, and tells those who follow."""

    @property
    @abstractmethod
    def address(self) -> str:
        """The master, or who knows it, for messages to people; never holds a password."""

    @abstractmethod
    async def locate(self) -> Server:
        """The server to connect to now; asked for each new connection.

        Raises:
            StoreUnavailableError: Nobody knows just now.
        """

    def follow(self, on_moved: Callable[[str], None]) -> Callable[[], None]:
        """Has `on_moved` called with the master's address again and again, as it is found; gives what ends that."""
        return lambda: None


class Standalone(Topology):
    """One server, which is the master for ever."""

    def __init__(self, server: Server) -> None:
        self.server = server

    @property
    def address(self) -> str:
        """Where it is."""
        return self.server.address

    async def locate(self) -> Server:
        """The server."""
        return self.server


def read_server(url: str) -> Server:
    """Reads the URL of one server as redis-py does, whose import alone takes a tenth of a second.

    Query options that mean nothing here, such as `socket_timeout`, are left to the programs that they are for.

    Raises:
        ConfigurationError: It cannot be used.
    """
    scheme = url.partition("://")[0]
    if scheme.startswith("redis+"):
        raise ConfigurationError(f"{scheme}:// is not supported by this version: give one of {SCHEMES}.")
    try:
        return _read_server(scheme, url)
    except ValueError as error:
        raise ConfigurationError(f"The Redis URL cannot be used ({error}): give one of {SCHEMES}.") from None


def _read_server(scheme: str, url: str) -> Server:
    if scheme not in _SERVER_SCHEMES:
        raise ValueError("it begins with no scheme that is known")
    parts = urlsplit(url)
    # The first of several wins.
    options = dict(reversed(parse_qsl(parts.query)))
    tls_options = {name: value for name, value in options.items() if name in TLS_OPTIONS}
    if scheme == "unix":
        place: dict[str, Any] = {"path": unquote(parts.path) or None}
        database = options.get("db", "")
    else:
        place = {"host": unquote(parts.hostname or "127.0.0.1"), "port": parts.port or 6379}
        database = options.get("db") or parts.path.strip("/")
    if database and not database.isdecimal():
        raise ValueError(f"{database!r} is no number of a database")
    return Server(
        **place,
        tls=tls_context(tls_options) if scheme == "rediss" else None,
        tls_options=tls_options,
        username=unquote(parts.username or "") or None,
        password=unquote(parts.password or "") or None,
        database=int(database or 0),
    )
