"""One run of the fault suite: a deployment, its load and its faults, and then the judgement."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.faults.caller import Caller
from tests.faults.checker import FINAL, Violation, check
from tests.faults.deployment import COMMAND, Deployment, deployment
from tests.faults.history import History
from tests.faults.http_worker import HttpWorker
from tests.faults.injector import Injector
from tests.faults.load import STORIES, Client, tell
from tests.faults.plan import Fault, draw

AFTER_S: Final = 60.0
"""Once the faults are over: how long until every story has come to its end."""
FINAL_WAIT_S: Final = 20.0
FINAL_AT_A_TIME: Final = 64


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is made of. `plan` replaces the faults that the seed would draw."""

    seed: int
    seconds: float = 60.0
    apis: int = 3
    workers: int = 3
    clients: int = 32
    lease_s: float = 2.0
    kinds: list[str] | None = None
    stories: list[str] | None = None
    plan: list[Fault] | None = None
    command: tuple[str, ...] = COMMAND
    wait_replicas: int = 0

    def faults(self) -> list[Fault]:
        """By time."""
        if self.plan is not None:
            return self.plan
        chance = random.Random(f"{self.seed}-faults")
        return draw(chance, self.seconds, apis=self.apis, workers=self.workers, kinds=self.kinds)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run."""

    seed: int
    seconds: float
    faults: dict[str, int]
    tasks: int
    calls: int
    held: int
    executions: int
    answers: dict[str, int]
    outcomes: dict[str, int]
    dropped: int
    violations: list[Violation]


async def run(options: Options, folder: Path | None = None) -> tuple[Report, History]:
    """Runs it all.

    Args:
        options: What to run.
        folder: For data and logs, which stay there; None for a temporary one.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="broker-faults-") as temporary:
            return await run(options, Path(temporary))
    executions = folder / "executions"
    executions.mkdir(parents=True)
    async with deployment(
        folder,
        apis=options.apis,
        workers=options.workers,
        lease_s=options.lease_s,
        command=options.command,
        wait_replicas=options.wait_replicas,
    ) as running:
        await _disturb_and_load(running, options, executions)
        await ask_for_all(running)
        await running.find_leftovers()
        running.assign_executions(executions)
        running.find_defects()
        dropped = sum(member.proxy.dropped for member in running.members.values())
        return _report(options, running.history, dropped), running.history


async def _disturb_and_load(running: Deployment, options: Options, executions: Path) -> None:
    injector = Injector(running)
    watches = [asyncio.create_task(injector.watch_machine()), asyncio.create_task(running.look_after())]
    began = time.monotonic()
    is_over = asyncio.Event()
    clients = [_client(running, options, number, executions) for number in range(options.clients)]
    names = options.stories or list(STORIES)
    telling = [asyncio.create_task(tell(client, names, is_over.is_set)) for client in clients]
    try:
        await injector.run(options.faults())
        await asyncio.sleep(max(0.0, began + options.seconds - time.monotonic()))
        is_over.set()
        # What did not end by then is found by the checker.
        with suppress(TimeoutError):
            async with asyncio.timeout(AFTER_S):
                await running.until_ready()
                await asyncio.gather(*telling)
    finally:
        await _cancel(telling)
        await _until_all_run(running)
        await _cancel(watches)


def _client(running: Deployment, options: Options, number: int, executions: Path) -> Client:
    caller = Caller(f"client{number}", running.ports, running.history.calls)
    chance = random.Random(f"{options.seed}-client-{number}")
    prefix = f"t{options.seed}-{number}"
    worker = HttpWorker(caller, chance, running.history.disturbances, lease_s=options.lease_s)
    return Client(caller, chance, folder=executions, lease_s=options.lease_s, prefix=prefix, worker=worker)


async def _until_all_run(running: Deployment) -> None:
    while any(member.is_in_hand for member in running.members.values()):  # noqa: ASYNC110 - a look, not a signal
        await asyncio.sleep(0.05)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


async def ask_for_all(running: Deployment) -> None:
    """An observer that comes last asks for every task that anybody was told of."""
    caller = Caller(FINAL, running.ports, running.history.calls)
    uuids = {document["uuid"] for call in running.history.calls if (document := call.document) is not None}
    remaining = iter(sorted(uuids))

    async def ask() -> None:
        for number, uuid in enumerate(remaining):
            await caller.query(caller.instances[number % len(caller.instances)], uuid, FINAL_WAIT_S)

    await asyncio.gather(*[ask() for _ in range(FINAL_AT_A_TIME)])


def _report(options: Options, history: History, dropped: int) -> Report:
    documents = {doc["uuid"]: doc for call in history.calls if (doc := call.document) is not None}
    return Report(
        seed=options.seed,
        seconds=options.seconds,
        faults=dict(sorted(Counter(d.kind for d in history.disturbances if d.kind != "stall").items())),
        tasks=len(documents),
        calls=len(history.calls),
        held=sum(bool(call.wait_s) for call in history.calls),
        executions=len(history.executions),
        answers=dict(sorted(Counter(str(call.status or "none") for call in history.calls).items())),
        outcomes=dict(sorted(Counter(doc["state"] for doc in documents.values()).items())),
        dropped=dropped,
        violations=check(history),
    )


def table(report: Report) -> str:
    """For people."""
    rows: list[tuple[str, Any]] = [
        *[(f"fault {kind}", count) for kind, count in report.faults.items()],
        ("faults", sum(report.faults.values())),
        ("tasks", report.tasks),
        *[(f"tasks {state}", count) for state, count in report.outcomes.items()],
        ("executions", report.executions),
        ("calls", report.calls),
        ("held calls", report.held),
        *[(f"answers {status}", count) for status, count in report.answers.items()],
        ("messages dropped", report.dropped),
        ("violations", len(report.violations)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value:>7}" for name, value in rows)


def write_history(history: History, path: Path) -> None:
    """For whoever looks into a violation."""
    path.write_bytes(msgspec.json.encode(history))
    print(f"The history is in {path}.", file=sys.stderr)
