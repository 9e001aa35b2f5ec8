"""A real browser's `EventSource` follows a task."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

import pytest

from tests.integration.api.conftest import Deployment
from tests.support.api import ApiProcess
from tests.support.browser import Site, find_browser, looking_at
from tests.support.store import LONG_MS, open_store, succeeded, until

EVENTS: Final = 30
# The first stream ends in the middle of an event, the second behind a few.
CUTS: Final = (700, 900)
PAGE: Final = """<!doctype html><script>
const seen = [], source = new EventSource("/taskEvents?uuid=UUID");
for (const kind of ["progress", "state", "reset", "message"])
  source.addEventListener(kind, event => seen.push([kind, event.lastEventId, JSON.parse(event.data)]));
source.onerror = () => {
  // A browser that meant to come back would have done so by then.
  if (source.readyState === EventSource.CLOSED)
    setTimeout(() => fetch("/report", {method: "POST", body: JSON.stringify([seen, source.readyState])}), 1500);
};
</script>"""


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
async def test_event_source_sees_each_event_once_and_stops_for_good(
    deployment: Deployment, instances: tuple[ApiProcess, ApiProcess], tmp_path: Path, uuid: str, queue: str
) -> None:
    async with (
        open_store(deployment.server.url) as store,
        Site(PAGE.replace("UUID", uuid), [one.url for one in instances], CUTS) as site,
    ):
        await store.create(uuid, queue=queue)
        (claimed,) = await store.claim(queue=queue)
        for number in range(EVENTS):
            await store.transitions.extend(uuid, claimed.lease, LONG_MS, b'{\n"n": %d}' % number)
        with looking_at(site.url, tmp_path):
            await until(lambda: site.streams == len(CUTS) + 1, "the browser has come back after each cut")
            await store.transitions.finish(uuid, succeeded(), lease=claimed.lease)
            async with asyncio.timeout(20):
                seen, ready_state = json.loads(await site.report)
    assert [data["n"] for kind, _, data in seen if kind == "progress"] == list(range(EVENTS))
    assert [kind for kind, _, _ in seen[EVENTS:]] == ["state"]
    assert [event_id for _, event_id, _ in seen] == [f"{claimed.created_ms:x}-{n}" for n in range(1, EVENTS + 2)]
    assert seen[-1][2]["state"] == "succeeded"
    # The last of them was a 204.
    assert (ready_state, site.streams) == (2, len(CUTS) + 2)
