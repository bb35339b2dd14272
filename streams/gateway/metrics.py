"""What the gateway counts and measures, in its own Prometheus registry. Seconds and bytes; never an id in a label."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streams.metrics import resident_bytes

_LATENCY = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """One attribute a metric."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("headwater_gateway_requests", "HTTP requests", ["route", "method", "status"], registry=registry)
        self.latency = Histogram(
            "headwater_gateway_request_seconds", "From a request to its answer's first byte", ["route"], buckets=_LATENCY, registry=registry
        )
        self.produced = Counter("headwater_gateway_produced_records", "Records that Kafka acknowledged", ["topic"], registry=registry)
        self.refused = Counter("headwater_gateway_refused_records", "Records that Kafka did not take", ["topic"], registry=registry)
        self.read = Counter("headwater_gateway_read_records", "Records read", ["topic"], registry=registry)
        self.unreadable = Counter(
            "headwater_gateway_unreadable_records", "Records read that are not as expected", ["topic"], registry=registry
        )
        self.lists = Gauge("headwater_gateway_lists", "Standing lists held in memory", registry=registry)
        self.lists_bytes = Gauge("headwater_gateway_lists_bytes", "Memory for them", registry=registry)
        self.asked = Counter(
            "headwater_gateway_asked_lists", "Lists that the workers were asked for, by outcome", ["outcome"], registry=registry
        )
        self.streams = Gauge("headwater_gateway_streams", "Streams of lists that are open", registry=registry)
        self.items = Gauge("headwater_gateway_items", "Items held in memory", registry=registry)
        self.rss = Gauge("headwater_gateway_memory_bytes", "Resident memory of the gateway", registry=registry)
        self.rss.set_function(resident_bytes)
