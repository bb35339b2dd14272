"""Real `headwater worker` processes for tests, with topics, state and a web port of their own. Not a test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from engine.item import ItemState, decode_item
from engine.user import UserState, decode_user
from streams import topics
from streams.settings import Settings, load
from streams.table import INTERNAL

ROOT = Path(__file__).resolve().parent.parent
START_S = 60.0
"""Seconds until a worker is ready: 3 on an idle machine, and the session timeout more after a SIGKILL."""
AWAY = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)  # noqa: SLF001 - public, for all their names
WAIT_S = 20.0
STOP_S = 20.0
NOW_MS = round(time.time() * 1000)


@dataclass(frozen=True)
class Record:
    """A record as a consumer outside sees it; `time` in ms."""

    key: bytes | None
    value: bytes | None
    partition: int
    offset: int
    headers: Mapping[str, bytes]
    time: int

    @property
    def json(self) -> Any:
        """The value as JSON."""
        assert self.value is not None
        return json.loads(self.value)


class Tail:
    """All records of a topic, read further on demand."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        config = {"bootstrap.servers": bootstrap, "group.id": "tests", "enable.auto.commit": False, "fetch.wait.max.ms": 20, "log_level": 0}
        self._consumer, self.topic = Consumer(config), topic
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        self._partitions = list(partitions)
        self._next = dict.fromkeys(partitions, 0)
        self.records: list[Record] = []

    def more(self, seconds: float = 0.1) -> list[Record]:
        """Read what comes within a time; also kept in `records`."""
        found = []
        for message in self._consumer.consume(2_000, seconds):
            error = message.error()
            if error is not None:
                assert error.retriable() or error.code() in AWAY, error
                continue
            headers = dict(message.headers() or ())
            place = message.partition(), message.offset()
            self._next[place[0]] = place[1] + 1
            found.append(Record(message.key(), message.value(), *place, headers, message.timestamp()[1]))
        self.records += found
        return found

    def to_end(self, seconds: float = WAIT_S) -> list[Record]:
        """Read on to the present end; gives all records so far."""
        ends = {n: self._consumer.get_watermark_offsets(TopicPartition(self.topic, n), timeout=10)[1] for n in self._partitions}
        until = time.monotonic() + seconds
        while any(self._position(n) < end for n, end in ends.items()):
            assert time.monotonic() < until, f"{self.topic}: {self._next} of {ends}"
            self.more()
        return self.records

    def _position(self, number: int) -> int:
        """Beyond compacted and transactional gaps too."""
        position = self._consumer.position([TopicPartition(self.topic, number)])[0].offset
        return max(int(position), self._next[number])

    def first(self, wanted: Callable[[Record], bool], seconds: float = WAIT_S, *, since: int = 0) -> Record:
        """The first record, from the `since`-th on, that is wanted.

        Raises:
            AssertionError: none came in time.
        """
        at, until = since, time.monotonic() + seconds
        while True:
            for record in self.records[at:]:
                if wanted(record):
                    return record
            at = len(self.records)
            assert time.monotonic() < until, f"no such record on {self.topic}; the last of {at}: {self.records[-3:]}"
            self.more()

    def close(self) -> None:
        """Let go of the consumer."""
        self._consumer.close()


class Installation:
    """A prefix of topics on a broker, its settings, and the workers that run on it."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path, **settings: Any) -> None:
        self.bootstrap, self.prefix, self.folder = bootstrap, prefix, folder
        self.environ = {
            "HEADWATER_BROKER": f"kafka://{bootstrap}",
            "HEADWATER_PREFIX": prefix,
            "HEADWATER_REGISTRY": str(folder / "registry"),
            "HEADWATER_PARTITIONS": "4",  # as the embedded broker has
            "HEADWATER_SHARED_PARTITIONS": "2",
            "HEADWATER_SESSION_TIMEOUT_S": "6",
            "HEADWATER_CHECKPOINT_INTERVAL_S": "0.5",
            **{f"HEADWATER_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.settings: Settings = load(self.environ)
        self.names = topics.Names.under(prefix)
        self.workers: list[Worker] = []
        self._admin = topics.admin(self.settings)
        topics.create(self._admin, topics.topics(self.settings))
        self.partitions = topics.count(self._admin, self.settings)
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,  # else a retry, on a topic just made say, may put a user's events in another order
                "linger.ms": 2,
                "message.max.bytes": 8_000_000,
                "log_level": 0,
            }
        )
        self._failed: list[str] = []
        self._place = (-1, -1)  # of the record acknowledged last
        self._tails: dict[str, Tail] = {}
        self._group: Consumer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        for tail in self._tails.values():
            tail.close()
        if self._group is not None:
            self._group.close()

    # -- in

    def put(self, topic: str, key: str | bytes | None, value: Any, partition: int = -1, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Hand a record to the producer; a value that is neither bytes nor None goes as JSON."""
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        key = key.encode() if isinstance(key, str) else key
        while True:
            try:
                self._producer.produce(topic, raw, key, partition, on_delivery=self._answer, headers=list(headers) or None)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all is acknowledged."""
        assert self._producer.flush(30) == 0
        assert not self._failed, self._failed

    def send(
        self, topic: str, key: str | bytes | None, value: Any, partition: int = -1, headers: Sequence[tuple[str, bytes]] = ()
    ) -> tuple[int, int]:
        """Send a record and wait for its acknowledgement; its partition and offset."""
        self.put(topic, key, value, partition, headers)
        self.flush()
        return self._place

    def event(self, event_id: str, user: str, item: str | None, partition: int = -1, **fields: Any) -> dict[str, Any]:
        """Send an event, a click now unless the fields say otherwise."""
        event = {"event_id": event_id, "type": "click", "user_id": user, "item_id": item, "timestamp": NOW_MS, **fields}
        event = {name: value for name, value in event.items() if value is not None}
        self.send(self.names.events, user, event, partition)
        return event

    def _answer(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failed.append(error.str())
        else:
            self._place = message.partition(), message.offset()

    # -- out

    def tail(self, topic: str) -> Tail:
        """The reader of a topic (full name); one for all who ask."""
        if topic not in self._tails:
            self._tails[topic] = Tail(self.bootstrap, topic)
        return self._tails[topic]

    def list_after(self, event_id: str, *, user: str, surface: str = "home", seconds: float = WAIT_S) -> Any:
        """The list that an event of a user led to: the first one that covers it."""
        place = self.tail(self.names.events).first(lambda r: _is(r, "event_id", event_id), seconds)
        key = f"{surface}:{user}".encode()

        def covers(record: Record) -> bool:
            if record.key != key or record.value is None:
                return False
            partition, offset = record.json["applied"].get("events", (-1, -1))
            return bool(partition == place.partition and offset >= place.offset)

        return self.tail(self.names.recommendations).first(covers, seconds).json

    def dead_letter(self, topic: str, place: tuple[int, int], seconds: float = WAIT_S) -> Any:
        """The dead letter of the record at a place (partition, offset)."""
        source = {"topic": topic, "partition": place[0], "offset": place[1]}
        return self.tail(self.names.dead_letters).first(lambda r: source.items() <= r.json["source"].items(), seconds).json

    def last(self, topic: str) -> dict[bytes, Record]:
        """The last record per key of a topic, as of now."""
        return {record.key: record for record in self.tail(topic).to_end() if record.key is not None}

    def users(self) -> dict[str, UserState]:
        """The rows of the users as their changelog has them."""
        rows = self.last(self.names.users_changelog)
        return {key[1:].decode(): decode_user(r.value) for key, r in rows.items() if r.value is not None and not key.startswith(INTERNAL)}

    def items(self) -> dict[int, ItemState]:
        """The rows of the items, by hash64, as their changelog has them."""
        rows = self.last(self.names.items_changelog)
        return {
            int.from_bytes(key[1:], "little"): decode_item(r.value)
            for key, r in rows.items()
            if r.value is not None and not key.startswith(INTERNAL)
        }

    # -- the group

    def committed(self, topic: str) -> dict[int, tuple[int, int]]:
        """Per partition of a topic the committed offset of the workers' group (0 without one), and the end."""
        if self._group is None:
            config = {"bootstrap.servers": self.bootstrap, "group.id": self.settings.app_id, "enable.auto.commit": False, "log_level": 0}
            self._group = Consumer(config)
        numbers = self._group.list_topics(topic, timeout=10).topics[topic].partitions
        until = time.monotonic() + WAIT_S
        while True:
            try:
                parts = self._group.committed([TopicPartition(topic, n) for n in numbers], timeout=10)
                break
            except KafkaException:  # a broker that has just started: its coordinator is not ready
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        return {
            p.partition: (max(0, p.offset), self._group.get_watermark_offsets(TopicPartition(topic, p.partition), timeout=10)[1])
            for p in parts
        }

    def settled(self, seconds: float = 60.0) -> None:
        """Wait until all that was sent, and all that it led to, is consumed and committed.

        Raises:
            AssertionError: it is not, in time.
        """
        names, until = self.names, time.monotonic() + seconds
        sources = (names.events, names.users, names.requests, names.routed_events, names.pairs)
        before: Any = None
        while True:
            found = {topic: self.committed(topic) for topic in sources}
            done = all(offset >= end for parts in found.values() for offset, end in parts.values())
            if done and found == before:
                return
            before = found if done else None
            assert time.monotonic() < until, f"not consumed: {found}\n{self.troubles()}"
            time.sleep(0.2)

    def read_by_all(self, topic: str, seconds: float = WAIT_S) -> None:
        """Wait until the newest worker has applied all of a topic that every worker reads: lists made from now on rest on it.

        Raises:
            AssertionError: it has not, in time.
        """
        end, until = len(self.tail(topic).to_end()), time.monotonic() + seconds
        while self.workers[-1].metric("headwater_broadcast_records_total", topic=topic) < end:
            assert time.monotonic() < until, f"{topic}: not {end} records\n{self.troubles()}"
            time.sleep(0.02)

    def neighbours_read(self) -> None:
        """Wait until what items have in common is published, after a quarter of a second, and read by all."""
        self.settled()
        time.sleep(0.6)
        self.read_by_all(self.names.item_stats)

    def rewind(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Set the group's committed offsets while no worker is there."""
        assert self._group is not None or self.committed(topic)
        group = self._group
        assert group is not None
        group.commit(offsets=[TopicPartition(topic, n, offset) for n, offset in offsets.items()], asynchronous=False)

    # -- workers

    def start(self, name: str = "w", *arguments: str, ready: bool = True, command: str = "worker", **settings: Any) -> Worker:
        """Start a worker with a state folder of its own, and wait until it is ready; or another command that runs one."""
        worker = Worker(self, name, (command, *arguments), {f"HEADWATER_{key.upper()}": str(value) for key, value in settings.items()})
        self.workers.append(worker)
        if ready:
            worker.wait_ready()
        return worker

    def backfill(self, *arguments: str, name: str = "w", seconds: float = 90.0, **settings: Any) -> str:
        """Run a backfill to its end; what it printed.

        Raises:
            AssertionError: it failed.
        """
        process = self.start(name, *arguments, ready=False, command="backfill", **settings)
        assert process.process.wait(seconds) == 0, process.log()[-6000:]
        return process.log()

    def logs(self) -> str:
        """What the workers have logged."""
        return "".join(worker.log() for worker in self.workers)

    def troubles(self) -> str:
        """Each worker's warnings and errors, cut, and the last lines of its log."""
        found = []
        for worker in self.workers:
            lines = worker.log().splitlines()
            grave = [line[:2_000] for line in lines if any(f"level={level}" in line for level in ("warning", "error", "critical"))]
            found += [f"-- {worker.state.name}", *grave[:3], "-- at the end", *(line[:300] for line in lines[-5:])]
        return "\n".join(found)


class Worker:
    """One process of `headwater worker`, or of another command that runs one."""

    port_setting = "HEADWATER_WEB_PORT"

    def __init__(self, world: Installation, name: str, arguments: Iterable[str], environ: Mapping[str, str]) -> None:
        self.state = world.folder / name
        self.port = free_port()
        self._log_path = world.folder / f"{name}.log"
        self._log_from = self._log_path.stat().st_size if self._log_path.exists() else 0
        plain = {key: value for key, value in os.environ.items() if not key.startswith("HEADWATER_")}
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams.cli", *arguments],
                env={
                    **plain,
                    **world.environ,
                    "HEADWATER_STATE_DIR": str(self.state),
                    self.port_setting: str(self.port),
                    "PYTHONPATH": str(ROOT),
                    **environ,
                },
                cwd=world.folder,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """What this process has logged."""
        with self._log_path.open("rb") as file:
            file.seek(self._log_from)
            return file.read().decode(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET; (0, "") when nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_ready(self, seconds: float = START_S) -> None:
        """Wait for /readyz.

        Raises:
            AssertionError: the worker ended, or is not ready in time.
        """
        until = time.monotonic() + seconds
        while self.get("/readyz")[0] != 200:
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}\n{self.log()[-6000:]}"
            assert time.monotonic() < until, f"not ready\n{self.log()[-6000:]}"
            time.sleep(0.1)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 where it has none."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def stop(self) -> float:
        """SIGTERM and wait; the seconds it took. A worker ends with status 0."""
        started = time.monotonic()
        self.process.terminate()
        assert self.process.wait(STOP_S) == 0, self.log()[-6000:]
        return time.monotonic() - started

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is(record: Record, field: str, value: str) -> bool:
    if record.value is None or value.encode() not in record.value:
        return False
    with contextlib.suppress(ValueError):
        found = json.loads(record.value)
        return isinstance(found, dict) and found.get(field) == value
    return False


def catalogue(count: int = 40) -> Iterator[dict[str, Any]]:
    """Items i0, i1 ... in four categories by six creators, a day apart from 2020 on."""
    for n in range(count):
        yield {
            "item_id": f"i{n}",
            "title": f"Story number {n}",
            "categories": ["cave" if n % 4 == 0 else f"c{n % 4}"],
            "tags": [f"t{n % 3}"],
            "creator": f"writer {n % 6}",
            "published_at": 1_577_836_800_000 + n * 86_400_000,
            "available_from": 1_577_836_800_000 + n * 86_400_000,
            "price": float(n),
        }
