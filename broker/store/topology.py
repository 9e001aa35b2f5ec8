"""From a URL to an open connection on the right server, ready to talk: standalone, TLS or unix socket."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from broker.errors import ConfigurationError

_SCHEMES: Final = "redis://, rediss:// or unix://"


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is and how to log in. `open` is called again for each reconnect."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str | None = None
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = None
    database: int = 0

    @classmethod
    def from_url(cls, url: str) -> Topology:
        """Reads `redis://[[user]:password@]host[:port][/db]`, `rediss://` (TLS) or `unix://[…@]/path[?db=n]`.

        Special characters in user and password are percent-encoded. `rediss://` takes redis-py's query options
        `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` and `ssl_cert_reqs`.

        Raises:
            ConfigurationError: The URL is not of that form, or of a kind this version does not connect to.
        """
        options = _parse(url)
        return cls(
            host=options.get("host") or "127.0.0.1",
            port=options.get("port") or 6379,
            path=options.get("path"),
            tls=_tls(options) if url.startswith("rediss://") else None,
            username=options.get("username"),
            password=options.get("password"),
            database=options.get("db") or 0,
        )

    @property
    def address(self) -> str:
        """The server for messages to people; never holds a password."""
        return self.path or f"{self.host}:{self.port}"

    async def open(self, protocol_factory: Callable[[], asyncio.Protocol]) -> None:
        """Opens the transport; the protocol learns of it by `connection_made`.

        Raises:
            OSError: Nobody answers there.
        """
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(protocol_factory, self.path)
        else:
            await loop.create_connection(protocol_factory, self.host, self.port, ssl=self.tls)

    def greeting(self, name: str) -> list[tuple[str | int, ...]]:
        """The first commands on a new connection: RESP3, login, a name for CLIENT LIST, the database, and a PING.

        The PING fails while the server still loads its data, when HELLO does not.
        """
        hello: tuple[str | int, ...] = ("HELLO", 3)
        if self.password is not None:
            hello = (*hello, "AUTH", self.username or "default", self.password)
        select = [("SELECT", self.database)] if self.database else []
        return [(*hello, "SETNAME", name), *select, ("PING",)]


def _parse(url: str) -> dict[str, Any]:
    # Imported here: redis-py takes a tenth of a second to import, and `broker --help` needs no URL.
    from redis.connection import parse_url

    try:
        parts = urlsplit(url)
        if parts.scheme.startswith("redis+"):
            raise ConfigurationError(f"{parts.scheme}:// is not supported by this version: give one of {_SCHEMES}.")
        options = dict(parse_url(url))  # type: ignore[no-untyped-call]
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"The Redis URL cannot be used ({error}): give one of {_SCHEMES}.") from None
    if parts.scheme != "unix" and parts.path.strip("/") and "db" not in options:
        # redis-py ignores a database that is no number.
        raise ConfigurationError(f"{parts.path!r} names no database: a Redis URL ends with its number, such as /0.")
    return options


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    requirement = options.get("ssl_cert_reqs", "required")
    if requirement not in ("required", "none"):
        raise ConfigurationError(f"ssl_cert_reqs={requirement} cannot be used: give `required` or `none`.")
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if options.get("ssl_certfile"):
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        raise ConfigurationError(
            f"The certificates of the Redis URL cannot be read ({error}): check the paths."
        ) from None
    if requirement == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
