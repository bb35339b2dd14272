"""The feed from Kafka's topics: which log is read, and what is said of records that are gone. Not what is learned from them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from confluent_kafka import Producer

from engine.user import DEFAULT_WEIGHTS
from export.feed import Topics
from export.slice import Collector
from streams import security, topics
from streams.settings import Settings

pytestmark = pytest.mark.broker
PAD = "x" * 900_000
"""The embedded broker keeps 5 MB a partition."""


class Log:
    """A topic of events on the embedded broker, and a feed that reads it. `log`: which one it is said to be."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        settings = Settings(broker=f"kafka://{bootstrap}", prefix=prefix)
        self.topic, self.log = f"{prefix}events", "one"
        self._producer, self._sent = Producer({"bootstrap.servers": bootstrap, "log_level": 0}), 0
        client: dict[str, Any] = security.kafka_python(settings) | {"api_version": security.MOCK_API_VERSION}
        topics.admin(settings).list_topics(self.topic, timeout=10)  # made by use
        self.feed = Topics(client, self.topic, "", "", lambda: self.log, DEFAULT_WEIGHTS, 1 << 20)

    def send(self, count: int, partition: int, **context: str) -> None:
        """So many clicks, each of another user."""
        for _ in range(count):
            self._sent += 1
            event = {"event_id": f"e{self._sent}", "type": "click", "item_id": "i0", "timestamp": 1_700_000_000_000, "context": context}
            user = f"u{self._sent}"
            self._producer.produce(self.topic, json.dumps({**event, "user_id": user}).encode(), user.encode(), partition)
        self._producer.flush(20)


@pytest.fixture
def log(embedded: str, prefix: str) -> Log:
    """An empty one."""
    return Log(embedded, prefix)


def test_what_retention_takes_meanwhile_is_told(log: Log) -> None:
    """Rule: where the broker deletes records between the look at a topic and its reading, what is left is read, and the rest is counted."""
    log.send(6, 0)
    log.send(2, 0, pad=PAD)
    log.send(3, 1)
    span = log.feed.span([], "", 100)
    log.send(4, 0, pad=PAD)  # the partition holds the newest five of these large ones
    into = Collector(DEFAULT_WEIGHTS, {"i0": 0})
    log.feed.read(span, into, lambda *_: None)
    events, dropped = into.finish(100)
    assert span.count == 11
    assert dropped.missing == 7
    assert len(events) == 4, "the last large one, and the other partition's"


def test_a_log_made_anew_is_seen_at_once(log: Log) -> None:
    """Rule: the feed asks which log it reads each time: offsets of an old one are not those of a new one under the same name."""
    log.send(5, 0)
    assert log.feed.span([3], "one", 100).begins[0] == 3
    log.log = "two"
    span = log.feed.span([3], "one", 100)
    assert (span.begins[0], span.log) == (0, "two")
