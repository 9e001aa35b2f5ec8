"""What `/metrics` of a worker shows."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from broker import Worker
from broker.measures import WorkerMeasures
from broker.worker import WorkerState
from broker_services import metrics


def worker_metrics(worker: Worker) -> Iterator[Metric]:
    """Reads the counters of a worker, which may be on its way up or down."""
    yield from _counted(worker.measures)
    state = worker.state
    if state is not None:
        yield from _present(state)


def _present(state: WorkerState) -> Iterator[Metric]:
    yield metrics.gauge("broker_draining", "1 once the worker was told to end.", state.is_stopping)
    yield metrics.gauge("broker_attempts_running", "Attempts that are here now.", state.running)
    free = [((queue,), slots) for queue, slots in state.free.items()]
    yield metrics.gauges("broker_slots_free", "Tasks that could be taken now.", ("queue",), free)
    yield from metrics.links(state.links)


def _counted(measures: WorkerMeasures) -> Iterator[Metric]:
    yield metrics.counter("broker_claims", "Claims asked of Redis, for all queues at once.", measures.claims)
    claimed = [((queue,), count) for queue, count in measures.claimed.items()]
    yield metrics.counters("broker_tasks_claimed", "Tasks that claims gave.", ("queue",), claimed)
    yield metrics.counter(
        "broker_bells_heard", "Doorbells that rang here, and wake-ups of the parked worker.", measures.bells_heard
    )
    yield metrics.counter(
        "broker_bells_missed", "Work found by asking unrung, of which no bell had told.", measures.bells_missed
    )
    yield metrics.counter("broker_leases_lost", "Attempts whose lease was over before their end.", measures.leases_lost)
    yield metrics.counter("broker_settle_retries", "Ends that Redis could not store at once.", measures.settle_retries)
    yield metrics.histograms(
        "broker_execution_seconds",
        "Executions by queue and outcome: how long the handler took.",
        ("queue", "outcome"),
        measures.executions.items(),
    )
