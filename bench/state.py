"""The rows of an installation as its changelogs have them, and in what two installations differ. Not how they came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from engine.hashtable import LASTING, SESSION
from engine.item import ItemState, decode_item
from engine.pairs import Decay
from engine.user import UserState, decode_user, encode_user
from streams.table import INTERNAL

TIMEOUT_S = 60.0
SUMS, COUNTS = 1e-5, 1e-9
"""How far sums may differ: of pairs, in single precision, and of popularity. Partitions are read side by side, so that numbers are added up
in another order each time."""
STRONGEST, SHARE = 100, 0.9
"""Of an item that has met so many others that it was trimmed (when depends on that order, too): so many strongest pairs, and what share of
them is the same in both."""
TRIMMED = Decay().pairs
KINDS = [LASTING, SESSION]
"""Weights of pairs that are compared. The season's stand on a scale of their row's own, which moves when the order of events makes it."""


class State(NamedTuple):
    """Rows by user id, and by hash64 of the item id."""

    users: Mapping[str, UserState]
    items: Mapping[int, ItemState]


def state_of(config: Mapping[str, Any], users_changelog: str, items_changelog: str) -> State:
    """All rows as of now."""
    users = {key[1:].decode(): decode_user(raw) for key, raw in _last(config, users_changelog)}
    return State(users, {int.from_bytes(key[1:], "little"): decode_item(raw) for key, raw in _last(config, items_changelog)})


def differences(one: State, two: State) -> list[str]:
    """What differs: users' rows byte for byte, but for the logs' epochs, where each topic has its own; items' sums to their last digits."""
    found = [f"user {user} in one only" for user in one.users.keys() ^ two.users.keys()]
    found += [f"item {item} in one only" for item in one.items.keys() ^ two.items.keys()]
    found += [f"user {user}" for user, row in one.users.items() if user in two.users and _plain(row) != _plain(two.users[user])]
    return found + [
        f"item {item}: {what}" for item, row in one.items.items() if item in two.items for what in _unlike(row, two.items[item])
    ]


def _plain(row: UserState) -> bytes:
    known = row.applied
    row.applied = {log: (0, offset) for log, (_, offset) in known.items()}
    raw = encode_user(row)
    row.applied = known
    return raw


def _unlike(one: ItemState, two: ItemState) -> Iterator[str]:
    if (one.count, one.first_time, one.last_time) != (two.count, two.first_time, two.last_time):
        yield "counts"
    if one.applied.keys() != two.applied.keys():
        yield "logs"
    if not np.allclose(one.popularity, two.popularity, rtol=COUNTS, atol=0.0):
        yield "popularity"
    (keys, weights), (keys2, weights2) = _pairs(one), _pairs(two)
    if max(len(keys), len(keys2)) >= TRIMMED:
        strong, strong2 = (set(k[np.argsort(-w[:, LASTING])[:STRONGEST]].tolist()) for k, w in ((keys, weights), (keys2, weights2)))
        if len(strong & strong2) < SHARE * STRONGEST:
            yield f"{len(strong & strong2)} of the {STRONGEST} strongest pairs"
    elif not np.array_equal(keys, keys2) or not np.allclose(weights[:, KINDS], weights2[:, KINDS], rtol=SUMS, atol=0.0):
        yield "pairs"


def trimmed(state: State) -> int:
    """Items that have met so many others that they were trimmed, or will be soon."""
    return sum(len(_pairs(row)[0]) >= TRIMMED for row in state.items.values())


def _pairs(row: ItemState) -> tuple[Any, Any]:
    """Hashes in their order, and their weights."""
    keys, weights = row.pairs.used()
    order = np.argsort(keys)
    return keys[order], weights[order]


def _last(config: Mapping[str, Any], topic: str) -> Iterator[tuple[bytes, bytes]]:
    """The last value of each key that has one; internal rows are left out."""
    consumer = Consumer({**config, "group.id": "bench-state", "enable.auto.commit": False, "enable.partition.eof": True})
    partitions = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    left, last = len(partitions), dict[bytes, bytes | None]()
    while left:
        for message in consumer.consume(5_000, 1.0):
            if message.error() is not None:
                left -= 1  # the end of a partition
            elif message.key() is not None:
                last[message.key() or b""] = message.value()
    consumer.close()
    return ((key, raw) for key, raw in last.items() if raw is not None and not key.startswith(INTERNAL))
