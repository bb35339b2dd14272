"""The standing lists of one user, as they stand on `recommendations` now: read from outside, for people. Nothing is made here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from engine.errors import BrokerError
from engine.partition import partition_of
from streams import security, topics
from streams.settings import Settings

TIMEOUT_S = 15.0
AT_ONCE = 1_000
LOOK_S = 0.2


def standing(
    settings: Settings, user_id: str, surface: str, wait_s: float, *, clock: Callable[[], float] = time.monotonic
) -> dict[str, Any] | None:
    """The newest list of a user; waits up to `wait_s` for the first one. None: there is none, or it was taken back.

    The whole partition of the user is read: seconds on a large installation.

    Raises:
        BrokerError: the topic cannot be read.
        TopicError: it is not there.
    """
    topic = topics.Names.under(settings.prefix).recommendations
    raw = newest(settings, topic, user_id, f"{surface}:{user_id}".encode(), wait_s, clock=clock)
    return msgspec.json.decode(raw) if raw else None


def newest(
    settings: Settings,
    topic: str,
    user_id: str,
    key: bytes,
    wait_s: float,
    enough: Callable[[bytes], bool] = bool,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """The newest record with this key in the partition of a user; b"" if there is none, or a tombstone. Waits up to `wait_s` for one that
    is `enough`.

    Raises:
        BrokerError: the topic cannot be read.
        TopicError: topics are missing.
    """
    client = topics.admin(settings)
    partition = partition_of(user_id.encode(), topics.count(client, settings))
    found, until = b"", clock() + wait_s
    config = {**security.librdkafka(settings), "group.id": f"{settings.app_id}-standing", "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer({**config, "auto.offset.reset": "earliest"})
    try:
        place = TopicPartition(topic, partition)
        first, end = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
        consumer.assign([TopicPartition(topic, partition, first)])
        while True:
            while (at := consumer.position([place])[0].offset) < end and not (at < 0 and first == end):
                for message in consumer.consume(AT_ONCE, LOOK_S):
                    if message.error() is None and message.key() == key:
                        found = message.value() or b""
            if enough(found) or clock() > until:
                return found
            time.sleep(LOOK_S)
            end = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[1]
    except KafkaException as error:
        raise BrokerError(
            "topic_unreadable", f"{topic}: {error}", "a topic that can be read", "look at the broker and the rights"
        ) from error
    finally:
        consumer.close()
