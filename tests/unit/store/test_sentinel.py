"""Sentinel URLs, whom of several sentinels to believe, and a link that goes where a real one says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import ConfigurationError, StoreUnavailableError
from broker.store.commands import Command
from broker.store.embedded import EmbeddedServer
from broker.store.link import Link
from broker.store.sentinel import SentinelTopology, View, newest
from broker.store.server import Server
from broker.store.topology import Topology
from tests.support.sentinel import SERVICE, SentinelProcess
from tests.support.server import OwnServer

OLD, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6379)


@pytest.mark.parametrize(
    ("url", "sentinels", "service", "server"),
    [
        ("redis+sentinel://s1:26380,s2:26381/main/3", [("s1", 26380), ("s2", 26381)], "main", Server(database=3)),
        ("redis+sentinel://s1,s2/main", [("s1", 26379), ("s2", 26379)], "main", Server()),
        ("redis+sentinel://[::1]:7,s2/main/", [("::1", 7), ("s2", 26379)], "main", Server()),
        ("redis+sentinel://us%40er:p%2C%3A%2F%40%20%25@s1,s2/main", [("s1", 26379), ("s2", 26379)], "main",
         Server(username="us@er", password="p,:/@ %")),
        ("redis+sentinel://:%E6%97%A5@s1/a%2Fb", [("s1", 26379)], "a/b", Server(password="日")),
    ],
)  # fmt: skip
def test_what_a_url_means(url: str, sentinels: list[tuple[str, int]], service: str, server: Server) -> None:
    topology = Topology.from_url(url)
    assert isinstance(topology, SentinelTopology)
    assert (topology.sentinels, topology.service, topology.server) == (sentinels, service, server)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://",
        "redis+sentinel://s1:26379",
        "redis+sentinel:///main",
        "redis+sentinel://s1,,s2/main",
        "redis+sentinel://s1:port/main",
        "redis+sentinel://:secret@s1:99999/main",
        "redis+sentinel://:secret@s1/main/name",
        "redis+sentinel://:secret@s1/main/0/1",
        "redis+sentinel://:secret@s1/main?sentinel_pasword=x",
        "rediss+sentinel://:secret@s1/main?ssl_ca_certs=/no/such/file",
    ],
)
def test_what_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Topology.from_url(url)
    assert str(refused.value).endswith(".")
    assert "secret" not in str(refused.value)


def test_tls_is_for_sentinels_and_servers() -> None:
    plain, tls = (Topology.from_url(f"{scheme}+sentinel://s1/main") for scheme in ("redis", "rediss"))
    assert isinstance(plain, SentinelTopology)
    assert isinstance(tls, SentinelTopology)
    assert plain.server.tls is None
    assert tls.server.tls is not None
    assert tls.server.client_options()["ssl"] is True


def test_an_address_tells_no_password() -> None:
    assert Topology.from_url("redis+sentinel://u:secret@s1,s2:7/main").address == "main of s1:26379, s2:7"


@pytest.mark.parametrize(
    ("views", "best"),
    [
        ([], None),
        ([View(OLD, 1, False), View(NEW, 2, False), View(OLD, 1, False)], View(NEW, 2, False)),
        ([View(OLD, 1, False), View(OLD, 1, True), View(OLD, 1, False)], View(OLD, 1, False)),
        ([View(OLD, 1, True), View(OLD, 1, True), View(OLD, 1, False)], View(OLD, 1, True)),
        ([View(OLD, 1, False), View(NEW, 2, True)], View(NEW, 2, True)),
    ],
)
def test_the_newest_configuration_wins(views: list[View], best: View | None) -> None:
    assert newest(views) == best


# A real sentinel


@pytest.fixture
def sentinel(tmp_path: Path, own_server: OwnServer) -> Iterator[SentinelProcess]:
    """One that lets in who knows its password, and watches a server."""
    process = SentinelProcess(tmp_path / "sentinel", ["requirepass p@ss"])
    try:
        process.start()
        watch(process, own_server())
        yield process
    finally:
        process.kill()


def watch(sentinel: SentinelProcess, server: EmbeddedServer) -> None:
    """Has the sentinel name this server as master from now on."""
    sentinel.ask("SENTINEL", "REMOVE", SERVICE, password="p@ss")
    assert sentinel.ask("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", str(server.port), "1", password="p@ss") == "OK"


def url_of(sentinel: SentinelProcess, password: str) -> str:
    # The other one does not answer.
    return f"redis+sentinel://127.0.0.1:{sentinel.port},127.0.0.1:1/{SERVICE}?sentinel_password={password}"


async def test_a_link_goes_where_the_master_is(sentinel: SentinelProcess, own_server: OwnServer) -> None:
    link = Link(Topology.from_url(url_of(sentinel, "p%40ss")), name="test")
    await link.open()
    try:
        await link.send(Command(("SET", "server", "first")))
        second = own_server()
        watch(sentinel, second)
        async with asyncio.timeout(5):
            while await link.send(Command(("GET", "server"), repeatable=True)) == b"first":  # noqa: ASYNC110 - the answer tells
                await asyncio.sleep(0.01)
        assert link.connections_made == 2
    finally:
        await link.close()


async def test_a_replica_is_refused_whoever_names_it(sentinel: SentinelProcess, own_server: OwnServer) -> None:
    watch(sentinel, own_server(options={"replicaof": "127.0.0.1 1"}))
    with pytest.raises(StoreUnavailableError, match=r"is a replica, not a master|No sentinel|for down"):
        await Link(Topology.from_url(url_of(sentinel, "p%40ss")), name="test").open(timeout=0.5)


async def test_a_sentinel_that_lets_nobody_in_names_no_master(sentinel: SentinelProcess) -> None:
    with pytest.raises(StoreUnavailableError, match="No sentinel names a master"):
        await Topology.from_url(url_of(sentinel, "guessed")).locate()
