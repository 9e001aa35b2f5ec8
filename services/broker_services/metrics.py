"""What API and worker share in showing their counters by Prometheus's client library: nothing is counted here.

Each process has a registry of its own, not the library's global one, and reads plain numbers when it is scraped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from broker.measures import Histogram
from broker.store.link import Link
from broker_services.media_types import OPENMETRICS, OPENMETRICS_TYPE, TEXT_TYPE
from broker_services.version import service_version

T = TypeVar("T")
Labels = tuple[str, ...]
Labelled = Iterable[tuple[Labels, T]]


class Metrics(Collector):
    """Everything that one process shows.

    Args:
        collect: Reads the counters of the process, at each scrape.
    """

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known once counters are read, and no other collector here has them."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What the process counts, and which version it is."""
        yield gauges("broker_build_info", "The version of this process.", ("version",), [((service_version(),), 1)])
        yield from self._collect()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its media type.

        Args:
            accept: The header; OpenMetrics when it names that, else Prometheus's own text.
        """
        # Not the library's own choice, which puts what the caller sent into the answer's header.
        if OPENMETRICS in accept:
            return openmetrics.generate_latest(self._registry), OPENMETRICS_TYPE  # type: ignore[no-untyped-call,unused-ignore]
        return generate_latest(self._registry), TEXT_TYPE


def gauge(name: str, text: str, value: float) -> Metric:
    """One number that goes up and down."""
    return GaugeMetricFamily(name, text, value=value)


def gauges(name: str, text: str, labels: Sequence[str], values: Labelled[float]) -> Metric:
    """The same for several labels."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def counter(name: str, text: str, value: float) -> Metric:
    """One number that only grows; the library adds `_total` to its name."""
    return CounterMetricFamily(name, text, value=value)


def counters(name: str, text: str, labels: Sequence[str], values: Labelled[float]) -> Metric:
    """The same for several labels."""
    family = CounterMetricFamily(name, text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def histograms(name: str, text: str, labels: Sequence[str], values: Labelled[Histogram]) -> Metric:
    """Durations by their buckets."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for label, histogram in values:
        buckets = [("+Inf" if bound == float("inf") else f"{bound:g}", seen) for bound, seen in histogram.cumulative()]
        family.add_metric(label, buckets, histogram.sum_s)
    return family


def links(connections: Mapping[str, Link]) -> Iterator[Metric]:
    """How the connections to Redis do, by what each is for."""

    def of_each(value: Callable[[Link], float]) -> list[tuple[Labels, float]]:
        return [((name,), value(link)) for name, link in connections.items()]

    label = ("link",)
    yield gauges(
        "broker_redis_connected", "Whether the link has a connection.", label, of_each(lambda link: link.is_connected)
    )
    yield gauges(
        "broker_redis_commands_outstanding",
        "Commands that wait for Redis.",
        label,
        of_each(lambda link: link.outstanding),
    )
    yield counters(
        "broker_redis_connections_made",
        "Connections opened; one in health.",
        label,
        of_each(lambda link: link.connections_made),
    )
    yield counters(
        "broker_redis_commands_unavailable",
        "Commands that failed since Redis did not answer or could not serve them.",
        label,
        of_each(lambda link: link.commands_unavailable),
    )
    yield histograms(
        "broker_redis_command_seconds",
        "From handing over a command to its reply; a sample of one in sixteen.",
        label,
        [((name,), link.latency) for name, link in connections.items()],
    )
