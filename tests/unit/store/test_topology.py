"""From URLs to connections: what each part means, what is refused, and that sockets of each kind connect."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import pytest
import redis
from redis.connection import parse_url

from broker.errors import ConfigurationError, StoreUnavailableError
from broker.store.commands import Command
from broker.store.doctor import examine
from broker.store.embedded import free_port
from broker.store.link import Link
from broker.store.server import Server
from broker.store.topology import Topology, read_server
from tests.support.server import OwnServer

URLS: Final = [
    ("redis://localhost:6379/0", Server(host="localhost")),
    ("redis://h", Server(host="h")),
    ("redis://", Server()),
    ("redis://h:7000/3", Server(host="h", port=7000, database=3)),
    ("redis://h?db=3", Server(host="h", database=3)),
    ("redis://h/2?db=3&db=4", Server(host="h", database=3)),
    ("redis://user:@h", Server(host="h", username="user")),
    ("redis://:secret@h", Server(host="h", password="secret")),
    ("redis://user:secret@h", Server(host="h", username="user", password="secret")),
    ("redis://us%40er:p%3A%2F%40%20%25@h", Server(host="h", username="us@er", password="p:/@ %")),
    ("redis://:%E6%97%A5@h", Server(host="h", password="日")),
    ("redis://[::1]:7000", Server(host="::1", port=7000)),
    ("unix:///run/a%20b.sock", Server(path="/run/a b.sock")),
    ("unix:///run/redis.sock", Server(path="/run/redis.sock")),
    ("unix://user:secret@/run/redis.sock?db=2",
     Server(path="/run/redis.sock", username="user", password="secret", database=2)),
]  # fmt: skip


@pytest.mark.parametrize(("url", "server"), URLS)
def test_what_a_url_means(url: str, server: Server) -> None:
    assert read_server(url) == server


@pytest.mark.parametrize("url", [url for url, _ in URLS])
def test_a_url_means_what_it_means_to_redis_py(url: str) -> None:
    meant = {name: value for name, value in parse_url(url).items() if name != "connection_class"}  # type: ignore[no-untyped-call]
    server = read_server(url)
    found = {**msgspec.structs.asdict(server), "db": server.database}
    assert {name: found[name] for name in meant} == meant


def test_what_means_nothing_here_is_left_to_others() -> None:
    assert read_server("redis://h?socket_timeout=5&health_check_interval=1") == Server(host="h")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://h:port",
        "redis://h:99999",
        "redis://[::1",
        "redis://h/name",
        "redis://h?db=name",
        "redis://h/²",
        "redis:h",
        "rediss://h?ssl_ca_certs=/no/such/file",
        "rediss://h?ssl_certfile=/no/such/file",
        "rediss://h?ssl_cert_reqs=perhaps",
    ],
)
def test_what_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Topology.from_url(url)
    assert str(refused.value).endswith(".")


def test_what_this_version_does_not_connect_to() -> None:
    with pytest.raises(
        ConfigurationError, match=r"not supported .* redis://, rediss://, unix:// or redis\+sentinel://"
    ):
        Topology.from_url("redis+cluster://h:6379,i:6379")


@pytest.mark.parametrize("url", ["redis://:secret@h:port", "redis+sentinel://:secret@h", "http://:secret@h"])
def test_a_refusal_tells_no_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Topology.from_url(url)
    assert "secret" not in str(refused.value)


def test_an_address_tells_no_password() -> None:
    assert Topology.from_url("redis://user:secret@h:7").address == "h:7"
    assert Topology.from_url("unix://user:secret@/run/redis.sock").address == "/run/redis.sock"


# TLS


def test_tls_checks_certificates_by_default() -> None:
    tls = read_server("rediss://h").tls
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert read_server("redis://h").tls is None


def test_tls_without_checks_has_to_be_asked_for() -> None:
    tls = read_server("rediss://h?ssl_cert_reqs=none").tls
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_NONE, False)


# Greetings


@pytest.mark.parametrize(
    ("server", "hello"),
    [
        (Server(), ("HELLO", 3, "SETNAME", "me")),
        (Server(password="pw"), ("HELLO", 3, "AUTH", "default", "pw", "SETNAME", "me")),
        (Server(username="u", password="pw"), ("HELLO", 3, "AUTH", "u", "pw", "SETNAME", "me")),
        (Server(password=""), ("HELLO", 3, "AUTH", "default", "", "SETNAME", "me")),
    ],
)
def test_a_greeting_logs_in(server: Server, hello: tuple[str | int, ...]) -> None:
    assert server.greeting("me") == [hello, ("PING",)]


def test_a_greeting_selects_the_database() -> None:
    assert Server(database=3).greeting("me")[1] == ("SELECT", 3)


# Connections


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    """Closes at the end what the test opened."""
    async with AsyncExitStack() as stack:
        yield stack


async def opened(url: str, closing: AsyncExitStack) -> Link:
    link = Link(Topology.from_url(url), name="test")
    closing.push_async_callback(link.close)
    await link.open()
    return link


async def test_a_unix_socket(own_server: OwnServer, tmp_path: Path, closing: AsyncExitStack) -> None:
    path = tmp_path / "redis.sock"
    own_server(options={"unixsocket": str(path), "requirepass": "se/cret"})
    link = await opened(f"unix://:se%2Fcret@{path}?db=2", closing)
    assert await link.send(Command(("ECHO", "x"))) == b"x"
    assert b"db=2" in await link.send(Command(("CLIENT", "INFO")))


async def test_a_database_of_its_own(redis_url: str, closing: AsyncExitStack) -> None:
    third = await opened(redis_url.removesuffix("/0") + "/3", closing)
    first = await opened(redis_url, closing)
    await third.send(Command(("SET", "k", "v")))
    assert await first.send(Command(("GET", "k"))) is None
    assert await third.send(Command(("GETDEL", "k"))) == b"v"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for 127.0.0.1 that is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    try:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("There is no openssl to make a certificate with.")
    return folder


@pytest.fixture
async def tls_port(redis_url: str, certificate: Path, closing: AsyncExitStack) -> int:
    """A port that takes TLS in front of the empty server: not every server is built with it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    target = read_server(redis_url)
    conversations: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        server_reader, server_writer = await asyncio.open_connection(target.host, target.port)
        try:
            await asyncio.gather(_copy(reader, server_writer), _copy(server_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (server_writer, writer):
                each.transport.abort()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=context)

    async def stop() -> None:
        server.close()
        for conversation in conversations:
            conversation.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)

    closing.push_async_callback(stop)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    raise ConnectionResetError


async def test_tls_with_a_known_authority(tls_port: int, certificate: Path, closing: AsyncExitStack) -> None:
    link = await opened(f"rediss://127.0.0.1:{tls_port}?ssl_ca_certs={certificate / 'cert.pem'}", closing)
    assert await link.send(Command(("ECHO", "x" * 100_000))) == b"x" * 100_000


async def test_tls_without_checks(tls_port: int, closing: AsyncExitStack) -> None:
    link = await opened(f"rediss://127.0.0.1:{tls_port}?ssl_cert_reqs=none", closing)
    assert await link.send(Command(("ECHO", "x"))) == b"x"


async def test_tls_with_an_unknown_authority(tls_port: int, closing: AsyncExitStack) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's side of the failed handshake
    link = Link(Topology.from_url(f"rediss://127.0.0.1:{tls_port}"), name="test")
    with pytest.raises(Exception, match=r"(?i)certificate"):
        await link.open(timeout=0.5)


PASSWORD = "p@ss:w/ö%?#[]&= "


@pytest.fixture
def strict_server(own_server: OwnServer, certificate: Path) -> str:
    """A server that asks for a client's certificate, and for the password of the user `us@er`: its address."""
    port = free_port()
    files = {"tls-cert-file": "cert.pem", "tls-key-file": "key.pem", "tls-ca-cert-file": "cert.pem"}
    options = {name: str(certificate / file) for name, file in files.items()}
    try:
        server = own_server(options={"tls-port": str(port), "tls-auth-clients": "yes", **options})
    except ConfigurationError as error:
        pytest.skip(f"This server is not built with TLS: {error}")
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "us@er", "on", f">{PASSWORD}", "+@all", "~*", "&*")
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize("is_examined", [False, True])
async def test_a_client_certificate_and_a_password_of_special_characters(
    strict_server: str, certificate: Path, closing: AsyncExitStack, is_examined: bool
) -> None:
    files = f"ssl_ca_certs={certificate / 'cert.pem'}&ssl_certfile={certificate / 'cert.pem'}"
    login = f"{quote('us@er', safe='')}:{quote(PASSWORD, safe='')}"
    url = f"rediss://{login}@{strict_server}/0?{files}&ssl_keyfile={certificate / 'key.pem'}"
    if is_examined:
        assert "fail" not in {finding.status for finding in examine(url)}
    else:
        link = await opened(url, closing)
        assert await link.send(Command(("ACL", "WHOAMI"))) == b"us@er"


async def test_without_a_client_certificate(strict_server: str) -> None:
    link = Link(Topology.from_url(f"rediss://{strict_server}?ssl_cert_reqs=none"), name="test")
    with pytest.raises(StoreUnavailableError):
        await link.open(timeout=0.5)
