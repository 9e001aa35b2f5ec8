"""One publish to ten thousand watchers on two instances: how soon the last of them has the value."""

from __future__ import annotations

import json
import time
from typing import Final

from tests.bench import wire
from tests.bench.budget import Budget
from tests.bench.deployment import deployed, until_held
from tests.bench.figures import Figures, percentile
from tests.bench.wire import Wire

WATCHERS: Final = 10_000
NAMESPACE: Final = "bench"
SETTLE_S: Final = 0.5
"""After the last watch is held: until the instances have done what was left to do."""
PUBLISHES: Final = 3
"""A round."""


def run(budget: Budget) -> Figures:
    """All rounds: the same watchers each time, with the version that they were told last."""
    figures = Figures()
    with deployed(apis=2, max_waiters=str(WATCHERS)) as running, Wire() as client, Wire() as publisher:
        each = budget.sized(WATCHERS // 2, at_least=100)
        watchers = [connection for url in running.urls for connection in client.open(url, each)]
        (publishing,) = publisher.open(running.urls[0], 1)
        figures.add("watchers", len(watchers))
        version = _publish(publisher, publishing, 0)
        for number in range(1, budget.rounds * PUBLISHES + 1):
            spent = running.cpu_s()
            for connection in watchers:
                client.send(connection, wire.get(f"/watch/{NAMESPACE}?version={version}&wait=60"))
            until_held(running.urls, "broker_held_watches", len(watchers))
            time.sleep(SETTLE_S)
            began = time.perf_counter()
            version = _publish(publisher, publishing, number)
            answers = wire.expect(client.receive(len(watchers)), 200)
            _check(answers[0].body, number)
            figures.add("the last watcher answered, s", max(answer.at for answer in answers) - began)
            figures.add("p50 of the watchers, s", percentile((answer.at for answer in answers), 0.5) - began)
            figures.add("total CPU, µs a watcher", (running.cpu_s() - spent) / len(watchers) * 1e6)
    return figures


def _publish(client: Wire, connection: int, value: int) -> str:
    version: str = json.loads(client.call(connection, wire.post(f"/publish/{NAMESPACE}", value)).body)["version"]
    return version


def _check(body: bytes, number: int) -> None:
    if json.loads(body)["value"] != number:
        raise RuntimeError(f"A watcher was told another value than {number}: {body[:300]!r}")
