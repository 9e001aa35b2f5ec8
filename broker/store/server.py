"""One server: where it is, how it is reached, and how to log in there."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from broker.errors import ConfigurationError

TLS_OPTIONS: Final = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_cert_reqs",
        "ssl_check_hostname",
    }
)
"""Query options of a URL, as redis-py has them."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is and how to log in. `tls_options` are those of `TLS_OPTIONS` that were given."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str | None = None
    tls: ssl.SSLContext | None = None
    tls_options: Mapping[str, Any] = {}
    username: str | None = None
    password: str | None = None
    database: int = 0

    @property
    def address(self) -> str:
        """The server for messages to people; never holds a password."""
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

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

    def client_options(self) -> dict[str, Any]:
        """The same for a client of redis-py, as keyword arguments."""
        where: dict[str, Any] = {"host": self.host, "port": self.port}
        if self.path is not None:
            where = {"unix_socket_path": self.path}
        if self.tls is not None:
            where |= tls_client_options(self.tls_options)
        return {**where, "username": self.username, "password": self.password, "db": self.database}


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """What `rediss://` connects with.

    Args:
        options: Any of `TLS_OPTIONS`.

    Raises:
        ConfigurationError: An option cannot be used, or a file of it cannot be read.
    """
    requirement = options.get("ssl_cert_reqs", "required")
    if requirement not in ("required", "none"):
        raise ConfigurationError(f"ssl_cert_reqs={requirement} cannot be used: give `required` or `none`.")
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
        if options.get("ssl_certfile"):
            # Never asked for on a terminal: an encrypted key without a password is refused.
            password = options.get("ssl_password", "")
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), password=password)
    except OSError as error:
        raise ConfigurationError(
            f"The certificates of the Redis URL cannot be read ({error}): check the paths."
        ) from None
    if requirement == "none" or not _is_true(options.get("ssl_check_hostname", True)):
        context.check_hostname = False
    if requirement == "none":
        context.verify_mode = ssl.CERT_NONE
    return context


def tls_client_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a client of redis-py, as keyword arguments."""
    given = {name: value for name, value in options.items() if name != "ssl_check_hostname"}
    requires = options.get("ssl_cert_reqs", "required") == "required"
    checks = requires and _is_true(options.get("ssl_check_hostname", True))
    return {"ssl": True, **given, "ssl_check_hostname": checks}


def _is_true(value: Any) -> bool:
    return str(value).lower() not in ("", "0", "f", "false", "n", "no", "off")
