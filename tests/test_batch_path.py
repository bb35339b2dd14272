"""Real worker processes on a broker: killed, wiped, frozen, doubled and fed the same records again. Counts equal the events sent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import rocksdict
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.table import INTERNAL, OFFSET_KEY, changelog_topic
from streams.topics import wait_open

ROOT = Path(__file__).resolve().parent.parent
PARTITIONS = 4
USERS = 1_500
SOURCES = ("events", "_events")
pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

decode = msgspec.msgpack.Decoder(list[Any]).decode


class World:
    """A prefix of topics on a broker, the events sent to it, and the workers that count them."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path) -> None:
        self.bootstrap, self.prefix, self.folder = bootstrap, prefix, folder
        self.sent: Counter[bytes] = Counter()
        self.last: dict[bytes, int] = {}
        self.sequence = 0
        self.refused: list[Any] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.sources = [prefix + source for source in SOURCES]
        self.producer = Producer(
            {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 5, "enable.idempotence": True}
        )
        changelogs = [changelog_topic(prefix, table) for table in ("users", "totals")]
        self.users_changelog = changelogs[0]
        topics = [*self.sources, *changelogs, f"{prefix}lists"]
        missing = [topic for topic in topics if self._partitions(topic) == 0]  # the embedded broker makes topics when they are asked for
        if missing:
            admin = AdminClient({"bootstrap.servers": bootstrap})
            for made in admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in missing]).values():
                made.result(20)
            wait_open(admin, dict.fromkeys(missing, PARTITIONS))
        self.join(f"{prefix}counting")

    def join(self, group: str) -> None:
        """Use this group from now on."""
        self.group = group
        self.consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "enable.auto.commit": False})

    def _partitions(self, topic: str) -> int:
        return len(self.producer.list_topics(topic, timeout=10).topics[topic].partitions)

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        self.consumer.close()

    def feed(self, count: int) -> None:
        """Send `count` events, alternating between the sources; a user's events always go to one of them."""
        for number in range(self.sequence, self.sequence + count):
            user = number * 7919 % USERS
            key = b"u%d" % user
            self.producer.produce(self.sources[user % 2], key=key, value=(b"%020d" % number).ljust(100, b"."), on_delivery=self._answer)
            self.sent[key] += 1
            self.last[key] = number
            if number % 500 == 0:
                self.producer.poll(0)
        self.producer.flush()
        assert not self.refused, self.refused
        self.sequence += count

    def _answer(self, error: Any, _: Any) -> None:
        if error is not None:
            self.refused.append(error.str())

    def start(self, name: str = "w", **config: Any) -> subprocess.Popen[bytes]:
        """Start a worker with its own state folder."""
        config = {
            "bootstrap": self.bootstrap,
            "prefix": self.prefix,
            "group": self.group,
            "datadir": str(self.folder / name),
            "topics": self.sources,
            **config,
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "counting_worker.py")],
                env={**os.environ, "PYTHONPATH": str(ROOT), "COUNTING_WORKER": json.dumps(config)},
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        return worker

    def log(self, name: str = "w") -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def committed(self) -> int:
        parts = [TopicPartition(source, number) for source in self.sources for number in range(PARTITIONS)]
        try:
            return sum(max(0, part.offset) for part in self.consumer.committed(parts, timeout=10))
        except KafkaException:  # the broker has just started: its coordinator is not ready
            return -1

    def wait_committed(self, count: int, seconds: float = 50) -> None:
        """Wait until `count` records are committed.

        Raises:
            AssertionError: they are not, in time.
        """
        wait_for(lambda: self.committed() >= count, seconds, lambda: f"{self.committed()} of {count} committed\n{self.log()[-3000:]}")

    def topic_last(self, topic: str) -> dict[bytes, bytes | None]:
        """Give the last value per key of a topic."""
        ends = {n: self.consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in range(PARTITIONS)}
        reader = Consumer({"bootstrap.servers": self.bootstrap, "group.id": f"{self.group}-reader", "enable.auto.commit": False})
        reader.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        last: dict[bytes, bytes | None] = {}
        reached = {number for number, end in ends.items() if end == 0}
        until = time.monotonic() + 30
        while len(reached) < PARTITIONS and time.monotonic() < until:
            for message in reader.consume(2000, 1.0):
                assert message.error() is None
                last[message.key()] = message.value()
                if message.offset() >= ends[message.partition()] - 1:
                    reached.add(message.partition())
        reader.close()
        assert len(reached) == PARTITIONS
        return last

    def check(self, *folders: str) -> None:
        """Compare changelog, state folders and lists with the events sent.

        Raises:
            AssertionError: an event was lost or counted twice.
        """
        changelog = {key: decode(raw) for key, raw in self.topic_last(self.users_changelog).items() if raw and not key.startswith(INTERNAL)}
        assert counts(changelog) == self.sent
        if folders:
            assert counts(self.stored(*folders)) == self.sent
        lists = self.topic_last(f"{self.prefix}lists")
        assert {key: int(value or b"-1") for key, value in lists.items()} == self.last

    def stored(self, *folders: str) -> dict[bytes, list[Any]]:
        """Read the users' rows from RocksDB."""
        rows: dict[bytes, list[Any]] = {}
        for folder in folders:
            for path in (self.folder / folder).glob("v*/tables/users-*.db"):
                db = rocksdict.Rdict(str(path), options=rocksdict.Options(raw_mode=True))
                items = cast("Iterator[tuple[bytes, bytes]]", db.items())
                rows |= {key: decode(raw) for key, raw in items if key != OFFSET_KEY and not key.startswith(INTERNAL)}
                db.close()
        return rows


def counts(rows: Mapping[bytes, Sequence[Any]]) -> dict[bytes, int]:
    """Give each user's count."""
    return {key: row[0] for key, row in rows.items()}


def wait_for(holds: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Wait until something holds.

    Raises:
        AssertionError: it does not, in time.
    """
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, otherwise()
        time.sleep(0.1)


def end(worker: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> float:
    """Send a signal and wait for the end; give the seconds it took."""
    started = time.monotonic()
    worker.send_signal(number)
    worker.wait(20)
    return time.monotonic() - started


@pytest.fixture
def world(cluster: str, prefix: str, tmp_path: Path) -> Iterator[World]:
    """A world on each broker in turn."""
    world = World(cluster, prefix, tmp_path)
    yield world
    world.close()


@pytest.fixture
def real(kafka: str, prefix: str, tmp_path: Path) -> Iterator[World]:
    """A world on a durable broker."""
    world = World(kafka, prefix, tmp_path)
    yield world
    world.close()


def test_killed_and_restarted(world: World) -> None:
    """A worker killed in the middle and started on its state folder counts every event once; SIGTERM ends it within 5 s with status 0."""
    world.feed(1_000)
    worker = world.start()
    world.wait_committed(1_000)
    world.feed(20_000)
    world.wait_committed(5_000)
    end(worker, signal.SIGKILL)
    world.feed(2_000)
    worker = world.start()
    world.wait_committed(23_000)
    assert end(worker) < 5
    assert worker.returncode == 0, world.log()
    world.check("w")


def test_graceful_end_commits_all(world: World) -> None:
    """SIGTERM makes a last checkpoint: what was handled is committed and stored, however long the interval."""
    world.feed(4_000)
    worker = world.start(commit_interval_s=600)
    wait_for(lambda: len(world.topic_last(f"{world.prefix}lists")) == USERS, 30, world.log)
    time.sleep(1)
    assert end(worker) < 5
    assert worker.returncode == 0, world.log()
    assert world.committed() == 4_000
    world.check("w")


def test_same_records_again(world: World) -> None:
    """Every record delivered again (here: to a new group, on the same state) changes no count: a row knows its position in each source."""
    world.feed(6_000)
    worker = world.start()
    world.wait_committed(6_000)
    end(worker)
    world.check("w")
    world.join(f"{world.prefix}again")
    world.feed(500)
    worker = world.start()
    world.wait_committed(6_500)
    end(worker)
    world.check("w")


def test_handler_error_stops_the_worker(world: World) -> None:
    """An exception in a handler ends the worker with status 1 and its error in the log, and acknowledges nothing of that batch."""
    world.feed(2_000)
    worker = world.start()
    world.wait_committed(2_000)
    world.producer.produce(world.sources[0], key=b"u0", value=b"poison")
    world.producer.flush()
    assert worker.wait(20) == 1
    assert "ValueError('poison')" in world.log()
    assert world.committed() == 2_000


@pytest.mark.kafka
def test_state_wiped(real: World) -> None:
    """A worker killed and started without its state folder recovers from the changelog."""
    real.feed(20_000)
    worker = real.start()
    real.wait_committed(4_000)
    end(worker, signal.SIGKILL)
    shutil.rmtree(real.folder / "w")
    real.feed(1_000)
    worker = real.start()
    real.wait_committed(21_000)
    end(worker)
    real.check("w")


@pytest.mark.kafka
def test_two_workers_one_killed(real: World) -> None:
    """The partitions of a killed worker go on with the other, which recovers their rows from the changelog."""
    first = real.start("w")
    real.feed(2_000)
    real.wait_committed(2_000)
    second = real.start("second")
    wait_for(lambda: any((real.folder / "second").glob("v*/tables/users-*.db")), 30, lambda: real.log("second"))
    real.feed(20_000)
    real.wait_committed(6_000)
    end(first, signal.SIGKILL)
    real.feed(1_000)
    real.wait_committed(23_000)
    end(second)
    real.check()


@pytest.mark.kafka
def test_worker_joins_and_leaves(real: World) -> None:
    """A rebalance under load, without any crash, loses nothing and counts nothing twice."""
    first = real.start("w")
    real.feed(10_000)
    real.wait_committed(1_000)
    second = real.start("second")
    for _ in range(20):
        real.feed(1_000)
        time.sleep(0.3)
    assert end(second) < 5
    real.feed(2_000)
    real.wait_committed(32_000)
    end(first)
    assert (first.returncode, second.returncode) == (0, 0), real.log()
    real.check()


@pytest.mark.kafka
def test_frozen_worker_writes_nothing_old(real: World) -> None:
    """A worker frozen until its partitions are another's writes no old rows behind the new owner's when it wakes up."""
    first = real.start("w", commit_interval_s=1.0)
    real.feed(2_000)
    real.wait_committed(2_000)
    second = real.start("second")
    wait_for(lambda: any((real.folder / "second").glob("v*/tables/users-*.db")), 30, lambda: real.log("second"))
    time.sleep(4)
    real.feed(10_000)
    time.sleep(0.3)
    first.send_signal(signal.SIGSTOP)
    real.wait_committed(12_000)  # the other one has taken over
    real.feed(2_000)
    real.wait_committed(14_000)
    first.send_signal(signal.SIGCONT)
    time.sleep(3)
    real.feed(2_000)
    real.wait_committed(16_000)
    end(second)
    end(first)
    real.check()


@pytest.mark.kafka
def test_broker_restarted(tmp_path: Path, prefix: str) -> None:
    """A broker killed and started again under load costs time, and no event."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip("wants a broker of its own to kill: set KAFKA_HOME")
    script, folder = str(Path(home) / "kafka"), str(tmp_path / "kafka")
    bootstrap = subprocess.run([script, "start", "--dir", folder], check=True, capture_output=True, text=True).stdout.split()[-1]
    try:
        world = World(bootstrap, prefix, tmp_path)
        try:
            world.feed(2_000)
            worker = world.start()
            world.wait_committed(2_000)
            world.feed(10_000)
            subprocess.run([script, "stop", "--dir", folder, "--broker", "1", "--kill"], check=True, capture_output=True)
            time.sleep(1)
            subprocess.run([script, "start", "--dir", folder], check=True, capture_output=True)
            world.feed(3_000)
            world.wait_committed(15_000)
            end(worker)
            assert worker.returncode == 0, world.log()
            world.check("w")
        finally:
            world.close()
    finally:
        subprocess.run([script, "stop", "--dir", folder], check=False, capture_output=True)
