"""pass_bell.lua on a real server."""

from __future__ import annotations

import asyncio

from broker import naming
from broker.store.duties import Duties, parking
from broker.store.link import Link
from broker.store.topology import Topology
from tests.support.store import Store, until


async def test_one_token_waits_at_most_and_not_for_long(store: Store) -> None:
    duties = Duties(store.link)
    for _ in range(3):
        await duties.pass_on("q")
    assert store.raw.llen(naming.wake_key("q")) == 1
    assert 0 < int(store.raw.pttl(naming.wake_key("q"))) <= 2_000


async def test_it_wakes_the_one_that_was_parked_first(redis_url: str, store: Store) -> None:
    duties = Duties(store.link)
    links = [Link(Topology.from_url(redis_url), name=name) for name in ("first", "second")]
    parked: list[asyncio.Future[object]] = []
    for number, link in enumerate(links, 1):
        await link.open()
        parked.append(link.send(parking(["other", "q"], 20)))
        await until(lambda number=number: store.raw.info("clients")["blocked_clients"] == number, "it is parked")  # type: ignore[misc]
    await duties.pass_on("q")
    assert await parked[0] == [naming.wake_key("q").encode(), b"1"]
    assert not parked[1].done()
    assert store.raw.exists(naming.wake_key("q")) == 0
    for link in links:
        await link.close()
    await asyncio.gather(*parked, return_exceptions=True)
