"""The outbox keeps order under back pressure, proves arrival, and lets nothing pass after a failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from engine.partition import partition_of
from streams.outbox import DeliveryError, Outbox


class Sent:
    """A message as an acknowledgement shows it."""

    def __init__(self, topic: str, offset: int) -> None:
        self._topic, self._offset = topic, offset

    def topic(self) -> str:
        return self._topic

    def offset(self) -> int:
        return self._offset


class Library:
    """Stands in for librdkafka's producer: a queue with `room`, acknowledged when the test says so."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.queue: list[tuple[str, bytes, bytes, Callable[..., None]]] = []
        self.arrived: list[bytes] = []
        self.answers: list[tuple[Callable[..., None], KafkaError | None]] = []
        self.refuse: KafkaError | None = None

    def __len__(self) -> int:
        return len(self.queue) + len(self.answers)

    def produce(
        self, topic: str, value: bytes, key: bytes, partition: int, *, on_delivery: Callable[..., None], headers: Any = None
    ) -> None:
        if self.refuse is not None:
            raise KafkaException(self.refuse)
        if len(self) >= self.room:
            raise BufferError
        self.queue.append((topic, key, value, on_delivery))

    def produce_batch(self, topic: str, messages: list[dict[str, Any]], partition: int, *, on_delivery: Callable[..., None]) -> int:
        taken = 0
        for message in messages:
            if self.refuse is not None or len(self) >= self.room:
                message["_error"] = self.refuse or KafkaError(KafkaError._QUEUE_FULL)  # noqa: SLF001 - the library's own name
            else:
                self.queue.append((topic, message["key"], message["value"], on_delivery))
                taken += 1
        return taken

    def acknowledge(self, count: int, error: KafkaError | None = None) -> None:
        """Let the broker answer for the first `count` records."""
        for _, _, value, answer in self.queue[:count]:
            if error is None:
                self.arrived.append(value)
            self.answers.append((answer, error))
        del self.queue[:count]

    def poll(self, timeout: float) -> int:
        answers, self.answers = self.answers, []
        for answer, error in answers:
            answer(error, Sent("t", len(self.arrived)))
        return len(answers)


def outbox(library: Library, high_water: int = 1_000) -> Outbox:
    """Make an outbox over it."""
    return Outbox({}, producer=library, high_water=high_water)


def test_order_when_the_queue_is_full() -> None:
    """Records that find no room wait in order, behind each other and before later ones, with headers or without."""
    library = Library(room=3)
    box = outbox(library)
    values = [b"%d" % number for number in range(12)]
    box.publish_many("t", [(b"k", value) for value in values[:8]])
    box.publish("t", b"k", values[8], headers=[("schema", b"v1")])
    box.publish_many("t", [(b"k", value) for value in values[9:]])
    assert box.pending == 12
    while box.pending:
        library.acknowledge(2)
        box.poll()
    assert library.arrived == values


def test_barrier_waits_for_all_before_it() -> None:
    """A barrier returns when everything published before it is acknowledged; what comes later does not hold it up."""

    async def run() -> None:
        library = Library(room=100)
        box = outbox(library)
        box.publish_many("t", [(b"k", b"1"), (b"k", b"2")])
        first = asyncio.create_task(box.barrier())
        await asyncio.sleep(0.01)
        box.publish("t", b"k", b"3")
        second = asyncio.create_task(box.barrier())
        await asyncio.sleep(0.01)
        library.acknowledge(1)
        await asyncio.sleep(0.01)
        assert (first.done(), second.done()) == (False, False)
        library.acknowledge(1)
        await asyncio.sleep(0.01)
        assert (first.done(), second.done()) == (True, False)
        library.acknowledge(1)
        await second
        await box.barrier()  # nothing to wait for

    asyncio.run(run())


def test_receipt_tells_the_last_offset() -> None:
    """A receipt knows when all its records have arrived, and the offset of the last: what RocksDB is complete up to."""

    async def run() -> None:
        library = Library(room=100)
        box = outbox(library)
        receipt = box.receipt()
        box.publish_many("changelog", [(b"k", b"1"), (b"k", b"2")], 0, receipt=receipt)
        box.publish("t", b"k", b"3")
        library.acknowledge(2)
        await box.settle([receipt])
        assert (receipt.complete, receipt.offset) == (True, 2)

    asyncio.run(run())


def test_late_changelog_is_no_failure() -> None:
    """A changelog record that timed out is told by its receipt and stops nothing; an output record that timed out is a failure."""

    async def run() -> None:
        library = Library(room=100)
        box = outbox(library)
        receipt = box.receipt()
        box.publish_many("changelog", [(b"k", b"1")], 0, receipt=receipt)
        library.acknowledge(1, KafkaError(KafkaError._MSG_TIMED_OUT))  # noqa: SLF001 - the library's own name
        await box.settle([receipt])
        assert receipt.late
        box.publish("t", b"k", b"1")
        library.acknowledge(1, KafkaError(KafkaError._MSG_TIMED_OUT))  # noqa: SLF001 - the library's own name
        with pytest.raises(DeliveryError):
            await box.barrier()

    asyncio.run(run())


def test_nothing_passes_after_a_failure() -> None:
    """Once a record was refused, barriers, receipts, readiness and publishing all raise, the first error each time."""

    async def run() -> None:
        library = Library(room=100)
        box = outbox(library)
        box.publish("t", b"k", b"1")
        library.acknowledge(1, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        for call in (box.barrier, box.ready, lambda: box.settle([])):
            with pytest.raises(DeliveryError) as raised:
                await call()
            assert raised.value.code == "delivery_msg_size_too_large"
        with pytest.raises(DeliveryError):
            box.publish("t", b"k", b"2")

    asyncio.run(run())


@pytest.mark.parametrize("headers", [None, [("schema", b"v1")]])
def test_what_cannot_be_sent_is_not_lost_silently(headers: Any) -> None:
    """A record that librdkafka itself refuses raises where it is published."""
    library = Library(room=100)
    library.refuse = KafkaError(KafkaError._UNKNOWN_TOPIC)  # noqa: SLF001 - the library's own name
    with pytest.raises(DeliveryError, match="unknown_topic"):
        outbox(library).publish("t", b"k", b"1", headers=headers)


def test_ready_holds_reading_back() -> None:
    """Reading waits while `high_water` records are under way, and goes on when they have arrived."""

    async def run() -> None:
        library = Library(room=100)
        box = outbox(library, high_water=2)
        box.publish_many("t", [(b"k", b"1"), (b"k", b"2")])
        waiting = asyncio.create_task(box.ready())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        library.acknowledge(1)
        await asyncio.wait_for(waiting, 1)

    asyncio.run(run())


@pytest.mark.broker
def test_on_a_broker(cluster: str, prefix: str) -> None:
    """Keys go where Java's default partitioner puts them, headers and tombstones arrive, and a barrier means they are there."""
    topic = f"{prefix}outbox"
    make_topic(cluster, topic)
    keys = [f"user-{number}-é".encode() for number in range(200)]

    async def run() -> None:
        box = Outbox({"bootstrap.servers": cluster})
        box.publish_many(topic, [(key, b"plain") for key in keys])
        box.publish_many(topic, [(key, None) for key in keys], headers=[("schema", b"headwater.test.v1")])
        box.publish(topic, keys[0], b"placed", partition=3)
        await box.barrier()
        assert box.pending == 0
        with pytest.raises(DeliveryError):
            box.publish(topic, b"k", b"x" * 5_000_000)
        box.close()

    asyncio.run(run())
    reader = Consumer({"bootstrap.servers": cluster, "group.id": f"{prefix}reader"})
    reader.assign([TopicPartition(topic, number, 0) for number in range(4)])
    messages: list[Any] = []
    until = time.monotonic() + 20
    while len(messages) < 401 and time.monotonic() < until:
        messages += reader.consume(500, 1.0)
    reader.close()
    placed = [message for message in messages if message.value() == b"placed"]
    plain = [message for message in messages if message.value() == b"plain"]
    tombstones = [message for message in messages if message.value() is None]
    assert [message.partition() for message in placed] == [3]
    assert {message.key(): message.partition() for message in plain} == {key: partition_of(key, 4) for key in keys}
    assert [message.headers() for message in tombstones] == [[("schema", b"headwater.test.v1")]] * 200


def make_topic(bootstrap: str, topic: str) -> None:
    """Make a topic of 4 partitions, on a broker that does not make it by being asked for it."""
    from confluent_kafka.admin import AdminClient, NewTopic

    from streams.topics import wait_open

    admin = AdminClient({"bootstrap.servers": bootstrap})
    if not admin.list_topics(topic, timeout=10).topics[topic].partitions:
        admin.create_topics([NewTopic(topic, 4, 1)])[topic].result(20)
        wait_open(admin, {topic: 4})
