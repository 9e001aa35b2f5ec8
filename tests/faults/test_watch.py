"""The stories of `python -m tests.faults.watch`, small."""

from __future__ import annotations

from pathlib import Path

from tests.faults.proxy import Drop
from tests.faults.watch import poll, release, two_instances


async def test_watches_on_two_instances_under_faults(tmp_path: Path) -> None:
    async with two_instances(tmp_path) as two:
        released = await release(two, 400)
        polled = await poll(two, 200, 6, drop=Drop.QUIETLY, cuts=True)
    assert released.right == released.answers == 400
    assert polled.messages_lost > 0
    assert polled.older_after_newer == polled.without_the_last == 0
