"""An outside client, as a user's systems are: sends events, reads lists, knows which list covers which event. No part of a worker.

One thread: whoever uses it calls `send` and `read`. Times are seconds of `time.perf_counter`, taken before an event is handed to the client
and when its list was read from the topic.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from engine.errors import BrokerError
from streams import security
from streams.settings import Settings
from streams.topics import Names

TIMEOUT_S = 15.0
MOST = 500
"""Lists read at a time, 3 kB each."""


class Place(msgspec.Struct):
    """A place of a list, as far as it is always read."""

    item_id: str


class Head(msgspec.Struct):
    """A list, as far as it is always read; the rest stays in the record's bytes."""

    user_id: str
    surface: str
    generation: str
    applied: dict[str, tuple[int, int]]
    items: list[Place]


class Standing(NamedTuple):
    """The newest list of a user; `value`: all of it."""

    items: tuple[str, ...]
    generation: str
    read_at: float
    value: bytes


@dataclass(slots=True)
class _Sent:
    at: float
    measured: bool
    offset: int = -1  # known once the broker has answered


@dataclass(slots=True)
class Waiting:
    """A user's events that no list has covered yet, oldest first, and the lists read before the broker told those events' offsets."""

    events: deque[_Sent]
    early: list[tuple[int, float]]


class Outside:
    """Sends to `events` and reads `recommendations` from now on, as two plain Kafka clients.

    ``standing``: user -> newest list of the surface ``home``; ``lists``: lists read; ``uncovered``: events without a list so far;
    ``freshness``: seconds from before an event was sent to its list, for the events that were to be measured.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = perf_counter) -> None:
        self._names, self._clock = Names.under(settings.prefix), clock
        config = {**security.librdkafka(settings), "log_level": 0}
        self._producer = Producer({**config, "enable.idempotence": True, "linger.ms": 0, "partitioner": "murmur2_random"})
        self._consumer = Consumer({**config, "group.id": f"{settings.app_id}-outside", "enable.auto.commit": False, "fetch.wait.max.ms": 5})
        self._consumer.assign([TopicPartition(self._names.recommendations, p, end) for p, end in self._ends(self._names.recommendations)])
        self._decode = msgspec.json.Decoder(Head).decode
        self._users: defaultdict[str, Waiting] = defaultdict(lambda: Waiting(deque(), []))
        self._failed: KafkaError | None = None
        self.standing: dict[str, Standing] = {}
        self.lists = self.uncovered = self.sent = 0
        self.covered_at = clock()
        self.freshness: list[float] = []

    def send(self, user: str, value: bytes, *, measured: bool = False) -> None:
        """Send an event.

        Raises:
            BrokerError: an event was refused.
        """
        waiting = self._users[user]
        if not self.uncovered:
            self.covered_at = self._clock()
        sent = _Sent(self._clock(), measured)
        waiting.events.append(sent)
        self.sent += 1
        self.uncovered += 1

        def told(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failed = error
                return
            sent.offset = message.offset() or 0
            self._settle(waiting)

        try:
            self._producer.produce(self._names.events, value, user.encode(), on_delivery=told)
        except KafkaException as error:
            raise self._broken(error.args[0]) from error
        self._producer.poll(0)

    def read(self, wait_s: float) -> None:
        """Read what there is, and wait up to `wait_s` for the first.

        Raises:
            BrokerError: an event was refused, or the lists can't be read.
        """
        self._producer.poll(0)
        first = self._consumer.poll(max(0.0, wait_s))
        if first is not None:
            now = self._clock()
            for message in (first, *self._consumer.consume(MOST, 0)):
                self._take(message, now)
        self._producer.poll(0)
        if self._failed is not None:
            raise self._broken(self._failed)

    def busy(self, user: str) -> bool:
        """Whether an event of this user waits for its list."""
        return user in self._users and bool(self._users[user].events)

    def records(self, topic: str) -> int:
        """Records on a topic."""
        return sum(end for _, end in self._ends(topic))

    def close(self) -> None:
        """Leave."""
        self._consumer.close()

    def _take(self, message: Message, now: float) -> None:
        error = message.error()
        if error is not None:
            unused = error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED  # partitions are assigned here: no right to a group is needed
            if error.fatal() or not (error.retriable() or unused):
                raise self._broken(error)
            return
        value = message.value() or b""
        head = self._decode(value)
        self.lists += 1
        if head.surface != "home":
            return
        waiting = self._users[head.user_id]
        partition, offset = head.applied.get("events", (-1, -1))
        if partition == message.partition():
            waiting.early.append((offset, now))
            self._settle(waiting)
        items = tuple(place.item_id for place in head.items)
        self.standing[head.user_id] = Standing(items, head.generation, now, value)

    def _settle(self, waiting: Waiting) -> None:
        """Match a user's lists with events: the first list whose `applied` reaches an event's offset covers it."""
        while waiting.events and waiting.early and waiting.events[0].offset >= 0:
            event = waiting.events[0]
            while waiting.early and waiting.early[0][0] < event.offset:
                waiting.early.pop(0)
            if not waiting.early:
                return
            waiting.events.popleft()
            self.uncovered -= 1
            self.covered_at = self._clock()
            if event.measured:
                self.freshness.append(waiting.early[0][1] - event.at)
        if not waiting.events:
            waiting.early.clear()

    def _ends(self, topic: str) -> list[tuple[int, int]]:
        try:
            partitions = self._consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
            return [(p, self._consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=TIMEOUT_S)[1]) for p in partitions]
        except KafkaException as error:
            raise self._broken(error.args[0]) from error

    @staticmethod
    def _broken(error: Any) -> BrokerError:
        return BrokerError(
            "outside_client", str(error.str()), "a broker that answers", "look at the broker", retryable=bool(error.retriable())
        )
