"""Reads topics without a consumer group: what every worker needs (items, rules, statistics, vectors, weights), and what a gateway shows.

A thread polls librdkafka and hands batches to the event loop. `caught_up` is the readiness barrier: it is set once every partition was read
to its end. No list is made before.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from engine.errors import BrokerError, TopicError
from streams.logs import logger

POLL_S = 0.1
FETCH_WAIT_MS = 50
MOST = 2_000
"""Records in one hand-over: at 10-20 µs each the engine's thread is busy for 20-40 ms while it catches up."""
TIMEOUT_S = 20.0
STOP_S = 2.0
"""How long the end waits for a batch under way; the thread ends with the process in any case."""

log = logger(__name__)
Apply = Callable[[Sequence[Message]], Coroutine[Any, Any, None]]


class Broadcast:
    """A group-less reader of whole topics, or of their ends.

    Args:
        config: librdkafka's settings.
        topics: full topic names.
        apply: awaited in the event loop with each batch, in order.
        tails: topics that are not read from the beginning, and how many records before the end to begin, all partitions together.
        fetch_wait_ms: how long a broker may keep a fetch without records.
        at_once: hand records over as they come; else they are gathered for a tenth of a second, which is fewer hand-overs.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topics: Sequence[str],
        apply: Apply,
        *,
        tails: Mapping[str, int] | None = None,
        fetch_wait_ms: int = FETCH_WAIT_MS,
        at_once: bool = False,
    ) -> None:
        self._consumer = Consumer(
            {
                **config,
                "group.id": "headwater-broadcast",  # required by librdkafka; never joined, nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": fetch_wait_ms,
                "queued.max.messages.kbytes": 65_536,
            }
        )
        self._topics = topics
        self._apply = apply
        self._tails, self._at_once = tails or {}, at_once
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._left: set[tuple[str, int]] = set()
        self.caught_up = asyncio.Event()
        self.failure: BaseException | None = None
        self.records = 0

    def open(self) -> None:
        """Find where to begin; blocks while the broker is asked.

        Raises:
            TopicError: a topic is missing.
            BrokerError: the broker does not answer.
        """
        try:
            metadata = self._consumer.list_topics(timeout=TIMEOUT_S).topics
            missing = [name for name in self._topics if name not in metadata or metadata[name].error is not None]
            if missing:
                expected = "topics that all workers or the gateway read"
                raise TopicError("missing_topic", f"no topic {', '.join(missing)}", expected, "run `headwater topics create`")
            places = [place for name in self._topics for place in self._begins(name, list(metadata[name].partitions))]
        except KafkaException as error:
            remedy = "check HEADWATER_BROKER, the network, and the user's rights"
            raise BrokerError("no_broker", str(error), "a broker that answers", remedy, retryable=True) from error
        self._left = {(place.topic, place.partition) for place in places}
        self._consumer.assign(places)

    def start(self) -> None:
        """Begin to read; without `open` before, also that.

        Raises:
            TopicError: a topic is missing.
            BrokerError: the broker does not answer.
        """
        if not self._left:
            self.open()
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._read, args=(loop,), name="broadcast", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Stop reading, and wait until the last batch is applied."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_S)
        else:
            await asyncio.to_thread(self._consumer.close)

    def _begins(self, name: str, partitions: Sequence[int]) -> list[TopicPartition]:
        if name not in self._tails:
            return [TopicPartition(name, p, OFFSET_BEGINNING) for p in partitions]
        each = -(-self._tails[name] // len(partitions))  # rounded up
        ends = [self._consumer.get_watermark_offsets(TopicPartition(name, p), timeout=TIMEOUT_S) for p in partitions]
        return [TopicPartition(name, p, max(low, high - each)) for p, (low, high) in zip(partitions, ends, strict=True)]

    def _give_up(self, found: str) -> NoReturn:
        raise BrokerError("broadcast_failed", found, "readable topics", "look at the broker and the rights", retryable=True)

    def _next(self) -> list[Message]:
        """What came; `consume` alone waits until it has all it may give, or its time is over."""
        if self._at_once:
            first = self._consumer.poll(POLL_S)
            return [] if first is None else [first, *self._consumer.consume(MOST - 1, 0)]
        found: list[Message] = self._consumer.consume(MOST, POLL_S)
        return found

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while not self._stopping.is_set():
                messages, ended = [], []
                for message in self._next():
                    error = message.error()
                    if error is None:
                        messages.append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - confluent-kafka's name
                        ended.append((message.topic(), message.partition()))
                    elif error.fatal():
                        self._give_up(error.str())
                    else:
                        log.warning("broadcast_error", error=error.str())
                if messages and not self._stopping.is_set():
                    asyncio.run_coroutine_threadsafe(self._apply(messages), loop).result()
                    self.records += len(messages)
                if ended and self._left:
                    self._left.difference_update(ended)
                    if not self._left:
                        loop.call_soon_threadsafe(self.caught_up.set)
        except BaseException as error:  # noqa: BLE001 - told to the worker, which stops
            self.failure = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.caught_up.set)
        finally:
            self._consumer.close()
