"""Recorded events that an installation is fed with, and what its state must say then, counted the plain way. Not a test."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.state import State, differences
from engine.dataset import read
from engine.hashtable import LASTING
from engine.item import ItemState
from engine.protocol import in_order
from streams.replay import event_record
from tests.worker_process import ROOT, Installation

WINDOW, STEP = 15, 0.85
"""A new item is paired with so many items before it, each STEP times weaker than the one after it."""
PAIR_DAYS, PAIR_TIME = 3650.0, 1_577_836_800_000
"""Half-life of a pair, and the time (ms) at which one weighs 1: 2020."""
HISTORY = 100
SESSION_MS, SESSION_PAIRS = 1_800_000, 40
"""Half an hour without an event ends a session; so many of its items an event is paired with, more than WINDOW if need be."""


class Sent(NamedTuple):
    """A recorded event as it is sent."""

    user: str
    item: str
    time: int  # ms
    key: bytes
    value: bytes


def recorded(count: int) -> Sequence[Sent]:
    """Plays of interactive stories (IFDB), in the protocol's order."""
    data = read(ROOT / "data" / "ifdb-played")
    rows = in_order(data.rows)[:count]
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
        times: dict[str, list[int]] = defaultdict(list)
        self.items: dict[int, int] = defaultdict(int)
        self.pairs: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for event in events:
            before: dict[str, None] = {}
            last, going_on = event.time, True
            for item, then in zip(reversed(self.histories[event.user][-HISTORY + 1 :]), reversed(times[event.user]), strict=False):
                if item == event.item or item in before:
                    continue
                going_on = going_on and last - then < SESSION_MS
                last = then
                if len(before) >= (SESSION_PAIRS if going_on else WINDOW):
                    break
                before[item] = None
            one, weight = number_of(event.item), 2.0 ** ((event.time - PAIR_TIME) / (PAIR_DAYS * 86_400_000))
            self.items[one] += 1
            for place, item in enumerate(before):
                for a, b in ((one, number_of(item)), (number_of(item), one)):
                    self.pairs[a][b] += weight * STEP**place
            self.histories[event.user].append(event.item)
            times[event.user].append(event.time)


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
        self.world.settled()
        self.check_state(self.fed)
        self.check_lists(self.recorded[: self.fed])

    def check_state(self, fed: int) -> None:
        """Compare rows with the count of the first so many events."""
        world, count = self.world, Count(self.recorded[:fed])
        users = world.users()
        assert {user: row.events for user, row in users.items()} == {user: len(all_) for user, all_ in count.histories.items()}
        assert {user: [one.item_id for one in row.history] for user, row in users.items()} == {
            user: all_[-HISTORY:] for user, all_ in count.histories.items()
        }
        items = world.items()
        assert {item: row.count for item, row in items.items() if row.count} == count.items
        wrong = {}
        for item, pairs in count.pairs.items():
            found = weights(items[item], LASTING)
            differ = [other for other in found.keys() | pairs if found.get(other) != pytest.approx(pairs.get(other), rel=1e-6)]
            if differ:
                wrong[item] = (items[item].applied, {other: (found.get(other), pairs.get(other)) for other in differ})
        assert not wrong, f"pairs of {len(wrong)} of {len(items)} items; applied, other: (found, expected): {str(wrong)[:4000]}"
        assert {item for item, row in items.items() if row.pairs} == set(count.pairs)

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


def installation(bootstrap: str, prefix: str, folder: Path, recorded: Sequence[Sent], **settings: Any) -> Installation:
    """An installation whose catalogue has the items of the recorded events."""
    world = Installation(bootstrap, prefix, folder, **settings)
    for item in {event.item for event in recorded}:
        world.put(world.names.items, item, {"item_id": item, "title": f"Story {item}"})
    world.flush()
    return world


def assert_same(one: State, two: State) -> None:
    """Two installations' rows are the same, but for the last digits of items' sums.

    Raises:
        AssertionError: they differ.
    """
    assert one.users
    assert one.items
    assert differences(one, two) == []
