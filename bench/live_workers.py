"""Two workers, and a client that sends events and asks for lists as a site does; and what the workers say of themselves meanwhile."""

from __future__ import annotations

import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from engine.dataset import Row
from engine.errors import HeadwaterError
from engine.protocol import Case
from engine.records import TIME_MIN_MS
from engine.timestamps import ms_rfc3339
from streams import replay, security, topics
from streams.processes import Children, free_port
from streams.settings import Settings, load

WORKERS, PARTITIONS = 2, 4
USES, EXAMPLES = "headwater_known_uses", "headwater_ranker_examples"
EXAMPLES_PER_S = 1_000.0
"""A worker's limit of examples: so high that it drops none but in a burst. At the stream's own pace, a few events an hour, the default
drops none either."""
LOOK_S = 0.2
READY_S, ANSWER_S, SETTLED_S = 120.0, 20.0, 60.0


@dataclass(frozen=True, slots=True)
class Look:
    """What the workers knew when `sent` rows were out, `at` (s): uses counted and examples learned, of the worker that knew least."""

    at: float
    sent: int
    uses: int
    examples: int


class Workers:
    """Two workers of an installation of their own, and what they say of themselves."""

    def __init__(self, bootstrap: str, registry: str, folder: Path, children: Children) -> None:
        self._children, self._folder = children, folder
        common = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")} | {
            "HEADWATER_BROKER": f"kafka://{bootstrap}",
            "HEADWATER_PREFIX": f"live{time.time_ns() // 1_000_000}.",
            "HEADWATER_REGISTRY": str(Path(registry).resolve()),
            "HEADWATER_PARTITIONS": str(PARTITIONS),
            "HEADWATER_EXAMPLES_PER_S": str(EXAMPLES_PER_S),
            "HEADWATER_LOG_LEVEL": "warning",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._ports = [free_port() for _ in range(WORKERS)]
        self._environs = [
            {**common, "HEADWATER_STATE_DIR": str(folder / f"state{n}"), "HEADWATER_WEB_PORT": str(port)}
            for n, port in enumerate(self._ports)
        ]
        self.settings: Settings = load(self._environs[0])
        self.names = topics.Names.under(self.settings.prefix)
        topics.create(topics.admin(self.settings), topics.topics(self.settings))

    def start(self) -> None:
        """Start one after the other; each is ready once it owns partitions.

        Raises:
            HeadwaterError: one is not ready in time.
        """
        for n, (environ, port) in enumerate(zip(self._environs, self._ports, strict=True)):
            child = self._children.start(f"worker {n}", ["worker"], environ, self._folder / f"worker{n}.log")
            child.until_ready(f"http://127.0.0.1:{port}/readyz", seconds=READY_S)

    def settled(self, uses: int) -> list[Mapping[str, float]]:
        """Their figures once all have counted so many uses and learn nothing more; after SETTLED_S as they are then."""
        until, known = time.monotonic() + SETTLED_S, [-1.0]
        while True:
            figures = self.figures()
            learned = [one[EXAMPLES] for one in figures]
            done = learned == known and len(set(learned)) == 1 and all(one[USES] == uses for one in figures)
            if done or time.monotonic() > until:
                return figures
            known = learned
            time.sleep(2.5)  # weights are published once a second

    def figures(self) -> list[Mapping[str, float]]:
        """Per worker: metric -> sum over its labels, of counters and gauges; of histograms' sums and counts by their labels, too."""
        self._children.check()
        found: list[Mapping[str, float]] = []
        for port in self._ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            sums: dict[str, float] = {}
            for name, labels, value in re.findall(r"^(\w+)(\{.*\})? (\S+)$", text, re.MULTILINE):
                for key in {name, name + labels}:
                    sums[key] = sums.get(key, 0.0) + float(value)
            found.append(sums)
        return found


@dataclass
class Client:
    """Sends rows and asks for lists, as a site does; one thread."""

    settings: Settings
    name: str
    sent: int = 0
    asked: int = 0
    again: int = 0
    latest: dict[str, str] = field(default_factory=dict)  # user -> id of the newest event
    waited: list[float] = field(default_factory=list)  # s, from a request to its answer

    def __post_init__(self) -> None:
        self.names = topics.Names.under(self.settings.prefix)
        config = security.librdkafka(self.settings)
        self._producer = Producer({**config, "enable.idempotence": True, "linger.ms": 0, "partitioner": "murmur2_random"})
        self._consumer = Consumer({**config, "group.id": "bench-live", "enable.auto.commit": False, "fetch.wait.max.ms": 100})
        self._consumer.assign([TopicPartition(self.names.responses, p, OFFSET_END) for p in range(PARTITIONS)])
        self._consumer.poll(1.0)

    def send(self, row: Row) -> None:
        """Send a row."""
        key, value = replay.event_record(self.name, row)
        self._producer.produce(self.names.events, value, key)
        self._producer.poll(0)
        self.latest[row.user] = msgspec.json.decode(value)["event_id"]
        self.sent += 1

    def ask(self, case: Case, k: int) -> tuple[str, ...]:
        """The `k` items for a case, once it covers all events of the user that were sent.

        Raises:
            HeadwaterError: no such answer in time.
        """
        began = time.perf_counter()
        ms = round(case.time * 1000)
        while time.perf_counter() - began < ANSWER_S:
            self.asked += 1
            request = {
                "request_id": f"{case.id}/{self.asked}",
                "user_id": case.user,
                "timestamp": ms if ms >= TIME_MIN_MS else ms_rfc3339(ms),
                "k": k,
                "after_event_id": self.latest[case.user],
            }
            self._producer.produce(self.names.requests, msgspec.json.encode(request), case.user.encode())
            self._producer.flush(ANSWER_S)
            found = self._answer(request["request_id"], began)
            if found and not found.get("stale"):
                self.waited.append(time.perf_counter() - began)
                return tuple(one["item_id"] for one in found["items"])
            self.again += 1
        raise HeadwaterError("no_answer", f"no list for {case.id} in {ANSWER_S:g} s", "a list", "read the workers' logs")

    def close(self) -> None:
        """Wait until all is acknowledged, and leave."""
        self._producer.flush(ANSWER_S)
        self._consumer.close()

    def _answer(self, request_id: Any, began: float) -> dict[str, Any] | None:
        while time.perf_counter() - began < ANSWER_S:
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                found: dict[str, Any] = msgspec.json.decode(message.value())
                if found["request_id"] == request_id:
                    return found
        return None


@contextmanager
def watched(workers: Workers, client: Client) -> Iterator[list[Look]]:
    """Look at the workers several times a second meanwhile."""
    looks: list[Look] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_S):
            before = client.sent
            try:
                found = workers.figures()
            except OSError:  # a busy machine: the next look tells
                continue
            least = (int(min(one[name] for one in found)) for name in (USES, EXAMPLES))
            looks.append(Look(time.perf_counter(), (before + client.sent) // 2, *least))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        ended.set()
        thread.join()
