"""Sentinel URLs, and whom of several sentinels to believe."""

from __future__ import annotations

import pytest

from broker.errors import ConfigurationError
from broker.store.sentinel import SentinelTopology, View, newest
from broker.store.server import Server
from broker.store.topology import Topology

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
