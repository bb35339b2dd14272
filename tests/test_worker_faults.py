"""Worker processes that are killed, wiped, doubled and fed the same records again. Users, pairs and lists equal a count made here."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from bench.state import State
from engine.errors import BrokerError
from streams import topics
from tests.story import Sent, Story, assert_same, installation, recorded
from tests.worker_process import STOP_S

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]


def start_kafka(folder: Path) -> tuple[str, str]:
    """Start a broker of one's own; the script and host:port."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip("wants a broker of its own to kill: set KAFKA_HOME")
    script = str(Path(home) / "kafka")
    started = subprocess.run([script, "start", "--dir", str(folder)], check=True, capture_output=True, text=True)
    return script, started.stdout.split()[-1]


@pytest.fixture(scope="module", name="recorded")
def recorded_events() -> Sequence[Sent]:
    """12,000 plays of 779 people."""
    return recorded(12_000)


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
def test_records_deleted_before_they_were_read(story: Story) -> None:
    """Events that retention deleted while no worker was there are told of, and what is left counts once."""
    world = story.world
    worker = world.start()
    story.feed(1_000)
    world.settled()
    worker.stop()
    assert "records_expired" not in world.logs()
    story.send(story.recorded[1_000:2_000])
    committed = world.committed(world.names.events)
    partition, (read, end) = max(committed.items(), key=lambda one: one[1][1] - one[1][0])
    client = AdminClient({"bootstrap.servers": world.bootstrap})
    first = read + (end - read) // 2
    client.delete_records([TopicPartition(world.names.events, partition, first)])[TopicPartition(world.names.events, partition)].result(20)
    again = world.start()
    world.settled()
    assert f"records_expired topic={world.names.events} partition={partition} from={read} to={first - 1} " in again.log()
    assert again.log().count("records_expired") == 1
    assert sum(row.events for row in world.users().values()) == 2_000 - (first - read)


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

    (One cluster: the embedded broker's logs share an epoch, which stands in the rows.)
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
            rows.append(State(world.users(), world.items()))
    assert_same(*rows)
