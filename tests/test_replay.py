"""Replay: what a recorded row and item become on the wire, in which order, how fast, and that nothing refused goes unsaid."""

from __future__ import annotations

import collections
import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer
from kafka.errors import MessageSizeTooLargeError

from engine import dataset
from engine.dataset import Dataset, Row, tie_of
from engine.decode import decode_event, decode_item
from engine.errors import BadSettings, BrokerError
from engine.partition import partition_of
from engine.protocol import in_order
from engine.records import Item
from streams import replay, security, topics
from streams.embedded import PARTITIONS
from streams.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


class FakeProducer:
    """Takes records; refuses from the `full`-th on, as kafka-python does: at once or by its future."""

    def __init__(self, full: float = math.inf) -> None:
        self.sent: list[tuple[str, bytes | None, bytes | None]] = []
        self.full = full
        self.flushed = False

    def send(self, topic: str, value: bytes | None = None, key: bytes | None = None) -> FakeProducer:
        self.sent.append((topic, key, value))
        return self

    def add_errback(self, call: Any) -> None:
        if len(self.sent) >= self.full:
            call(MessageSizeTooLargeError("too large"))

    def flush(self, timeout: float | None = None) -> None:
        self.flushed = True


def row(n: int, time: float, **more: Any) -> Row:
    """A purchase, or what `more` makes of it."""
    return Row(n, time, "u1", 0, "", tie_of(str(time), "u1", str(n)), more.pop("type", "purchase"), "i1", **more)


def test_rows_become_events_of_the_contract() -> None:
    """Rule: an event decodes without a problem; its value is rating or price by type, the rest is context; its id is name and row."""
    key, value = replay.event_record("shop", row(3, 1e9, price=2.5, quantity=6.0))
    event = decode_event(value, key)
    assert (event.event_id, event.type, event.value, event.context, event.timestamp) == ("shop:3", "purchase", 2.5, {"quantity": 6}, 10**12)
    event = decode_event(*replay.event_record("m" * 300, row(10**9, 1e9, type="rating", rating=4.5, price=math.nan))[::-1])
    assert (event.value, event.context, len(event.event_id)) == (4.5, {}, 127)
    assert decode_event(*replay.event_record("s", row(1, 5.0, type="click", rating=2.0))[::-1]).timestamp == 5000


def test_items_survive_the_wire() -> None:
    """Rule: every item of the data sets decodes to what was read, dates before 1973 and before 1970 too."""
    old = Item(item_id="i1", title="Dumbo", published_at=-915148800000, available_from=5_000)
    items = [*dataset.read(ROOT / "data" / "ifdb-played").items[::50], old]
    for item in items:
        key, value = replay.item_record(item)
        assert decode_item(value, key) == item


def test_order_selection_and_summary() -> None:
    """Rule: rows go out in the protocol's order, from the start (included) to the stop (excluded), and progress counts each."""
    rows = tuple(row(n, t) for n, t in enumerate([5.0, 1.0, 3.0, 3.0, 9.0]))
    data = Dataset("d", {}, (), (), {}, rows)
    producer, seen = FakeProducer(), []
    sent = replay.replay_events(data, producer, 1.0, 9.0, progress=lambda done, total: seen.append((done, total)), topic="x.events")
    expected = [f"d:{r.row}" for r in in_order(rows) if r.time < 9]
    assert [decode_event(v, k).event_id for _, k, v in producer.sent] == expected
    assert {t for t, _, _ in producer.sent} == {"x.events"}
    assert (sent.records, sent.first, sent.last, producer.flushed) == (4, 1.0, 5.0, True)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "4 events" in replay.summary("d", [("events", sent)])
    assert replay.replay_events(data, FakeProducer(), 100.0).records == 0


def test_speed_sets_the_pace() -> None:
    """Rule: at 10x a row goes out a tenth of its distance to the first one after it, however slow sending is."""
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(round(seconds, 6))
        now[0] += seconds

    rows = [row(n, t) for n, t in enumerate([100.0, 110.0, 110.0, 120.0])]
    replay.replay_rows("d", rows, FakeProducer(), 10.0, lambda *_: now.__setitem__(0, now[0] + 0.25), clock=lambda: now[0], sleep=sleep)
    assert waits == [0.75, 0.5]


def test_a_refused_record_ends_the_replay() -> None:
    """Rule: a record that the broker did not take is an error, also when it is the last."""
    rows = [row(n, float(n)) for n in range(5)]
    for full in (2, 5):
        with pytest.raises(BrokerError, match="MessageSizeTooLarge"):
            replay.replay_rows("d", rows, FakeProducer(full))


@pytest.mark.parametrize("text", ["0x", "-1", "fast", "nan", "inf"])
def test_impossible_speeds_are_refused(text: str) -> None:
    """Rule: a speed is a number above 0, or max."""
    with pytest.raises(BadSettings, match="--speed"):
        replay.speed_of(text)
    with pytest.raises(BadSettings, match="--from"):
        replay.instant(text)


@pytest.mark.broker
def test_on_a_broker(cluster: str, prefix: str) -> None:
    """Rule: every row stands once on the partition of its user, in order per user, and every item on `items`."""
    settings = Settings(broker=f"kafka://{cluster}", prefix=prefix, partitions=PARTITIONS, shared_partitions=PARTITIONS)
    names = topics.Names.under(prefix)
    topics.create(topics.admin(settings), topics.topics(settings))
    data = dataset.read(ROOT / "data" / "ifdb-played")
    rows = in_order(data.rows)[:2000]
    with contextlib.closing(replay.producer_of(settings)) as producer:
        replay.replay_items(Dataset("d", {}, data.items[:300], (), {}, ()), producer, topic=names.items)
        replay.replay_rows("d", rows, producer, topic=names.events)
    mock = {"api_version": security.MOCK_API_VERSION} if topics.look(topics.admin(settings)).is_mock else {}
    consumer = KafkaConsumer(
        names.events, names.items, bootstrap_servers=cluster, auto_offset_reset="earliest", consumer_timeout_ms=20_000, **mock
    )
    got: collections.defaultdict[str, list[str]] = collections.defaultdict(list)
    items = 0
    for record in consumer:
        if record.topic == names.items:
            items += decode_item(record.value, record.key) is not None
            continue
        assert record.partition == partition_of(record.key, PARTITIONS)
        event = decode_event(record.value, record.key)
        got[event.user_id].append(event.event_id)
        if items == 300 and sum(map(len, got.values())) == len(rows):
            break
    consumer.close()
    expected: collections.defaultdict[str, list[str]] = collections.defaultdict(list)
    for r in rows:
        expected[r.user].append(f"d:{r.row}")
    assert got == expected
    assert items == 300
