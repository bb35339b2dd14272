"""How far the workers are behind, and how much stands on topics: committed offsets against the ends. Asked at most every two seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from engine.errors import shorten

KEPT_S = 2.0
TIMEOUT_S = 2.0


class Behind(msgspec.Struct, frozen=True):
    """Records of a topic that the workers' group has not committed yet; commits come with checkpoints, so it is never quite 0 in use."""

    topic: str
    records: int


class Told(msgspec.Struct, frozen=True):
    """``error`` is empty while Kafka answers; ``records``: topic -> records that stand on it."""

    error: str
    lag: list[Behind]
    records: dict[str, int]


class Lag:
    """A consumer that only asks: it joins no group and reads nothing.

    Args:
        config: librdkafka's settings.
        group: the workers' consumer group.
        read: full names of the topics that the group reads.
        counted: full names of further topics whose records are counted.
        clock: seconds.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        group: str,
        read: Sequence[str],
        counted: Sequence[str],
        clock: Callable[[], float],
        *,
        consumer: Any = None,
    ) -> None:
        self._consumer = consumer or Consumer({**config, "group.id": group, "enable.auto.commit": False})
        self._read, self._counted, self._clock = read, counted, clock
        self._lock = asyncio.Lock()
        self._told = Told("not asked yet", [], {})
        self._at = float("-inf")

    async def told(self) -> Told:
        """The figures, at most two seconds old; where Kafka does not answer, the last ones and the error."""
        async with self._lock:
            if self._clock() - self._at >= KEPT_S:
                try:
                    self._told = await asyncio.to_thread(self._ask)
                except KafkaException as error:
                    self._told = msgspec.structs.replace(self._told, error=shorten(str(error.args[0].str()), 200))
                self._at = self._clock()
        return self._told

    async def stop(self) -> None:
        """Let go of the consumer."""
        async with self._lock:
            await asyncio.to_thread(self._consumer.close)

    def _ask(self) -> Told:
        lag, records = [], {}
        for topic in (*self._read, *self._counted):
            found = self._consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
            parts = [TopicPartition(topic, number) for number in found.partitions]
            ends = {part.partition: self._consumer.get_watermark_offsets(part, timeout=TIMEOUT_S) for part in parts}
            records[topic] = sum(high - low for low, high in ends.values())
            if topic in self._read and parts:
                committed = self._consumer.committed(parts, timeout=TIMEOUT_S)
                behind = sum(max(0, ends[p.partition][1] - max(p.offset, ends[p.partition][0])) for p in committed)
                lag.append(Behind(topic, behind))
        return Told("", lag, records)
