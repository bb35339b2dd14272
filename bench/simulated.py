"""A catalogue of any size with a past, simulated: no real data, and said so wherever figures are of it. Clusters give text, pairs and users
something in common, so that looking for neighbours means something.

Items stand in clusters of a hundred, clusters in topics. An item's vector is its cluster's and noise; it is used together with items of its
cluster, some of its topic, few others; three in ten were never used. Users take from two clusters, and now and then something popular.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.catalogue import DAY_MS
from engine.features import Taste
from engine.model import Model
from engine.neighbours import Neighbours
from engine.partition import item_key
from engine.ranker import Ranker
from engine.records import Item
from engine.stats import Counts
from engine.user import Position

NOW = 1_700_000_000_000
DAYS = 730
CLUSTER, TOPIC = 100, 40
"""Items of a cluster, clusters of a topic."""
UNUSED, PUBLISHED, RELEASED = 0.3, 0.5, 0.2
"""Shares of the items that nobody used, and that have a date."""
RECENT = 20
AT_ONCE = 50_000
EXAMPLES = 1_500

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Simulated:
    """A model and its users. `keys` (N,): the items' hash64; `cluster` (N,): whose each item is; `counts` (N,) uses."""

    model: Model
    ids: list[str]
    keys: NDArray[np.uint64]
    cluster: Ints
    counts: Ints
    tastes: list[Taste]

    def used(self, items: Ints, later: int) -> None:
        """Say that some items were used once more, `later` ms after the past's end."""
        for at in items.tolist():
            self.counts[at] += 1
            self.model.stats.put(_counts(int(self.keys[at]), int(self.counts[at]), NOW - DAY_MS, NOW + later))


def simulated(items: int, users: int, dims: int, seed: int = 1, most: int = 256) -> Simulated:
    """Make one; the same for the same arguments. `most`: neighbours of an item at most."""
    rng = np.random.default_rng(seed)
    clusters = max(4, items // CLUSTER)
    topic = np.sort(rng.integers(0, max(2, clusters // TOPIC), clusters))
    cluster = np.sort(rng.integers(0, clusters, items))
    counts = np.floor(3.0 * items / (rng.permutation(items) + 10.0) ** 0.9).astype(np.int64) + 1
    counts[rng.random(items) < UNUSED] = 0
    model = Model(dims)
    ids = [f"i{n}" for n in range(items)]
    keys = np.fromiter(map(item_key, ids), np.uint64, items)
    ages = rng.integers(1, DAYS, (items, 2)).max(1)
    creators, tags, dated = rng.integers(0, 5, items), rng.integers(0, 200, (items, 2)), rng.random((items, 2))
    for n, name in enumerate(ids):
        own = cluster[n]
        time = NOW - int(ages[n]) * DAY_MS
        item = Item(
            name,
            f"Item {n} of {own}",
            categories=(f"topic {topic[own]}",),
            tags=(f"cluster {own}", f"tag {tags[n, 0]}", f"tag {tags[n, 1]}"),
            creator=f"creator {own}-{creators[n]}",
            published_at=time if dated[n, 0] < PUBLISHED else None,
            available_from=time if dated[n, 1] < RELEASED else None,
        )
        model.catalogue.put(item)
        if counts[n]:
            model.stats.put(_counts(int(keys[n]), int(counts[n]), time, NOW - int(rng.integers(0, max(1, ages[n] // 2)) * DAY_MS)))
    _vectors(model, cluster, topic, dims, rng)
    starts = np.searchsorted(cluster, np.arange(clusters + 1))
    used = np.flatnonzero(counts)
    popular = rng.choice(used, 4_096, p=counts[used] / counts[used].sum())
    for at in used.tolist():
        _pairs(model, at, cluster, topic, starts, counts, popular, most, rng)
    tastes = [_taste(ids, keys, starts, counts, popular, rng) for _ in range(users)]
    return Simulated(model, ids, keys, cluster, counts, tastes)


def trained(world: Simulated, examples: int = EXAMPLES, seed: int = 2) -> Ranker:
    """The model's ranker, after users took items of their clusters."""
    rng, model, starts = np.random.default_rng(seed), world.model, np.searchsorted(world.cluster, np.arange(world.cluster[-1] + 2))
    for number in range(examples):
        taste = world.tastes[number % len(world.tastes)]
        own = world.cluster[model.catalogue.index[taste.recent[rng.integers(len(taste.recent))]]]
        at = int(rng.integers(starts[own], starts[own + 1]))
        example = model.example(taste, int(world.keys[at]), Position("events", 1, 0, number))
        if example is not None:
            model.ranker.learn(example)
    return model.ranker


def _vectors(model: Model, cluster: Ints, topic: Ints, dims: int, rng: np.random.Generator) -> None:
    topics = rng.normal(size=(topic.max() + 1, dims)).astype(np.float32)
    centres = 0.7 * topics[topic] + rng.normal(size=(len(topic), dims)).astype(np.float32)
    for start in range(0, len(cluster), AT_ONCE):
        own = cluster[start : start + AT_ONCE]
        rows = centres[own] + 0.9 * rng.standard_normal((len(own), dims), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        model.catalogue.space.put_many(np.arange(start, start + len(own)), rows)


def _pairs(
    model: Model, at: int, cluster: Ints, topic: Ints, starts: Ints, counts: Ints, popular: Ints, most: int, rng: np.random.Generator
) -> None:
    count = int(min(most, 4 + 4 * counts[at] ** 0.7))
    own = cluster[at]
    first, last = starts[np.searchsorted(topic, topic[own], "left")], starts[np.searchsorted(topic, topic[own], "right")]
    near = rng.integers(starts[own], starts[own + 1], count - count // 4)
    others = np.unique(np.concatenate([near, rng.integers(first, last, count // 8), rng.choice(popular, count // 8)]))
    others = others[(counts[others] > 0) & (others != at)].astype(np.int32)
    lasting = rng.exponential(1.0, len(others)) * np.sqrt(counts[at] * counts[others]) / 4.0
    shares = rng.random((3, len(others))) * [[1.0], [0.5], [0.2]]
    weights = np.concatenate([lasting[None], shares * lasting]).astype(np.float32)
    model.stats.neighbours.put(at, Neighbours(others, weights, NOW - DAY_MS))


def _taste(ids: list[str], keys: NDArray[np.uint64], starts: Ints, counts: Ints, popular: Ints, rng: np.random.Generator) -> Taste:
    own = rng.integers(0, len(starts) - 1, 2)
    parts: list[Any] = [rng.integers(starts[c], max(starts[c] + 1, starts[c + 1]), 3 * RECENT) for c in own]
    liked = np.concatenate([part[counts[part] > 0][: RECENT // 2 - 2] for part in parts] + [rng.choice(popular, 4)])
    recent = list(dict.fromkeys(rng.permutation(liked[liked < len(ids)]).tolist()))
    hashes = tuple(int(keys[at]) for at in recent)
    return Taste(hashes, tuple(ids[at] for at in recent), hashes, NOW, NOW - 60_000, len(recent) + 10, 3)


def _counts(key: int, count: int, first: int, last: int) -> Counts:
    return Counts(key, count, first, (min(count, 3.0 + count / 40.0), min(count, 5.0 + count / 3.0)), last)
