"""`python -m tests.faults.failover`: failovers under load, and what of all that was acknowledged is left afterwards."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.faults.caller import Caller
from tests.faults.checker import FINAL, Violation, check
from tests.faults.history import History
from tests.faults.load import Client
from tests.faults.run import ask_for_all, write_history
from tests.faults.watched import WatchedDeployment, watched_deployment

KINDS: Final = ("kill", "cut", "planned", "sentinel", "stop-one", "stop-all")
CALM_S: Final = 3.0
"""Between two failovers, and before the first."""
AFTER_S: Final = 60.0
HELD_SHARE: Final = 0.6
"""Of the creates: held until a third party ends the task; the others are done by a worker at once."""
PATIENCE_S: Final = 30.0
"""How long a third party goes on with a task that nobody knows."""
MOST_SHOWN: Final = 20


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run.

    `pauses_s`: by failover, the longest time without any acknowledged create around it. `lost`: tasks that were
    acknowledged, and are unknown when all is over. `broken`: violations by rule.
    """

    seed: int
    wait_replicas: int
    befell: list[str]
    seconds: float
    tasks: int
    calls: int
    held_at_a_time: int
    executions: int
    answers: dict[str, int]
    pauses_s: list[float]
    longest_answer_s: float
    lost: int
    broken: dict[str, int]
    violations: list[Violation]


async def run(
    kinds: Sequence[str],
    folder: Path,
    *,
    seed: int,
    wait_replicas: int,
    apis: int = 3,
    workers: int = 3,
    creates_per_s: float = 50.0,
    held: int = 200,
) -> tuple[Report, History]:
    """Runs it all.

    Args:
        kinds: What befalls the servers, one after the other.
        folder: For data and logs.
        seed: Of the load.
        wait_replicas: Of every process.
        apis: Instances.
        workers: Worker processes.
        creates_per_s: The load.
        held: About how many calls are held at a time.
    """
    executions = folder / "executions"
    executions.mkdir(parents=True)
    async with watched_deployment(folder, apis=apis, workers=workers, lease_s=2.0, wait_replicas=wait_replicas) as one:
        load = _Load(one, random.Random(seed), executions, creates_per_s, held)
        began = time.time()
        loading = asyncio.create_task(load.run())
        marks = []
        try:
            for kind in kinds:
                await asyncio.sleep(CALM_S)
                marks.append(time.time())
                await one.befall(kind)
                print(f"{kind}: whole again after {time.time() - marks[-1]:.1f} s", file=sys.stderr, flush=True)
            await asyncio.sleep(CALM_S)
            load.is_over = True
            with suppress(TimeoutError):
                async with asyncio.timeout(AFTER_S):
                    await one.until_ready()
                    await loading
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        await ask_for_all(one)
        one.assign_executions(executions)
        one.find_defects()
        return _report(one.history, kinds, marks, seed, wait_replicas, time.time() - began, load), one.history


class _Load:
    """An open stream of stories, whatever becomes of those before."""

    def __init__(
        self, running: WatchedDeployment, chance: random.Random, folder: Path, creates_per_s: float, held: int
    ) -> None:
        self._running = running
        self._chance = chance
        self._folder = folder
        self._creates_per_s = creates_per_s
        self._hold_s = held / (creates_per_s * HELD_SHARE)
        self._number = 0
        self.is_over = False
        self.most_held = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        telling: set[asyncio.Task[None]] = set()
        while not self.is_over:
            due = began + self._number / self._creates_per_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            task = asyncio.create_task(self._tell())
            telling.add(task)
            task.add_done_callback(telling.discard)
            self.most_held = max(self.most_held, len(telling))
        await asyncio.gather(*telling)

    async def _tell(self) -> None:
        self._number += 1
        client = self._client(self._number)
        if self._chance.random() < HELD_SHARE:
            await self._held(client)
        else:
            await client.create_and_follow(client.request("f-quick", wait=self._chance.choice([0, 5, 20])))

    async def _held(self, client: Client) -> None:
        """A call that is held until one of two third parties, who disagree, has ended the task."""
        request = client.request("f-deferred", wait=20)
        rivals = [{"uuid": request["uuid"], "state": "succeeded", "result": {"rival": n}} for n in range(2)]
        after_s = self._chance.uniform(0, 2 * self._hold_s)

        async def finish(outcome: dict[str, Any]) -> None:
            await asyncio.sleep(after_s)
            await client.change(outcome, PATIENCE_S)

        await asyncio.gather(client.create_and_follow(request), *[finish(rival) for rival in rivals])

    def _client(self, number: int) -> Client:
        caller = Caller(f"client{number}", self._running.ports, self._running.history.calls)
        chance = random.Random(self._chance.random())
        return Client(caller, chance, folder=self._folder, lease_s=2.0, prefix=f"f{number}")


def _report(
    history: History,
    kinds: Sequence[str],
    marks: list[float],
    seed: int,
    wait_replicas: int,
    seconds: float,
    load: _Load,
) -> Report:
    violations = check(history)
    return Report(
        seed=seed,
        wait_replicas=wait_replicas,
        befell=list(kinds),
        seconds=round(seconds, 1),
        tasks=len({doc["uuid"] for call in history.calls if (doc := call.document) is not None}),
        calls=len(history.calls),
        held_at_a_time=load.most_held,
        executions=len(history.executions),
        answers=dict(sorted(Counter(str(call.status or "none") for call in history.calls).items())),
        pauses_s=[round(_pause(history, mark, end), 2) for mark, end in pairwise([*marks, time.time()])],
        longest_answer_s=round(max(call.ended - call.started - call.wait_s for call in history.calls), 2),
        lost=_lost(history),
        broken=dict(sorted(Counter(violation.rule for violation in violations).items())),
        violations=violations,
    )


def _lost(history: History) -> int:
    told = {doc["uuid"] for call in history.calls if call.status in (200, 202) and (doc := call.document) is not None}
    unknown = {call.request["uuid"] for call in history.calls if call.client == FINAL and call.status == 404}
    return len(told & unknown)


def _pause(history: History, start: float, end: float) -> float:
    """The longest time without a create that was acknowledged, by calls sent after the last one that was."""
    told = sorted(
        call.ended
        for call in history.calls
        if call.operation == "create" and call.status in (200, 202) and start - 1 <= call.ended <= end and _is_new(call)
    )
    return max((later - earlier for earlier, later in pairwise(told)), default=end - start)


def _is_new(call: Any) -> bool:
    # A call that is held tells when its task ends, which says nothing of when it was created.
    return bool(call.request["queue"] == "f-quick")


def _rows(report: Report) -> Iterable[tuple[str, Any]]:
    for name, value in msgspec.structs.asdict(report).items():
        if name == "violations":
            yield name, len(report.violations)
        elif isinstance(value, dict):
            yield from ((f"{name} {key}", count) for key, count in value.items())
        else:
            yield name, value


def main() -> int:
    """Runs it; 0 when no promise was broken, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.failover", description=__doc__)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=["kill", "cut"], help="what befalls the servers")
    parser.add_argument("--times", type=int, default=5, help="how often all of that happens")
    parser.add_argument("--wait-replicas", type=int, default=1)
    parser.add_argument("--apis", type=int, default=3)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--creates-per-s", type=float, default=50.0)
    parser.add_argument("--held", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keeps data and logs; must not exist")
    parser.add_argument("--history", type=Path, help="writes everything that happened into this file")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="broker-failover-") as temporary:
        running = run(
            flags.kinds * flags.times,
            flags.folder or Path(temporary),
            seed=flags.seed,
            wait_replicas=flags.wait_replicas,
            apis=flags.apis,
            workers=flags.workers,
            creates_per_s=flags.creates_per_s,
            held=flags.held,
        )
        report, history = asyncio.run(running)
    if flags.history is not None:
        write_history(history, flags.history)
    for name, value in _rows(report):
        print(f"{name:<28} {value}")
    for violation in report.violations[:MOST_SHOWN]:
        print(f"VIOLATION {violation.rule}: {violation.text}", file=sys.stderr)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
