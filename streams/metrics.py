"""What a worker counts and measures, in its own Prometheus registry. Seconds and bytes; never an id in a label."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3, 0.6, 1.0, 2.5, 5.0, 10.0, 60.0)


class Metrics:
    """One attribute a metric."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.events = Counter("headwater_events", "Event records read, by what became of them", ["outcome"], registry=registry)
        self.dead_letters = Counter("headwater_dead_letters", "Records that could not be used", ["topic", "reason"], registry=registry)
        self.rerouted = Counter(
            "headwater_rerouted_records", "Records passed on from a wrong partition, or from an alias", ["source"], registry=registry
        )
        self.failures = Counter("headwater_list_failures", "Lists and examples that could not be made", ["kind"], registry=registry)
        self.lists = Counter("headwater_lists", "Lists published", ["kind"], registry=registry)
        self.freshness = Histogram(
            "headwater_list_freshness_seconds",
            "From an event's record time to its list being published",
            buckets=_LATENCY,
            registry=registry,
        )
        self.scoring = Histogram("headwater_scoring_seconds", "Making one batch of lists", buckets=_LATENCY, registry=registry)
        self.batch_users = Histogram(
            "headwater_scoring_users", "Users in one batch of lists", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.pending = Gauge("headwater_pending_users", "Users whose list waits to be made", registry=registry)
        self.republished = Counter(
            "headwater_republished_lists",
            "Standing lists made again, with no event of their user: what was taken out, or learned since",
            ["reason"],
            registry=registry,
        )
        self.republish_delay = Histogram(
            "headwater_republish_delay_seconds",
            "From the record that took an item out (or a rule's start) to a list without it being published",
            buckets=(0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 600.0, 3600.0),
            registry=registry,
        )
        self.republish_pending = Gauge("headwater_republish_pending_lists", "Lists that wait to be made again", registry=registry)
        self.standing = Gauge(
            "headwater_standing_lists", "Standing lists of owned partitions, when they were last gone through", registry=registry
        )
        self.standing_scan = Gauge("headwater_standing_scan_seconds", "How long it took to go through them", registry=registry)
        self.lag = Gauge("headwater_lag_records", "Records of a source topic not yet read", ["topic", "partition"], registry=registry)
        self.rows = Gauge("headwater_rows", "Rows of owned partitions held in memory", ["table"], registry=registry)
        self.items = Gauge("headwater_catalogue_items", "Items that may be listed", registry=registry)
        self.vectors = Gauge("headwater_catalogue_vectors", "Items with a text vector", registry=registry)
        self.encoded = Counter("headwater_encoded_texts", "Texts encoded live", registry=registry)
        self.examples = Counter("headwater_examples", "Training examples written", registry=registry)
        self.learned = Gauge("headwater_ranker_examples", "Examples the ranker in use has learned", registry=registry)
        self.checkpoint = Gauge("headwater_checkpoint_seconds", "How long the last checkpoint took", registry=registry)
        self.checkpoints = Gauge("headwater_checkpoints", "Checkpoints made since the start", registry=registry)
        self.broadcast = Counter("headwater_broadcast_records", "Records read that all workers read", ["topic"], registry=registry)
        self.published = Counter("headwater_item_stats_published", "Item statistics published by their owner", ["kind"], registry=registry)
        self.stats_wait = Histogram(
            "headwater_item_stats_wait_seconds",
            "From a change in an item's row to its owner publishing it",
            ["kind"],
            buckets=_LATENCY,
            registry=registry,
        )
        self.known_uses = Gauge("headwater_known_uses", "Uses of items counted in what lists are made from here", registry=registry)
        self.rss = Gauge("headwater_memory_bytes", "Resident memory of the worker", registry=registry)
        self.generation = Gauge("headwater_generation_info", "1 for the generation in use", ["generation"], registry=registry)
        self.swap = Gauge(
            "headwater_generation_swap_seconds", "From the announcement of the generation in use to its first list", registry=registry
        )
        self.refused = Counter("headwater_generations_refused", "Generations announced as active and not served here", registry=registry)
        self.rss.set_function(resident_bytes)


def resident_bytes() -> float:
    """Resident memory of this process in bytes; 0 where /proc is missing."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096.0
    except OSError:
        return 0.0
