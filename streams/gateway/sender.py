"""Hands records to Kafka and waits until they are acknowledged. Not a queue: what can't be sent in time is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from engine.errors import BrokerError
from streams.gateway.metrics import Metrics
from streams.gateway.problems import Refused

TIMEOUT_S = 5.0
"""How long a record may wait for its acknowledgement: a new leader is found in less, and who waits for HTTP waits no longer."""
QUEUE_KIB = 65_536
"""Memory for records under way, 64 MiB: beyond it requests are refused until some are acknowledged."""
POLL_S = 0.1
STOP_S = 6.0
OVERHEAD = 1024
"""Bytes that key and headers may add to a value of the largest size."""
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})


class Record(NamedTuple):
    """What is to be sent."""

    topic: str
    key: bytes
    value: bytes | None


class Place(NamedTuple):
    """Where a record stands."""

    partition: int
    offset: int


class Sender:
    """One producer for all requests; a thread of its own waits for librdkafka's acknowledgements."""

    def __init__(self, config: Mapping[str, Any], metrics: Metrics, *, max_bytes: int, producer: Any = None) -> None:
        self._metrics = metrics
        self._producer = producer or Producer(
            {
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 0.5,  # an event is worth more sooner than in a larger request
                "message.timeout.ms": round(TIMEOUT_S * 1000),
                "message.max.bytes": max_bytes + OVERHEAD,
                "queue.buffering.max.kbytes": QUEUE_KIB,
                **config,
            }
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="sender", daemon=True)
        self._thread.start()

    async def send(self, records: Sequence[Record]) -> list[Place]:
        """Send records in order, and give their places once all are acknowledged.

        Raises:
            BrokerError: at least one was not; the others may be there.
            Refused: one is too large for the broker, or too many are under way.
        """
        batch = _Batch(asyncio.get_running_loop(), len(records))
        for number, record in enumerate(records):
            try:
                self._producer.produce(record.topic, record.value, record.key, on_delivery=batch.teller(number))
            except BufferError:
                batch.tell(number, KafkaError(KafkaError._QUEUE_FULL), None)  # noqa: SLF001 - confluent-kafka's name
            except KafkaException as error:
                batch.tell(number, error.args[0], None)
        await batch.done
        for record, failure in zip(records, batch.errors, strict=True):
            (self._metrics.refused if failure else self._metrics.produced).labels(record.topic).inc()
        failed = [error for error in batch.errors if error is not None]
        if failed:
            raise _refusal(failed[0], len(failed), len(records))
        return batch.places

    async def stop(self) -> None:
        """Wait for what is under way, and stop."""
        await asyncio.to_thread(self._producer.flush, STOP_S)
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, STOP_S)

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)


class _Batch:
    """Records of one call. `tell` is called by the sender's thread, or by the loop's for those that never left; each record once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self._loop, self._left, self._lock = loop, count, threading.Lock()
        self.done: asyncio.Future[None] = loop.create_future()
        self.places = [Place(-1, -1)] * count
        self.errors: list[KafkaError | None] = [None] * count
        if not count:
            self.done.set_result(None)

    def teller(self, number: int) -> Any:
        return lambda error, message: self.tell(number, error, message)

    def tell(self, number: int, error: KafkaError | None, message: Message | None) -> None:
        self.errors[number] = error
        if error is None and message is not None:
            self.places[number] = Place(message.partition(), message.offset())
        with self._lock:
            self._left -= 1
            last = not self._left
        if last and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _refusal(error: KafkaError, failed: int, count: int) -> BrokerError | Refused:
    found = error.str() if count == 1 else f"{error.str()} ({failed} of {count} records)"
    if error.code() in TOO_LARGE:
        return Refused(413, "too_large", found, "a record that the broker takes", "send less, or raise the topic's max.message.bytes")
    if error.code() == KafkaError._QUEUE_FULL:  # noqa: SLF001 - confluent-kafka's name
        return Refused(
            429, "busy", "too many records under way", "room for one more", "send the same again a little later", retry_after_s=1
        )
    remedy = "send the same again: what arrived already counts once, by its id"
    return BrokerError("not_acknowledged", found, "an acknowledgement by Kafka", remedy, retryable=True)
