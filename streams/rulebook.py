"""The topic `rules` for people: what stands on it, and the catalogue, as workers have them; adding to it. Not what a worker does with it.

Topics are read to their present end, without a consumer group; a million items take a minute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from engine.decode import decode_event, decode_item, key_id
from engine.errors import BadRecord, BrokerError, TopicError
from engine.records import Item, Rule
from engine.rulecheck import standing_rules
from engine.rules import compile_rules, rule_time
from streams import security
from streams.settings import Settings
from streams.topics import MAKE, Names, admin

TIMEOUT_S = 20.0
"""How long nothing may come while a topic is read, and how long an acknowledgement is waited for."""
AT_ONCE = 1_000
TOLD = 20
"""Problems that an unreadable record is told with at most."""


@dataclass(frozen=True, slots=True)
class Book:
    """Rules by id and the catalogue, as workers have them; `now_ms`: the time by which rules start and end there; `unread`: lines that say
    what of `rules` was not taken.
    """

    rules: dict[str, Rule]
    items: list[Item]
    now_ms: int
    unread: tuple[str, ...]


class Rulebook:
    """One installation's rules. `clock_ms`: now."""

    def __init__(self, settings: Settings, clock_ms: int) -> None:
        self._settings, self._clock_ms = settings, clock_ms
        self._config = {**security.librdkafka(settings), "log_level": 0}
        self._names = Names.under(settings.prefix)
        admin(settings)  # says why, where no broker takes us; the clients below would wait until the time is up

    def read(self) -> Book:
        """What there is now.

        Raises:
            BrokerError: it can't be read.
            TopicError: a topic is missing.
        """
        records = list(self._whole(self._names.rules))
        rules, bad = standing_rules((message.key(), message.value()) for message in records)
        unread = tuple(
            f"{self._names.rules}[{records[at].partition()}]@{records[at].offset()}, not taken; the version before stays: {problem}"
            for at, error in bad
            for problem in error.problems[:TOLD]
        )
        now_ms = rule_time(self._newest_ms(), self._clock_ms, compile_rules(rules.values()))
        return Book(rules, self._items(), now_ms, unread)

    def put(self, rules: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Send rules (key, value), in order; None ends one. Returns when all are acknowledged.

        Raises:
            BrokerError: one was not.
        """
        failed: list[str] = []

        def told(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(error.str())

        producer = Producer(
            {**self._config, "enable.idempotence": True, "partitioner": "murmur2_random", "message.timeout.ms": round(TIMEOUT_S * 1000)}
        )
        try:
            for key, value in rules:
                producer.produce(self._names.rules, value, key, on_delivery=told)
                producer.poll(0)
            left = producer.flush(TIMEOUT_S)
        except KafkaException as error:
            raise _unsent(str(error)) from error
        if failed or left:
            raise _unsent(failed[0] if failed else f"{left} records without an answer")

    def _items(self) -> list[Item]:
        """The entries; records that can't be read leave the one before, as with workers."""
        items: dict[str, Item] = {}
        for message in self._whole(self._names.items):
            try:
                item, name = decode_item(message.value(), message.key()), key_id(message.key())
            except BadRecord:
                continue
            if item is None:
                items.pop(name, None)
            else:
                items[name] = msgspec.structs.replace(item, vectors={})  # no rule is about them
        return [items[name] for name in sorted(items)]

    def _newest_ms(self) -> int:
        """The time of the newest event, by the last record of each partition; the clock's where there is none."""
        newest = 0
        for message in self._whole(self._names.events, last=1):
            try:
                event = decode_event(message.value(), message.key(), types=self._settings.event_weights)
            except BadRecord:
                continue
            newest = max(newest, event.timestamp)
        latest = self._clock_ms + round(self._settings.future_tolerance_s * 1000)
        return min(newest, latest) or self._clock_ms

    def _whole(self, topic: str, last: int | None = None) -> Iterator[Any]:
        """The records of a topic up to its present end, or the `last` of each partition."""
        own = {"group.id": "headwater-rules", "enable.auto.commit": False, "enable.partition.eof": True, "fetch.wait.max.ms": 20}
        consumer = Consumer({**self._config, **own})
        try:
            metadata = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
            if metadata.error is not None:
                raise TopicError("missing_topic", f"no topic {topic}", "the installation's topics", MAKE)
            places = [TopicPartition(topic, p, OFFSET_BEGINNING) for p in metadata.partitions]
            for place in places if last is not None else ():
                low, high = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
                place.offset = max(low, high - (last or 0))
            consumer.assign(places)
            left, until = set(metadata.partitions), monotonic() + TIMEOUT_S
            while left:
                for message in consumer.consume(AT_ONCE, 0.2):
                    error = message.error()
                    if error is None:
                        until = monotonic() + TIMEOUT_S
                        yield message
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - confluent-kafka's name
                        left.discard(message.partition())
                if left and monotonic() > until:
                    raise _unread(f"{topic}: nothing came for {TIMEOUT_S:g} s, and it is not at its end")
        except KafkaException as error:
            raise _unread(f"{topic}: {error}") from error
        finally:
            consumer.close()


def _unread(found: str) -> BrokerError:
    return BrokerError(
        "not_read", found, "a readable topic", "run `headwater topics check`; look at the broker and the rights", retryable=True
    )


def _unsent(found: str) -> BrokerError:
    return BrokerError(
        "not_sent", found, "an acknowledged record on rules", "look at the broker and the rights, then try again", retryable=True
    )
