"""may_hear.lua on a real server."""

from __future__ import annotations

from broker import naming
from broker.store import scripts
from broker.store.link import Link
from broker.store.queries import Queries
from broker.store.topology import Topology
from tests.support.store import Store

PATTERNS = [naming.request_pattern(queue) for queue in ("createbranch", "other")]


async def test_who_may_do_everything_may_hear_everything(store: Store) -> None:
    assert await store.queries.may_hear(PATTERNS) == [True, True]


async def test_a_pattern_must_be_allowed_letter_for_letter(store: Store, redis_url: str) -> None:
    rules = ("resetchannels", "&createbranch-request-*", "&other-request-*x", "&*-response-*")
    store.raw.execute_command("ACL", "SETUSER", "some", "on", "nopass", "~*", "+@all", *rules)  # type: ignore[no-untyped-call]
    topology = Topology.from_url(redis_url.replace("://", "://some:x@"))
    link = Link(topology, name="test", scripts=(scripts.MAY_HEAR.source,))
    await link.open()
    try:
        assert await Queries(link).may_hear(PATTERNS) == [True, False]
    finally:
        await link.close()
        store.raw.execute_command("ACL", "DELUSER", "some")  # type: ignore[no-untyped-call]
