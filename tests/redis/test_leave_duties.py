"""leave_duties.lua on a real server."""

from __future__ import annotations

from broker import naming
from broker.store.duties import Duties
from tests.support.store import LONG_MS, Store


async def test_whoever_listens_hands_on_and_wakes_one(store: Store) -> None:
    duties = Duties(store.link)
    await duties.take("w1", ("a", "b"), held_ms=LONG_MS, turn_ms=LONG_MS)
    await duties.take("w2", ("c",), held_ms=LONG_MS, turn_ms=LONG_MS)
    await duties.leave("w1", ("a", "b", "c", "unknown"))
    keys = {naming.duty_key(queue): store.raw.get(naming.duty_key(queue)) for queue in "abc"}
    assert list(keys.values()) == [None, None, "w2"]
    assert [store.raw.llen(naming.wake_key(queue)) for queue in "abc"] == [1, 1, 0]
