"""Many held createTask calls in one API process: what each takes there and in Redis, and what holding costs.

Then many callers of one uuid: how soon the last of them has its answer once the task ends.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

from tests.bench import wire
from tests.bench.accounting import cpu_s, private_bytes
from tests.bench.budget import Budget
from tests.bench.deployment import Deployment, deployed, held, until_held
from tests.bench.figures import Figures
from tests.bench.wire import Wire

CALLS: Final = 18_000
CALLERS_OF_ONE: Final = 10_000
WAIT_S: Final = 600
QUEUE: Final = "held"
IDLE_S: Final = 30
"""Longer than the interval at which old waits are checked, so that the checks are part of it."""
FIRST_CALLS: Final = 500
"""Held before the measurement begins, so that what a process allocates once is not charged to the calls."""
AT_A_TIME: Final = 500
"""Calls on their way to being held. More would be a crowd at the door, which is not what is measured."""
SETTLE_S: Final = 3.0
_HELD: Final = "broker_held_waits"
_SETTINGS: Final[dict[str, Any]] = {
    "max_waiters": str(CALLS),
    "wait_max_s": str(WAIT_S),
    "wait_default_s": "60",
    "body_timeout_s": str(WAIT_S),
}


def run(budget: Budget) -> Figures:
    """All rounds; each begins with new processes, since a process seldom gives memory back."""
    figures = Figures()
    for _ in range(max(1, budget.rounds // 2)):
        _hold(figures, budget)
        _answer_all(figures, budget)
    return figures


def _hold(figures: Figures, budget: Budget) -> None:
    calls = budget.sized(CALLS, at_least=5 * FIRST_CALLS)
    with deployed(**_SETTINGS) as running, Wire() as client:
        task_bytes = _bytes_of_tasks_alone(running, calls)
        (api,) = running.apis
        _hold_calls(running, client, FIRST_CALLS)
        memory, stored = private_bytes(api.pid), running.redis.used_bytes()
        more = calls - FIRST_CALLS
        _hold_calls(running, client, more)
        figures.add("held calls", calls)
        figures.add("API memory, bytes a held call", (private_bytes(api.pid) - memory) / more)
        held_bytes = (running.redis.used_bytes() - stored) / more
        figures.add("Redis memory, bytes a held call beyond its task", held_bytes - task_bytes)
        _idle(figures, running, IDLE_S if budget.size == 1 else budget.seconds)


def _bytes_of_tasks_alone(running: Deployment, count: int) -> float:
    """Bytes a task, of as many that nobody waits for; they are forgotten again."""
    with Wire() as client:
        (connection,) = client.open(running.urls[0], 1)

        def create(number: int) -> int:
            for _ in range(number):
                client.call(connection, wire.post("/createTask", {"uuid": _name(), "queue": QUEUE, "wait": 0}))
            return running.redis.used_bytes()

        before = create(FIRST_CALLS)
        found = (create(count - FIRST_CALLS) - before) / (count - FIRST_CALLS)
    running.redis.clear()
    return found


def _hold_calls(running: Deployment, client: Wire, count: int, uuid: str | None = None) -> None:
    """Returns once so many more calls are held, each for a task of its own unless `uuid` is given."""
    before = held(running.urls, _HELD)
    for start in range(0, count, AT_A_TIME):
        number = min(AT_A_TIME, count - start)
        for connection in client.open(running.urls[0], number):
            document = {"uuid": uuid or _name(), "queue": QUEUE, "wait": WAIT_S}
            client.send(connection, wire.post("/createTask", document))
        until_held(running.urls, _HELD, before + start + number)
    time.sleep(SETTLE_S)


def _idle(figures: Figures, running: Deployment, seconds: float) -> None:
    (api,) = running.apis
    spent, redis_spent = cpu_s(api.pid), running.redis.cpu_s()
    time.sleep(seconds)
    figures.add("API CPU while all are held, %", (cpu_s(api.pid) - spent) / seconds * 100)
    figures.add("Redis CPU while all are held, %", (running.redis.cpu_s() - redis_spent) / seconds * 100)


def _answer_all(figures: Figures, budget: Budget) -> None:
    callers, uuid = budget.sized(CALLERS_OF_ONE, at_least=AT_A_TIME), _name()
    with deployed(**_SETTINGS) as running, Wire() as client, Wire() as third_party:
        _hold_calls(running, client, callers, uuid)
        (changing,) = third_party.open(running.urls[0], 1)
        sent = third_party.send(changing, wire.post("/changeTaskState", {"uuid": uuid, "result": 1}))
        answers = wire.expect(client.receive(callers), 200)
        wire.expect(third_party.receive(1))
        figures.add("callers of one uuid", callers)
        figures.add("the last of all callers answered, s", max(answer.at for answer in answers) - sent)


def _name() -> str:
    return secrets.token_hex(12)
