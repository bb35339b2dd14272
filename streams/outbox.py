"""The way out: one librdkafka producer, and the proof that what was published has arrived. Not a place that knows what it sends.

`publish` never waits: it hands records to librdkafka, or keeps them in order when librdkafka's queue is full. Whoever reads faster than the
broker takes is slowed down by `ready`, which the batch path awaits before each batch. `barrier` is the proof that the checkpoint rests on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from engine.errors import BrokerError

Headers = Sequence[tuple[str, bytes]]

QUEUE_RECORDS = 200_000
"""Most records librdkafka keeps: above twice the high water mark, so that one batch's records always fit in practice."""
QUEUE_KIB = 262_144
"""Most KiB librdkafka keeps: 256 MiB, 200,000 lists of 1.3 kB."""
HIGH_WATER = 50_000
"""Records under way from which on no new batch is begun: at 30,000/s about 1.7 s of output, so a broker's hiccup does not stall reading."""
POLL_S = 0.001
"""Seconds between two looks for acknowledgements while somebody waits for them: small against the 3-10 ms that a broker takes."""
SLOW_POLL_S = 0.02
"""The same once nothing was acknowledged for 200 looks: the broker is away, and 1,000 wake-ups a second would help nobody."""
PATIENCE = 200
CHANGELOG_TIMEOUT_S = 3.0
"""How long a changelog record may wait in librdkafka: below any session timeout (6 s at least). A worker that was frozen until its
partitions became another's then finds its old rows timed out, and does not send them behind the new owner's."""


class DeliveryError(BrokerError):
    """A record could not be delivered; nothing after it may be committed, so the worker stops and reads it again."""


class Delivery(Protocol):
    """What an acknowledgement is told to."""

    def answer(self, error: KafkaError | None, message: Message) -> None: ...


class Receipt:
    """Counts the records published on it and the acknowledgements that came back.

    ``offset`` is the offset of the last acknowledged record: for one topic partition the highest, since librdkafka keeps their order.
    """

    __slots__ = ("_outbox", "answered", "late", "offset", "own", "sent")

    def __init__(self, outbox: Outbox, *, own: bool = False) -> None:
        self._outbox = outbox
        self.own = own  # for a changelog: its records may time out
        self.late = False  # one of them has
        self.sent = 0
        self.answered = 0
        self.offset = -1

    @property
    def complete(self) -> bool:
        """Whether everything published on it is acknowledged."""
        return self.answered == self.sent

    def answer(self, error: KafkaError | None, message: Message) -> None:
        """Take one acknowledgement, or the error that came instead (called by librdkafka out of `poll`)."""
        self.answered += 1
        if error is None:
            self.offset = message.offset()
        elif self.own and error.code() == KafkaError._MSG_TIMED_OUT:  # noqa: SLF001 - confluent-kafka's names for local errors begin so
            self.late = True
        else:
            self._outbox.fail(str(error.name()), f"a record for {message.topic()} was refused: {error.str()}")


class Outbox:
    """Publishes records; all calls belong to the event loop's thread.

    Args:
        config: librdkafka's settings, `bootstrap.servers` at least; they win over the ones set here.
        high_water: records under way from which on `ready` waits.
        changelog_timeout_s: how long a record published on a receipt may wait before it is given up (`Receipt.late`).
        producer: stands in for librdkafka's in tests.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        high_water: int = HIGH_WATER,
        changelog_timeout_s: float = CHANGELOG_TIMEOUT_S,
        producer: Any = None,
    ) -> None:
        settings = {
            "enable.idempotence": True,  # no duplicates and no reordering when librdkafka retries
            "acks": "all",
            "partitioner": "murmur2_random",  # as Java clients and kafka-python: a user's records stay on one partition
            "queue.buffering.max.messages": QUEUE_RECORDS,
            "queue.buffering.max.kbytes": QUEUE_KIB,
            "linger.ms": 1,  # a list is worth more sooner than in a larger request
            "error_cb": self._on_error,
            **config,
        }
        self._producer = Producer(settings) if producer is None else producer
        timeout = {"message.timeout.ms": round(changelog_timeout_s * 1000)}  # of the producer, not of a record: hence a second one
        self._changelog = Producer({**settings, **timeout}) if producer is None else producer
        self._high_water = high_water
        self._receipt = Receipt(self)
        self._closed: deque[Receipt] = deque()  # receipts of earlier barriers with acknowledgements still to come
        self._waiting: deque[tuple[str, bytes | None, bytes | None, int, Headers | None, Receipt]] = deque()
        self._error: DeliveryError | None = None
        self.published = 0
        """Records published since the start."""
        self.acknowledged = 0
        """Records acknowledged or refused since the start, as of the last `poll`."""

    @property
    def pending(self) -> int:
        """Records that librdkafka or the broker still has to answer for, or that wait for room in librdkafka's queue."""
        return len(self._producer) + len(self._waiting) + (0 if self._changelog is self._producer else len(self._changelog))

    def receipt(self) -> Receipt:
        """Give a receipt for changelog records: their arrival is proved by `settle`, and they may be given up (`Receipt.late`)."""
        return Receipt(self, own=True)

    def publish(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int = -1,
        headers: Headers | None = None,
    ) -> None:
        """Publish one record; see `publish_many`."""
        self.publish_many(topic, ((key, value),), partition, headers)

    def publish_many(
        self,
        topic: str,
        records: Iterable[tuple[bytes | None, bytes | None]],
        partition: int = -1,
        headers: Headers | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        """Publish records (key, value) to one topic, in order; returns at once.

        Args:
            topic: a topic that exists.
            records: keys and values; a value of None is a tombstone.
            partition: the partition of all of them, or -1 for murmur2 of the key.
            headers: the headers of each of them.
            receipt: who counts the acknowledgements; None: the next `barrier`.

        Raises:
            DeliveryError: an earlier record was refused, or one of these can't be sent at all (too large, say).
        """
        self._check()
        receipt = self._receipt if receipt is None else receipt
        if headers is None and not self._waiting:
            self._produce_batch(topic, records, partition, receipt)
        else:
            for key, value in records:
                receipt.sent += 1
                self.published += 1
                if self._waiting or not self._produce(topic, key, value, partition, headers, receipt):
                    self._waiting.append((topic, key, value, partition, headers, receipt))
        self.poll()

    def _produce_batch(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], partition: int, receipt: Receipt) -> None:
        # produce_batch costs 2.8 µs a record, produce 7.3 µs, but it takes no headers (confluent-kafka 2.16)
        messages: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in records]
        receipt.sent += len(messages)
        self.published += len(messages)
        taken = self._of(receipt).produce_batch(topic, messages, partition, on_delivery=receipt.answer) if messages else 0
        if taken == len(messages):
            return
        for message in messages:
            error = message.get("_error")
            if error is None:
                continue
            if error.code() != KafkaError._QUEUE_FULL:  # noqa: SLF001 - confluent-kafka's names for local errors begin so
                raise self.fail(str(error.name()), f"a record for {topic} can't be sent: {error.str()}")
            self._waiting.append((topic, message["key"], message["value"], partition, None, receipt))

    def _produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int,
        headers: Headers | None,
        receipt: Receipt,
    ) -> bool:
        try:
            if headers is None:
                self._of(receipt).produce(topic, value, key, partition, on_delivery=receipt.answer)
            else:
                self._of(receipt).produce(topic, value, key, partition, on_delivery=receipt.answer, headers=list(headers))
        except BufferError:
            return False
        except KafkaException as exc:
            error = exc.args[0]
            raise self.fail(str(error.name()), f"a record for {topic} can't be sent: {error.str()}") from exc
        return True

    def _of(self, receipt: Receipt) -> Any:
        return self._changelog if receipt.own else self._producer

    def poll(self) -> None:
        """Take the acknowledgements that have come, and hand on what waits for room."""
        self.acknowledged += self._producer.poll(0)
        if self._changelog is not self._producer:
            self.acknowledged += self._changelog.poll(0)
        while self._waiting:
            if not self._produce(*self._waiting[0]):
                break
            self._waiting.popleft()

    async def ready(self) -> None:
        """Return once fewer than `high_water` records are under way.

        Raises:
            DeliveryError: a record was refused.
        """
        looks = 0
        while self.pending >= self._high_water:
            looks = await self._look(looks)
        self._check()

    async def barrier(self) -> None:
        """Return once everything that was published before this call (without a receipt of its own) is acknowledged.

        Raises:
            DeliveryError: a record was refused.
        """
        if self._receipt.sent:
            self._closed.append(self._receipt)
            self._receipt = Receipt(self)
        await self.settle(list(self._closed))
        while self._closed and self._closed[0].complete:
            self._closed.popleft()

    async def settle(self, receipts: Sequence[Receipt]) -> None:
        """Return once everything published on these receipts is acknowledged.

        Raises:
            DeliveryError: a record was refused.
        """
        looks = 0
        while not all(receipt.complete for receipt in receipts):
            looks = await self._look(looks)
        self._check()

    async def _look(self, looks: int) -> int:
        before = self.acknowledged
        self.poll()
        self._check()
        await asyncio.sleep(POLL_S if looks < PATIENCE else SLOW_POLL_S)
        return looks + 1 if self.acknowledged == before else 0

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.fail(str(error.name()), f"the producer has failed for good: {error.str()}")

    def fail(self, code: str, found: str) -> DeliveryError:
        """Remember the first failure, so that no later barrier passes, and give it."""
        if self._error is None:
            self._error = DeliveryError(
                f"delivery_{code.lstrip('_').lower()}",
                found,
                "every record acknowledged by all in-sync replicas",
                "look at the broker and the topic's settings (existence, rights, max.message.bytes), then start the worker again",
                retryable=True,
            )
        return self._error

    def close(self, timeout_s: float = 2.0) -> int:
        """Give what is under way `timeout_s` seconds more; give the number of records that are left behind."""
        self._changelog.flush(timeout_s)
        self._producer.flush(timeout_s)
        return self.pending
