"""Worker processes that are killed, wiped, doubled and fed the same records again. Users, pairs and lists equal a count made here."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka.admin import AdminClient

from engine.dataset import read
from engine.errors import BrokerError
from engine.hashtable import LASTING, SESSION
from engine.item import ItemState
from engine.protocol import in_order
from engine.user import encode_user
from streams import topics
from streams.replay import event_record
from tests.worker_process import ROOT, STOP_S, Installation

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

WINDOW, STEP = 15, 0.85
"""A new item is paired with so many items before it, each STEP times weaker than the one after it."""
PAIR_DAYS, PAIR_TIME = 3650.0, 1_577_836_800_000
"""Half-life of a pair, and the time (ms) at which one weighs 1: 2020."""
HISTORY = 100


class Sent(NamedTuple):
    """A recorded event as it is sent."""

    user: str
    item: str
    time: int  # ms
    key: bytes
    value: bytes


@pytest.fixture(scope="module")
def recorded() -> Sequence[Sent]:
    """Plays of interactive stories (IFDB), 12,000 of 779 people, in the protocol's order."""
    data = read(ROOT / "data" / "ifdb-played")
    rows = in_order(data.rows)[:12_000]
    return [Sent(row.user, row.item_id, round(row.time * 1000), *event_record(data.name, row)) for row in rows]


def number_of(item: str) -> int:
    """The number by which an item is known inside (design: 8 bytes of BLAKE2b, little endian)."""
    return int.from_bytes(blake2b(item.encode(), digest_size=8).digest(), "little")


def weights(row: ItemState, column: int) -> dict[int, float]:
    """One kind of weights of an item's pairs, single precision."""
    keys, found = row.pairs.used()
    return dict(zip(keys.tolist(), found[:, column].tolist(), strict=True))


class Count:
    """What state must say after these events, all clicks, each once: counted the plain way."""

    def __init__(self, events: Sequence[Sent]) -> None:
        self.histories: dict[str, list[str]] = defaultdict(list)
        self.items: dict[int, int] = defaultdict(int)
        self.pairs: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for event in events:
            before: list[str] = []
            for item in reversed(self.histories[event.user][-HISTORY + 1 :]):
                if item != event.item and item not in before:
                    before.append(item)
                if len(before) == WINDOW:
                    break
            one, weight = number_of(event.item), 2.0 ** ((event.time - PAIR_TIME) / (PAIR_DAYS * 86_400_000))
            self.items[one] += 1
            for place, item in enumerate(before):
                for a, b in ((one, number_of(item)), (number_of(item), one)):
                    self.pairs[a][b] += weight * STEP**place
            self.histories[event.user].append(event.item)


class Story:
    """An installation that recorded events are fed to, and what was fed."""

    def __init__(self, world: Installation, recorded: Sequence[Sent]) -> None:
        self.world, self.recorded, self.fed = world, recorded, 0

    def feed(self, count: int, *, pace: float = 0.0) -> None:
        """Send the next events, 500 at a time with `pace` seconds between."""
        for at in range(self.fed, self.fed + count, 500):
            part = self.recorded[at : min(at + 500, self.fed + count)]
            self.send(part)
            if pace:
                time.sleep(pace)
        self.fed += count

    def send(self, events: Sequence[Sent]) -> None:
        """Send events."""
        for event in events:
            self.world.put(self.world.names.events, event.key, event.value)
        self.world.flush()

    def committed(self) -> int:
        """How many events the group has committed."""
        return sum(offset for offset, _ in self.world.committed(self.world.names.events).values())

    def wait_committed(self, count: int, seconds: float = 60.0) -> None:
        """Wait until the group has committed so many events."""
        until = time.monotonic() + seconds
        while self.committed() < count:
            assert time.monotonic() < until, f"{self.committed()} of {count}\n{self.world.troubles()}"
            time.sleep(0.05)

    def check(self) -> None:
        """Compare rows in the changelogs and lists with the count of what was fed.

        Raises:
            AssertionError: an event was lost, or counted twice.
        """
        events, world = self.recorded[: self.fed], self.world
        world.settled()
        count = Count(events)
        users = world.users()
        assert {user: row.events for user, row in users.items()} == {user: len(all_) for user, all_ in count.histories.items()}
        assert {user: [one.item_id for one in row.history] for user, row in users.items()} == {
            user: all_[-HISTORY:] for user, all_ in count.histories.items()
        }
        items = world.items()
        assert {item: row.count for item, row in items.items() if row.count} == count.items
        for item, pairs in count.pairs.items():
            assert weights(items[item], LASTING) == pytest.approx(pairs, rel=1e-6)
        assert {item for item, row in items.items() if row.pairs} == set(count.pairs)
        self.check_lists(events)

    def check_lists(self, events: Sequence[Sent]) -> None:
        """Each user's newest list covers the user's last event, and holds no item that the user had."""
        world, last, had = self.world, dict[str, tuple[int, int]](), defaultdict[str, set[str]](set)
        values = {event.value for event in events}
        for record in world.tail(world.names.events).to_end():
            if record.value in values:
                values.discard(record.value)  # the first time only: a repeat leads to no list
                user = (record.key or b"").decode()
                last[user] = max(last.get(user, (-1, -1)), (record.partition, record.offset))
                had[user].add(record.json["item_id"])
        lists = {key.decode().removeprefix("home:"): r.json for key, r in world.last(world.names.recommendations).items()}
        assert set(lists) == set(last)
        for user, (partition, offset) in last.items():
            covered = lists[user]["applied"]["events"]
            assert covered[0] == partition
            assert covered[1] >= offset, f"{user}: the newest list covers {covered}, the last event is at {offset}"
            assert not had[user] & {one["item_id"] for one in lists[user]["items"]}


def start_kafka(folder: Path) -> tuple[str, str]:
    """Start a broker of one's own; the script and host:port."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip("wants a broker of its own to kill: set KAFKA_HOME")
    script = str(Path(home) / "kafka")
    started = subprocess.run([script, "start", "--dir", str(folder)], check=True, capture_output=True, text=True)
    return script, started.stdout.split()[-1]


def installation(bootstrap: str, prefix: str, folder: Path, recorded: Sequence[Sent], **settings: Any) -> Installation:
    """An installation whose catalogue has the items of the recorded events."""
    world = Installation(bootstrap, prefix, folder, **settings)
    for item in {event.item for event in recorded}:
        world.put(world.names.items, item, {"item_id": item, "title": f"Story {item}"})
    world.flush()
    return world


@pytest.fixture
def story(kafka: str, prefix: str, tmp_path: Path, recorded: Sequence[Sent]) -> Iterator[Story]:
    """An installation on a durable broker."""
    with installation(kafka, prefix, tmp_path, recorded) as world:
        yield Story(world, recorded)


@pytest.mark.kafka
def test_killed_with_state_kept_and_wiped(story: Story) -> None:
    """A worker killed in mid-stream goes on from its state folder; killed again and without the folder, from the changelog."""
    worker = story.world.start()
    for wipe, upto in ((False, 5_000), (True, 10_000)):
        feeding = threading.Thread(target=story.feed, args=(5_000,), kwargs={"pace": 0.1})
        feeding.start()
        story.wait_committed(upto - 4_000)
        worker.kill()
        feeding.join()
        if wipe:
            shutil.rmtree(worker.state)
        worker = story.world.start()
    story.feed(500)
    story.check()
    worker.stop()


@pytest.mark.kafka
def test_two_workers_one_killed(story: Story) -> None:
    """What a killed worker owned goes on with the other one; together they count each event once."""
    first = story.world.start("first")
    second = story.world.start("second", ready=False)
    story.feed(1_000)
    second.wait_ready()
    feeding = threading.Thread(target=story.feed, args=(7_000,), kwargs={"pace": 0.15})
    feeding.start()
    story.wait_committed(2_500)
    first.kill()
    feeding.join()
    story.check()
    second.stop()


@pytest.mark.kafka
def test_the_same_records_again(story: Story) -> None:
    """Records produced a second time, and records delivered a second time, change neither a row nor a count."""
    story.feed(3_000)
    worker = story.world.start(dedupe_days=20_000)  # the recorded events span years
    story.check()
    worker.stop()
    story.send(story.recorded[:3_000])
    names = story.world.names
    for topic in (names.events, names.pairs):
        story.world.rewind(topic, dict.fromkeys(range(story.world.partitions), 0))
    worker = story.world.start(dedupe_days=20_000)
    story.check()
    assert worker.metric("headwater_events_total", outcome="redelivered") == 3_000
    assert worker.metric("headwater_events_total", outcome="duplicate") == 3_000
    worker.stop()


@pytest.mark.kafka
def test_broker_killed_and_restarted(tmp_path: Path, prefix: str, recorded: Sequence[Sent]) -> None:
    """A broker killed and started again under load costs time, and no event; the worker outlives it."""
    script, bootstrap = start_kafka(tmp_path / "kafka")
    try:
        with installation(bootstrap, prefix, tmp_path, recorded) as world:
            story = Story(world, recorded)
            worker = world.start()
            story.feed(3_000)
            story.wait_committed(500)
            subprocess.run([script, "stop", "--dir", str(tmp_path / "kafka"), "--broker", "1", "--kill"], check=True, capture_output=True)
            time.sleep(1)
            subprocess.run([script, "start", "--dir", str(tmp_path / "kafka")], check=True, capture_output=True)
            story.feed(3_000)
            story.check()
            worker.stop()
            assert "Traceback" not in worker.log(), worker.log()[-4000:]
    finally:
        subprocess.run([script, "stop", "--dir", str(tmp_path / "kafka")], check=False, capture_output=True)


@pytest.mark.kafka
def test_a_log_made_anew(story: Story) -> None:
    """A topic deleted and made again is another log: the worker refuses to go on, says what to do, and goes on when told to."""
    world, names = story.world, story.world.names
    story.feed(500)
    world.start().stop()
    world.start()
    world.settled()
    world.workers[-1].stop()
    client = AdminClient({"bootstrap.servers": world.bootstrap})
    client.delete_topics([names.events])[names.events].result(20)
    until = time.monotonic() + 20
    while True:  # the name is free a moment later
        time.sleep(0.5)
        try:
            topics.create(topics.admin(world.settings), topics.topics(world.settings))
            if names.events in topics.look(client).partitions:
                break
        except BrokerError:
            assert time.monotonic() < until
    time.sleep(1)
    story.send(story.recorded[500:600])
    refusing = world.start(ready=False)
    assert refusing.process.wait(STOP_S * 2) == 1
    assert "log_epoch_changed" in refusing.log()
    assert "--accept-new-logs" in refusing.log()
    world.start("w", "--accept-new-logs")
    world.settled()
    assert sum(row.events for row in world.users().values()) == 600


def test_replay_gives_the_same_state(embedded: str, tmp_path: Path, recorded: Sequence[Sent]) -> None:
    """Two runs over the same log, cut into other batches, give the same users' rows byte for byte; items' sums to the last digits
    of single precision.

    The digits: partitions are read side by side, so that the order in which an item's numbers are added up is not fixed. (One cluster: the
    embedded broker's logs share an epoch, which stands in the rows.)
    """
    rows = []
    for prefix, early in (("same1.", True), ("same2.", False)):
        with installation(embedded, prefix, tmp_path, recorded) as world:
            story = Story(world, recorded)
            if early:
                world.start(prefix)
                story.feed(2_000, pace=0.1)
            else:
                story.feed(2_000)
                world.start(prefix)
            story.check()
            rows.append((world.users(), world.items()))
    (users, items), (users2, items2) = rows
    assert {user: encode_user(row) for user, row in users.items()} == {user: encode_user(row) for user, row in users2.items()}
    assert set(items) == set(items2)
    for item, row in items.items():
        other = items2[item]
        assert (row.count, row.first_time, row.last_time) == (other.count, other.first_time, other.last_time)
        assert row.applied.keys() == other.applied.keys()
        for column in (LASTING, SESSION):
            assert weights(row, column) == pytest.approx(weights(other, column), rel=1e-6)
        assert row.popularity == pytest.approx(other.popularity, rel=1e-9)
