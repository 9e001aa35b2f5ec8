"""Judges a history: what the project promises, as rules that each look at all of it. Pure.

A rule has no false alarms by what it demands, not by luck: where a fault makes something late or impossible, the time
that the fault took is allowed for, and nothing else is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

import msgspec

from tests.faults.history import TERMINAL, Call, Disturbance, Execution, History

GRACE_S: Final = 1.0
"""How late a held call may be answered after its deadline."""
ANSWER_S: Final = 5.0
"""How long a call that is not held may take: a command's deadline and the grace."""
PROMPT_S: Final = 3.0
"""How long a held call may still wait after its task has ended."""
RECOVERY_S: Final = 8.0
"""The same after a fault that connections have to notice first: 3 s without a reply, up to 2 s of backoff, 3 s to
connect. The slow re-read, which must not be needed, comes 12 s into a wait at the earliest."""
CLOCK_S: Final = 0.005
"""Server times are cut to milliseconds."""
SIGNAL_S: Final = 0.2
"""A call that was sent so shortly before a SIGTERM may not have reached its process."""
FINAL: Final = "final"
"""The client that asks for every task when all is over."""

DOCUMENTED: Final[dict[str, dict[int, set[str | None]]]] = {
    "create": {200: {None}, 202: {None}, 503: {"store-unavailable", "draining", "too-many-waiters"}},
    "query": {
        200: {None},
        404: {"task-not-found"},
        503: {"store-unavailable", "draining", "too-many-waiters"},
    },
    "change": {
        200: {None},
        404: {"task-not-found"},
        409: {"task-already-final"},
        503: {"store-unavailable", "draining"},
    },
    "claim": {200: {None}, 503: {"store-unavailable", "draining", "too-many-waiters"}},
    "heartbeat": {200: {None}, 409: {"lease-lost"}, 503: {"store-unavailable", "draining"}},
    "settle": {200: {None}, 409: {"task-already-final", "lease-lost"}, 503: {"store-unavailable", "draining"}},
    "release": {200: {None}, 409: {"task-already-final", "lease-lost"}, 503: {"store-unavailable", "draining"}},
}
"""By operation: the statuses that the load can meet, each with its codes."""

OF_THE_STORE: Final = ("redis", "all")
OUTAGES: Final = frozenset({"api-kill", "api-term", "api-stop", "died"})
DOWN: Final = frozenset({"api-kill", "api-term", "died"})
DROPS: Final = frozenset({"drop-all", "drop-quietly"})
AT_ONCE: Final = frozenset({"kill-pubsub", "kill-normal", "cut", "stall"})
"""Faults that a connection notices when they happen."""
HARMLESS: Final = frozenset({"script-flush"})
STALL: Final = "stall"
MACHINE: Final = "machine"


class Violation(msgspec.Struct, frozen=True):
    """A promise that was not kept."""

    rule: str
    text: str


Rule = Callable[[History], Iterable[str]]


def check(history: History) -> list[Violation]:
    """Every violation, by rule."""
    return [Violation(name, text) for name, rule in RULES.items() for text in rule(history)]


# Answers --------------------------------------------------------------------------------------------------------------


def only_documented_answers(history: History) -> Iterator[str]:
    """No call is answered by anything that its operation does not document."""
    for call in history.calls:
        if call.status is None:
            continue
        codes = DOCUMENTED[call.operation].get(call.status)
        if codes is None or _code(call) not in codes:
            yield f"{_name(call)} was answered {call.status} {call.answer}"


def answered_in_time(history: History) -> Iterator[str]:
    """A held call is answered by its deadline and a second; time in which its instance was stopped is added."""
    for call in history.calls:
        if call.status is None:
            continue
        allowed = (call.wait_s + GRACE_S if call.wait_s else ANSWER_S) + _paused(history, call)
        took = call.ended - call.started
        if took > allowed:
            yield f"{_name(call)} took {took:.2f} s, allowed were {allowed:.2f} s; near: {_near(history, call)}"


def answered_at_all(history: History) -> Iterator[str]:
    """A call whose instance runs gets an answer; one that is held when its instance is told to end gets one, too."""
    for call in history.calls:
        if call.status is not None or call.left:
            continue
        near = [d for d in _faults_of(history, call) if d.kind in DOWN]
        if not near:
            yield f"{_name(call)} got no answer ({call.failure}) from an instance that ran"
        elif _should_have_been_drained(history, call, near):
            yield f"{_name(call)} was held and got no answer ({call.failure}) when its instance was told to end"


def told_promptly(history: History) -> Iterator[str]:
    """A held call ends soon after its task has, unless faults kept the message from it."""
    for call in history.calls:
        document = call.document
        if call.status != 200 or not call.wait_s or document is None or document["state"] not in TERMINAL:
            continue
        since = max(call.started, seconds_of(document["finished_at"]))
        near = _touching(history, call)
        if any(d.kind in DROPS and d.end >= since for d in near):
            continue
        allowed = max([since + PROMPT_S, *[d.end + _recovery_s(d) for d in near]])
        if call.ended > allowed:
            hung = call.ended - since
            yield f"{_name(call)} hung {hung:.1f} s after its task had ended; near: {_near(history, call)}"


def not_yet_is_true(history: History) -> Iterator[str]:
    """Whoever is told "not yet" at the end of a wait is told so because it is not, unless the store was away."""
    finished = _finished_times(history)
    for call in history.calls:
        document = call.document
        if call.status not in (200, 202) or document is None or document["state"] in TERMINAL:
            continue
        if call.started > finished.get(document["uuid"], call.ended) + CLOCK_S:
            yield f"{_name(call)} was told {document['state']} after the task had ended"
        # One last read, which takes no longer than a command may.
        missed = call.ended - finished.get(document["uuid"], call.ended)
        if call.wait_s and missed > ANSWER_S and not _touching(history, call, since=call.ended - ANSWER_S - RECOVERY_S):
            yield f"{_name(call)} was told {document['state']} {missed:.1f} s after the task had ended"


# Outcomes -------------------------------------------------------------------------------------------------------------


def one_outcome(history: History) -> Iterator[str]:
    """No two observers ever see different outcomes of one task."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for call in history.calls:
        document = call.document
        if document is not None and document["state"] in TERMINAL:
            outcome = {name: document.get(name) for name in ("state", "result", "error")}
            seen[document["uuid"]].setdefault(json.dumps(outcome, sort_keys=True), _name(call))
    for uuid, outcomes in seen.items():
        if len(outcomes) > 1:
            yield f"{uuid} has {len(outcomes)} outcomes: {outcomes}"


def ended_stays_ended(history: History) -> Iterator[str]:
    """Once anybody has seen the end of a task, nobody who asks afterwards sees it open."""
    known: dict[str, float] = {}
    for call in history.calls:
        document = call.document
        if document is not None and document["state"] in TERMINAL:
            known[document["uuid"]] = min(known.get(document["uuid"], call.ended), call.ended)
    for call in history.calls:
        document = call.document
        if document is None or document["state"] in TERMINAL:
            continue
        if call.started > known.get(document["uuid"], call.started):
            yield f"{_name(call)} saw {document['uuid']} {document['state']} after its end had been told"


def nothing_acknowledged_is_lost(history: History) -> Iterator[str]:
    """A task that was acknowledged is found from then on, and ends."""
    acknowledged = _acknowledged(history)
    for call in history.calls:
        uuid = call.request.get("uuid")
        if call.status == 404 and uuid in acknowledged and call.started > acknowledged[uuid]:
            yield f"{_name(call)} did not find {uuid}, which had been acknowledged"
    ended = {
        document["uuid"]
        for call in history.calls
        if (document := call.document) is not None and document["state"] in TERMINAL
    }
    for uuid in acknowledged.keys() - ended:
        yield f"{uuid} was acknowledged and has never ended"


def one_change(history: History) -> Iterator[str]:
    """At most one third party is told that it ended the task, and only with the outcome that stays."""
    changes: dict[str, list[Call]] = defaultdict(list)
    for call in history.calls:
        if call.status == 200 and isinstance(call.answer, dict) and call.answer.get("changed") is True:
            changes[call.answer["uuid"]].append(call)
    for uuid, calls in changes.items():
        if len(calls) > 1:
            yield f"{uuid} was changed {len(calls)} times: {[_name(call) for call in calls]}"


def one_task_per_key(history: History) -> Iterator[str]:
    """Calls under one idempotency key get one task."""
    uuids: dict[str, set[str]] = defaultdict(set)
    for call in history.calls:
        if call.idempotency_key is not None and (document := call.document) is not None:
            uuids[call.idempotency_key].add(document["uuid"])
    for key, found in uuids.items():
        if len(found) > 1:
            yield f"the key {key} stands for {sorted(found)}"


# Executions -----------------------------------------------------------------------------------------------------------


def attempts_are_bounded(history: History) -> Iterator[str]:
    """No task is tried more often than it may be."""
    most = {
        call.request["uuid"]: call.request["payload"]["most_attempts"]
        for call in history.calls
        if call.operation == "create" and "uuid" in call.request
    }
    for call in history.calls:
        document = call.document
        if document is not None and document["attempt"] > most.get(document["uuid"], document["attempt"]):
            yield f"{_name(call)} saw attempt {document['attempt']} of {most[document['uuid']]}"
    for execution in history.executions:
        if execution.attempt > most.get(execution.uuid, execution.attempt):
            yield f"{execution.uuid} was run as attempt {execution.attempt} of {most[execution.uuid]}"


def the_last_claim_decides(history: History) -> Iterator[str]:
    """An outcome made by a handler was made under the last lease: an older one ends nothing any more."""
    last: dict[str, Execution] = {}
    for execution in history.executions:
        if execution.uuid not in last or last[execution.uuid].fence < execution.fence:
            last[execution.uuid] = execution
    for uuid, document in _outcomes(history).items():
        lease = _made_under(document)
        if lease is not None and uuid in last and int(lease.partition(".")[0]) < last[uuid].fence:
            yield f"{uuid} ended by the lease {lease}, though {last[uuid].lease} had been given out after it"


def one_valid_lease(history: History) -> Iterator[str]:
    """A task is claimed only when its earlier claim is over: its handler had ended, or its lease had run out.

    A lease is valid for its length at least. On a worker that nothing happened to, it is renewed for as long as the
    handler runs. Plain functions are left out: a thread goes on after its task was given back.
    """
    by_uuid: dict[str, list[Execution]] = defaultdict(list)
    for execution in history.executions:
        by_uuid[execution.uuid].append(execution)
    for executions in by_uuid.values():
        executions.sort(key=lambda one: one.fence)
        for earlier, later in pairwise(executions):
            if not earlier.in_thread and not _has_ended(earlier, later.claimed):
                yield from _too_early(history, earlier, later)


def none_after_the_end(history: History) -> Iterator[str]:
    """A task that has ended is not claimed again."""
    finished = _finished_times(history)
    for execution in history.executions:
        if execution.claimed > finished.get(execution.uuid, execution.claimed) + CLOCK_S:
            yield f"{execution.uuid} was claimed under {execution.lease} after it had ended"


# The deployment -------------------------------------------------------------------------------------------------------


def ends_in_order(history: History) -> Iterator[str]:
    """A process that is told to end exits 0 within its drain."""
    for one in history.exits:
        allowed = one.allowed_s + _sum(history, {STALL}, one.started, one.started + one.seconds)
        if one.exit_code != 0 or one.seconds > allowed:
            yield f"{one.target} took {one.seconds:.1f} s of {allowed:.1f} s and exited {one.exit_code}"


def nothing_is_left_over(history: History) -> Iterator[str]:
    """Afterwards no channel, key, connection or descriptor remains."""
    return iter(history.leftovers)


def no_defect_is_logged(history: History) -> Iterator[str]:
    """No process writes of an exception that nobody expected."""
    return iter(history.defects)


RULES: Final[dict[str, Rule]] = {
    rule.__name__.replace("_", " "): rule
    for rule in (
        only_documented_answers,
        answered_in_time,
        answered_at_all,
        told_promptly,
        not_yet_is_true,
        one_outcome,
        ended_stays_ended,
        nothing_acknowledged_is_lost,
        one_change,
        one_task_per_key,
        attempts_are_bounded,
        the_last_claim_decides,
        one_valid_lease,
        none_after_the_end,
        ends_in_order,
        nothing_is_left_over,
        no_defect_is_logged,
    )
}


# Steps ----------------------------------------------------------------------------------------------------------------


def seconds_of(text: str) -> float:
    """A time of task JSON in seconds."""
    return msgspec.convert(text, type=datetime).timestamp()


def _name(call: Call) -> str:
    wait = f" wait={call.wait_s:g}" if call.wait_s else ""
    what = call.request.get("uuid") or call.idempotency_key
    return f"{call.operation} {what}{wait} by {call.client} of {call.instance} at {call.started:.3f}"


def _code(call: Call) -> str | None:
    return call.code if call.status is not None and call.status >= 400 else None


def _faults_of(history: History, call: Call) -> list[Disturbance]:
    return [d for d in history.disturbances if d.target == call.instance and d.overlaps(call.started, call.ended)]


def _touching(history: History, call: Call, since: float | None = None) -> list[Disturbance]:
    """What happened during a call to its instance, to the store, or to the machine."""
    start = call.started if since is None else since
    targets = {call.instance, MACHINE, *OF_THE_STORE}
    return [d for d in history.disturbances if d.target in targets and d.overlaps(start, call.ended)]


def _recovery_s(disturbance: Disturbance) -> float:
    if disturbance.kind in HARMLESS:
        return -RECOVERY_S
    return PROMPT_S if disturbance.kind in AT_ONCE else RECOVERY_S


def _near(history: History, call: Call) -> list[str]:
    return [
        f"{d.kind} {d.target} {d.start - call.started:+.1f}…{d.end - call.started:+.1f}"
        for d in _touching(history, call)
    ]


def _sum(history: History, kinds: set[str], start: float, end: float, target: str = MACHINE) -> float:
    return sum(
        d.seconds_within(start, end) for d in history.disturbances if d.kind in kinds and d.target in (target, MACHINE)
    )


def _paused(history: History, call: Call) -> float:
    return _sum(history, {"api-stop", STALL}, call.started, call.ended, call.instance)


def _should_have_been_drained(history: History, call: Call, near: list[Disturbance]) -> bool:
    """Held when the SIGTERM came, and nothing else happened to its instance or to the store."""
    told = [d for d in near if d.kind == "api-term"]
    everything = _touching(history, call, since=call.started - RECOVERY_S)
    others = [d for d in everything if d.kind not in ("api-term", STALL)]
    return bool(call.wait_s and told and not others and call.started < told[0].start - SIGNAL_S)


def _outcomes(history: History) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for call in history.calls:
        document = call.document
        if document is not None and document["state"] in TERMINAL:
            found.setdefault(document["uuid"], document)
    return found


def _finished_times(history: History) -> dict[str, float]:
    return {uuid: seconds_of(document["finished_at"]) for uuid, document in _outcomes(history).items()}


def _acknowledged(history: History) -> dict[str, float]:
    """By uuid: when its creation was first confirmed."""
    found: dict[str, float] = {}
    for call in history.calls:
        if call.operation == "create" and call.status in (200, 202) and (document := call.document) is not None:
            found[document["uuid"]] = min(found.get(document["uuid"], call.ended), call.ended)
    return found


def _made_under(document: dict[str, Any]) -> str | None:
    result = document.get("result")
    details = (document.get("error") or {}).get("details")
    for value in (result, details):
        # An exhausted task keeps the last error of an earlier attempt as details, which decided nothing.
        exhausted = (document.get("error") or {}).get("code") == "attempts-exhausted"
        if isinstance(value, dict) and "by" in value and not exhausted:
            return str(value["by"])
    return None


def _has_ended(execution: Execution, by: float) -> bool:
    return execution.ended is not None and execution.ended <= by + CLOCK_S


def _too_early(history: History, earlier: Execution, later: Execution) -> Iterator[str]:
    told = f"{earlier.uuid} was claimed under {later.lease} on {later.worker}"
    if later.claimed < earlier.claimed + history.lease_s - CLOCK_S:
        yield f"{told} while {earlier.lease} on {earlier.worker} was not over"
    elif not _was_disturbed(history, earlier, later.claimed):
        yield f"{told} while {earlier.lease} ran undisturbed on {earlier.worker}"


def _was_disturbed(history: History, execution: Execution, until: float) -> bool:
    targets = {execution.worker, MACHINE, *OF_THE_STORE}
    since = execution.claimed - history.lease_s
    if _sum(history, {STALL}, since, until, execution.worker) > history.lease_s / 4:
        return True
    return any(d.target in targets and d.kind != STALL and d.overlaps(since, until) for d in history.disturbances)
