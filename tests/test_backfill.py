"""The events of the past taken in at once: the state of a live replay, no list for the past, an exact end, and nobody beside it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from bench.state import State
from engine.errors import StateError
from streams.backfill import alone
from streams.group import BACKFILL, WORKERS
from tests.story import Sent, Story, assert_same, installation, recorded
from tests.worker_process import STOP_S

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]
EVENTS = 4_000


@pytest.fixture(scope="module", name="recorded")
def recorded_events() -> Sequence[Sent]:
    """Plays, more than are sent first."""
    return recorded(12_000)


@pytest.fixture
def story(cluster: str, prefix: str, tmp_path: Path, recorded: Sequence[Sent]) -> Iterator[Story]:
    """An installation on each broker."""
    with installation(cluster, prefix, tmp_path, recorded) as world:
        yield Story(world, recorded)


@pytest.fixture
def durable(kafka: str, prefix: str, tmp_path: Path, recorded: Sequence[Sent]) -> Iterator[Story]:
    """An installation on a durable broker."""
    with installation(kafka, prefix, tmp_path, recorded) as world:
        yield Story(world, recorded)


def figure(printed: str, what: str) -> int:
    """The number before a word of the last line."""
    found = re.search(rf"([\d,]+) {what}", printed)
    assert found is not None, printed[-2000:]
    return int(found[1].replace(",", ""))


def lists_of(story: Story) -> dict[str, Any]:
    """User -> the newest list."""
    found = story.world.last(story.world.names.recommendations)
    return {key.decode().removeprefix("home:"): record.json for key, record in found.items() if record.value is not None}


def test_state_is_that_of_a_live_replay(cluster: str, embedded: str, prefix: str, tmp_path: Path, recorded: Sequence[Sent]) -> None:
    """Rule: users' rows are byte for byte those of a worker that was live meanwhile, items' sums too; all examples are learned."""
    states = []
    for name in ("live", "backfilled"):
        with installation(cluster, f"{prefix}{name}.", tmp_path, recorded) as world:
            story = Story(world, recorded)
            if name == "live":
                world.start(name)
                story.feed(EVENTS, pace=0.1)
                story.check()
            else:
                story.feed(EVENTS)
                printed = world.backfill(name=name)
                story.check_state(EVENTS)
                assert not lists_of(story)
                examples = sum(end for _, end in world.committed(world.names.examples).values())
                learned = figure(printed, "examples learned")
                assert learned == examples > 1_000 or (learned > 1_000 and cluster == embedded)  # which keeps 5 MB of them at most
                assert figure(printed, "events") == EVENTS
                assert figure(printed, "users") == len(world.users())
                assert figure(printed, "items") == len(world.items())
            states.append(State(world.users(), world.items()))
    assert_same(*states)


def test_workers_go_on_where_it_stopped(story: Story) -> None:
    """Rule: all events that were there are in state without a list; a live worker makes lists for those that come after, and only those."""
    world = story.world
    story.feed(EVENTS)
    world.backfill()
    assert story.committed() == EVENTS
    assert not lists_of(story)
    story.feed(500)
    world.start().wait_ready()
    world.settled()
    story.check_state(EVENTS + 500)
    assert set(lists_of(story)) == {event.user for event in story.recorded[EVENTS : EVENTS + 500]}


def test_lists_in_the_end(embedded: str, prefix: str, tmp_path: Path, recorded: Sequence[Sent]) -> None:
    """Rule: with --lists DAYS each user active in the last days has one list, that of the last event; made again it is the same."""
    with installation(embedded, prefix, tmp_path, recorded) as world:
        story = Story(world, recorded)
        story.feed(EVENTS)
        days = 200
        since = max(event.time for event in story.recorded[:EVENTS]) - days * 86_400_000
        recent = {event.user for event in story.recorded[:EVENTS] if event.time >= since}
        assert figure(world.backfill("--lists", str(days)), "lists") == len(recent) < len(world.users())
        made = lists_of(story)
        assert set(made) == recent
        for user, one in made.items():
            assert one["items"], user
            assert one["trigger"]["kind"] == "backfill"
        assert figure(world.backfill("--lists", str(days)), "events") == 0
        assert {user: one["list_id"] for user, one in lists_of(story).items()} == {user: one["list_id"] for user, one in made.items()}


@pytest.mark.kafka
def test_until_a_time(durable: Story) -> None:
    """Rule: with a time it stops before the first event produced then, also where one fetch brings more; the rest gets lists."""
    durable.feed(EVENTS)
    time.sleep(0.05)
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now := time.time())) + f".{round(now % 1 * 1000):03d}Z"
    time.sleep(0.05)
    durable.feed(1_000)
    printed = durable.world.backfill("--until", at)
    assert figure(printed, "events") == EVENTS
    assert durable.committed() == EVENTS
    durable.check_state(EVENTS)
    durable.world.start()
    durable.world.settled()
    durable.check_state(EVENTS + 1_000)
    assert set(lists_of(durable)) == {event.user for event in durable.recorded[EVENTS : EVENTS + 1_000]}


@pytest.mark.kafka
def test_killed_and_run_again(durable: Story) -> None:
    """Rule: killed in the middle, also with its state folder lost, it goes on when it is run again, and nothing counts twice."""
    durable.feed(12_000)
    for _ in range(2):
        first = durable.world.start(ready=False, command="backfill")
        before = durable.committed()
        while durable.committed() == before and first.process.poll() is None:
            time.sleep(0.02)
        first.kill()
    printed = durable.world.backfill(name="elsewhere")
    assert 0 < figure(printed, "events") < 12_000
    durable.check_state(12_000)


@pytest.mark.kafka
def test_stopped_and_run_again(durable: Story) -> None:
    """Rule: SIGTERM ends it with a checkpoint and a status that says that it is not done."""
    durable.feed(12_000)
    first = durable.world.start(ready=False, command="backfill")
    while not durable.committed():
        time.sleep(0.02)
    first.process.terminate()
    assert first.process.wait(STOP_S) == 1
    assert "run it again" in first.log()
    durable.world.backfill()
    durable.check_state(12_000)


@pytest.mark.kafka
def test_two_share_the_work(durable: Story) -> None:
    """Rule: two backfills share the partitions; when both are done, everything is counted once."""
    durable.feed(12_000)
    both = [durable.world.start(name, ready=False, command="backfill") for name in ("one", "two")]
    for process in both:
        assert process.process.wait(90) == 0, process.log()[-4000:]
    durable.check_state(12_000)
    assert not lists_of(durable)


@pytest.mark.kafka
def test_a_transaction_at_the_end(durable: Story) -> None:
    """Rule: a log that ends with a transaction's marker, an offset without a record, is read to its end all the same."""
    world = durable.world
    producer = Producer({"bootstrap.servers": world.bootstrap, "transactional.id": world.prefix, "partitioner": "murmur2_random"})
    producer.init_transactions(20)
    producer.begin_transaction()
    for event in durable.recorded[:500]:
        producer.produce(world.names.events, event.value, event.key)
    producer.commit_transaction(20)
    world.backfill()
    durable.check_state(500)
    assert all(committed == end for committed, end in world.committed(world.names.events).values())


@pytest.mark.kafka
def test_live_workers_and_backfills_keep_apart(durable: Story) -> None:
    """Rule: while workers are in the group a backfill does not start, and while one runs no worker does; both say what to do."""
    world = durable.world
    worker = world.start()
    refused = world.start("b", ready=False, command="backfill")
    assert refused.process.wait(STOP_S * 2) == 1
    assert "workers_live" in refused.log()
    worker.stop()
    durable.feed(12_000)
    running = world.start("b", ready=False, command="backfill", checkpoint_interval_s=0.2)
    while not durable.committed():
        assert running.process.poll() is None, running.log()
        time.sleep(0.02)
    late = world.start("late", ready=False)
    assert late.process.wait(STOP_S) == 1
    assert "backfill_under_way" in late.log()
    assert running.process.wait(90) == 0, running.log()[-3000:]


def test_who_has_opted_out_loses_the_list(embedded: str, prefix: str, tmp_path: Path, recorded: Sequence[Sent]) -> None:
    """Rule: what stands of a user who has opted out meanwhile is taken back, though no new list is made."""
    with installation(embedded, prefix, tmp_path, recorded) as world:
        worker = world.start()
        world.event("e1", "u1", recorded[0].item)
        world.list_after("e1", user="u1")
        worker.stop()
        world.send(world.names.users, "u1", {"user_id": "u1", "personalise": False})
        world.backfill()
        assert world.last(world.names.recommendations)[b"home:u1"].value is None


def test_alone_waits_for_a_session_to_end() -> None:
    """Rule: members that are gone before their session must have ended are waited for; those that stay are named."""
    answers = iter([WORKERS, WORKERS, ""])
    said: list[str] = []

    class Found:
        name = "shop.headwater"

        def protocol(self) -> str:
            return next(answers)

    group: Any = Found()
    alone(group, 10.0, said.append, sleep=lambda _: None)
    assert len(said) == 1
    answers = iter([BACKFILL])
    alone(group, 0.0, said.append)
    answers = iter([WORKERS] * 3)
    with pytest.raises(StateError, match=r"workers_live.*shop\.headwater"):
        alone(group, -1.0, said.append, sleep=lambda _: None)
