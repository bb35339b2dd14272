"""Sends what cannot be used to `dead-letters`, with its reason and bytes, and counts it."""

from __future__ import annotations

from time import time
from typing import Any

from engine.deadletter import SCHEMA, Source, dead_letter, encode_dead_letter
from engine.errors import HeadwaterError
from streams.metrics import Metrics
from streams.outbox import Outbox


class DeadLetters:
    """The way to the dead-letter topic."""

    def __init__(self, outbox: Outbox, topic: str, metrics: Metrics) -> None:
        self._outbox, self._topic, self._metrics = outbox, topic, metrics

    def send(self, error: HeadwaterError, record: Any) -> None:
        """Send one record (aiokafka's) that `error` speaks of."""
        source = Source(record.topic, record.partition, record.offset, record.timestamp)
        letter = dead_letter(error, source, record.key, record.value, round(time() * 1000))
        self._outbox.publish(
            self._topic,
            record.key,
            encode_dead_letter(letter),
            headers=[("schema", SCHEMA.encode())],
        )
        self._metrics.dead_letters.labels(record.topic, error.code).inc()
