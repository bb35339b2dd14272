"""An open-loop load: events at a fixed rate, whatever the worker does, and when the list that covers each event could be read.

Users are Zipf-distributed (exponent 1) and simulated; items are drawn from real purchases. An event's time runs from before `send()` to the
moment when an outside consumer has a list of that user whose `applied` covers the event's offset; without one it is infinite.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

USERS = 10_000
GRACE_S = 5.0
FETCH_WAIT_MS, MOCK_FETCH_WAIT_MS = 500, 5
"""How long a broker may keep a reader's fetch without records. The embedded one does so for all of that, whatever comes meanwhile."""
TICK_S = 0.001
"""What the generator sleeps at least: beyond 1,000 events/s several leave at once, up to a tick late, which leaves the processors alone."""


class _List(msgspec.Struct):
    user_id: str
    applied: dict[str, tuple[int, int]]


@dataclass
class Run:
    """What one run at one rate gave. Times in seconds; `late_s`: how far the generator fell behind its own schedule at worst."""

    rate: float
    seconds: float
    sent: int = 0
    lists: int = 0
    late_s: float = 0.0
    freshness: list[float] = field(default_factory=list)

    def quantile_ms(self, q: float) -> float:
        """The q-quantile of freshness in milliseconds; infinite when that many events had no list."""
        if not self.freshness:
            return float("inf")
        ordered = sorted(self.freshness)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000.0


class Reader:
    """Reads the lists of one installation in a thread, from the end of the topic on."""

    def __init__(self, config: Mapping[str, Any], topic: str, fetch_wait_ms: int = FETCH_WAIT_MS) -> None:
        own = {"group.id": "bench-reader", "enable.auto.commit": False, "fetch.wait.max.ms": fetch_wait_ms}
        self._consumer = Consumer({**config, **own})
        partitions = self._consumer.list_topics(topic, timeout=20).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, p, OFFSET_END) for p in partitions])
        self._consumer.poll(1.0)
        self.seen: list[tuple[float, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None and message.value() is not None:
                self.seen.append((time.perf_counter(), message.value()))

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()


class Load:
    """Sends events and joins them with the lists."""

    def __init__(self, config: Mapping[str, Any], events: str, items: Sequence[str], *, seed: int = 0, linger_ms: int = 0) -> None:
        self._producer = Producer(
            {**config, "acks": "all", "linger.ms": linger_ms, "partitioner": "murmur2_random", "queue.buffering.max.messages": 1_000_000}
        )
        self._topic, self._items = events, items
        self._rng, self._name = np.random.default_rng(seed), f"b{seed}-"  # another load's events are other events
        share = 1.0 / np.arange(1, USERS + 1)
        self._share = share / share.sum()
        self._count = 0

    def run(self, rate: float, seconds: float, reader: Reader | None) -> Run:
        """Send `rate` events a second for `seconds`, then wait a little for the last lists."""
        n = int(rate * seconds)
        users = self._rng.choice(USERS, n, p=self._share).tolist()
        items = self._rng.integers(len(self._items), size=n).tolist()
        sent_at, places = [0.0] * n, [(-1, -1)] * n
        run = Run(rate, seconds, n)
        if reader is not None:
            reader.seen.clear()

        def delivered(number: int) -> Any:
            def note(error: Any, message: Any) -> None:
                if error is None:
                    places[number] = (message.partition(), message.offset())

            return note

        base, now_ms = self._count, round(time.time() * 1000)
        start = time.perf_counter()
        for i in range(n):
            due = start + i / rate
            while (wait := due - time.perf_counter()) > 0:
                time.sleep(max(wait, TICK_S))  # too long by 0.1 ms or so; spinning would take the processor from what is measured
            name = f"u{users[i]}"
            at = now_ms + round((time.perf_counter() - start) * 1000)
            number = f"{self._name}{base + i}"
            value = (
                f'{{"event_id":"{number}","type":"click","user_id":"{name}","item_id":"{self._items[items[i]]}","timestamp":{at}}}'
            ).encode()
            sent_at[i] = time.perf_counter()
            told = {} if reader is None else {"on_delivery": delivered(i)}
            self._producer.produce(self._topic, value, name.encode(), **told)
            run.late_s = max(run.late_s, sent_at[i] - due)
            if i % 16 == 0:
                self._producer.poll(0)
        self._count += n
        self._producer.flush(30)
        if reader is not None:
            time.sleep(GRACE_S)
            run.freshness = _join(users, sent_at, places, list(reader.seen))
            run.lists = len(reader.seen)
        return run


def _join(users: list[int], sent_at: list[float], places: list[tuple[int, int]], lists: list[tuple[float, bytes]]) -> list[float]:
    """Per event the seconds until the first list that covers it."""
    decode = msgspec.json.Decoder(_List).decode
    covering: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for at, raw in lists:
        found = decode(raw)
        if "events" in found.applied:
            offsets, times = covering[found.user_id]
            offset = found.applied["events"][1]
            if not offsets or offset > offsets[-1]:
                offsets.append(offset)
                times.append(at)
    out = []
    for user, sent, (_, offset) in zip(users, sent_at, places, strict=True):
        offsets, times = covering.get(f"u{user}", ([], []))
        place = bisect.bisect_left(offsets, offset)
        out.append(times[place] - sent if offset >= 0 and place < len(offsets) else float("inf"))
    return out
