"""What `/metrics` of an API instance shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from prometheus_client.core import Metric

from broker import Broker
from broker.measures import Histogram
from broker.watch import Watches
from broker_services import metrics
from broker_services.api.measures import ApiMeasures
from broker_services.metrics import Labelled

T = TypeVar("T")


def api_metrics(broker: Broker, measures: ApiMeasures, *, is_draining: bool) -> Iterator[Metric]:
    """Reads the counters of one instance.

    Args:
        broker: Its hub and its connections.
        measures: What it counted of its calls.
        is_draining: Whether it ends.
    """
    yield metrics.gauge("broker_draining", "1 once the instance was told to end.", is_draining)
    yield from _hub(broker)
    yield from _watches(broker.watches)
    yield from _calls(measures)
    yield from metrics.links(broker.links)


def _hub(broker: Broker) -> Iterator[Metric]:
    hub = broker.hub
    yield metrics.gauge(
        "broker_delivering", "Whether messages from Redis arrive; /readyz says so.", hub.subscriptions.is_delivering
    )
    yield metrics.gauge("broker_held_waits", "Calls held now.", hub.held)
    yield metrics.gauge("broker_event_streams", "Streams of open tasks among them.", broker.event_streams.held)
    yield metrics.gauge("broker_held_claims", "Claims held now.", broker.claiming.waiting)
    yield metrics.counter(
        "broker_claims_returned",
        "Tasks given back since their claimer was gone before it heard of them.",
        broker.claiming.returned,
    )
    yield metrics.gauge(
        "broker_channels_desired", "Channels that somebody waits on, or did just now.", hub.subscriptions.desired
    )
    yield metrics.gauge("broker_channels_actual", "Channels that Redis has confirmed.", hub.subscriptions.actual)
    yield metrics.gauge("broker_channels_leaked", "Confirmed channels that nobody wants.", hub.subscriptions.leaked)
    yield metrics.counter(
        "broker_hub_reconnects", "Subscription connections opened anew.", hub.subscriptions.reconnects
    )
    yield metrics.counter(
        "broker_waits_rescued", "Waits ended by looking again, since their message was lost; 0 in health.", hub.rescued
    )


def _watches(watches: Watches) -> Iterator[Metric]:
    yield metrics.gauge("broker_held_watches", "Watches held now.", watches.held)
    yield metrics.gauge("broker_watched_namespaces", "Namespaces that they watch.", watches.namespaces)
    yield metrics.counter(
        "broker_publishes_missed",
        "Changes found by looking, since their message was lost; 0 in health.",
        watches.missed,
    )


def _calls(measures: ApiMeasures) -> Iterator[Metric]:
    yield metrics.counters(
        "broker_calls",
        "Answers by operation and status.",
        ("operation", "status"),
        [((operation, str(status)), count) for (operation, status), count in measures.calls.items()],
    )
    yield metrics.counters(
        "broker_problems", "Answers that were a problem, by its code.", ("code",), _labelled(measures.problems)
    )
    yield metrics.counters(
        "broker_callers_gone",
        "Callers that closed their socket before the answer.",
        ("operation",),
        _labelled(measures.callers_gone),
    )
    yield metrics.counters(
        "broker_outcomes",
        "Ends of tasks that this instance has answered, by operation, queue and state.",
        ("operation", "queue", "state"),
        measures.outcomes.items(),
    )
    yield metrics.counter("broker_events_sent", "Events of tasks that were written to streams.", measures.events_sent)
    yield _durations("broker_answer_seconds", "Duration of calls that were not held.", measures.answers)
    yield _durations("broker_hold_seconds", "Duration of calls that were held.", measures.holds)


def _durations(name: str, text: str, histograms: Mapping[str, Histogram]) -> Metric:
    return metrics.histograms(name, text, ("operation",), _labelled(histograms))


def _labelled(values: Mapping[str, T]) -> Labelled[T]:
    return [((name,), value) for name, value in values.items()]
