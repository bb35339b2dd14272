"""What every worker reads about items: counts, popularity, neighbours. The owners of the items publish it (`engine.item`).

Popularity is kept on a forward-decayed scale: between two events nothing has to be recomputed, and at any time all values share one factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.catalogue import DAY_MS, Catalogue
from engine.hashtable import KINDS, Keys, PairTable
from engine.item import ItemState
from engine.neighbours import NeighbourLists, Neighbours
from engine.pairs import Decay

MOST_HALVES = 200.0
"""Half-lives after which the scale is moved: 2^200 is far within a double."""
ASKED_BEFORE = 10.0
"""Half-lives that counts are taken back at most for a list that is asked for a time before the newest event."""


LARGEST = 1e30  # weight as of a time so long before the pairs' own that it would not fit
LASTING = 0.6  # share of a neighbour list for the strongest of all time; the rest goes to the strongest of the season
_NONE = Neighbours(np.zeros(0, np.int32), np.zeros((KINDS, 0), np.float32), 0)


class Counts(msgspec.Struct, array_like=True, frozen=True):
    """The small part of what is published of an item, as often as once a second."""

    item: int  # hash64
    count: int
    first_time: int
    popularity: tuple[float, ...]
    popularity_time: int


class NeighbourList(msgspec.Struct, array_like=True, frozen=True):
    """The large part: the strongest neighbours; `others` (K,) uint64 and `weights` (4, K) float32 as little-endian bytes."""

    item: int
    others: bytes
    weights: bytes
    time: int


def counts_of(key: int, row: ItemState) -> Counts:
    """What to publish of a row."""
    return Counts(key, row.count, row.first_time, tuple(row.popularity), row.popularity_time)


class ItemStats:
    """Arrays by catalogue index: `count` (N,) float32, `first_time` and `last_time` (N,) int64 ms (0: never used), `scaled` (2, N) float64
    popularity
    on the scale of `reference`; and a neighbour list each, its weights undivided by the counts.
    """

    def __init__(self, catalogue: Catalogue, decay: Decay, most: int = 256) -> None:
        self.catalogue = catalogue
        self.decay = decay
        self.most = most
        self.version = 0  # counts changes of the arrays
        self.start = 0  # ms, the first event seen anywhere
        self.reference = 0
        self.count = np.zeros(0, np.float32)
        self.first_time = np.zeros(0, np.int64)
        self.last_time = np.zeros(0, np.int64)
        self.scaled = np.zeros((len(decay.popularity_days), 0))
        self.neighbours = NeighbourLists()
        self._watchers: list[Callable[[int], None]] = []
        catalogue.follow(self._grow)

    def watch(self, changed: Callable[[int], None]) -> None:
        """Call `changed(index)` whenever the counts of an item were put."""
        self._watchers.append(changed)

    def put(self, counts: Counts) -> None:
        """Take over the published counts of an item."""
        at = self.catalogue.place(counts.item)
        self.version += 1
        self.count[at] = counts.count
        self.first_time[at] = counts.first_time
        self.last_time[at] = counts.popularity_time  # that of the newest use
        if counts.first_time:
            self.start = min(self.start, counts.first_time) if self.start else counts.first_time
        if not self.reference:
            self.reference = counts.popularity_time
        for h, (value, days) in enumerate(zip(counts.popularity, self.decay.popularity_days, strict=True)):
            halves = (counts.popularity_time - self.reference) / (days * DAY_MS)
            if halves > MOST_HALVES:
                self._rebase(counts.popularity_time)
                halves = 0.0
            self.scaled[h, at] = value * 2.0 ** max(halves, -1_000.0)
        for changed in self._watchers:
            changed(at)

    def popularity(self, now: int, items: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """(2, N): the decayed number of uses as of `now` (ms), or that of some `items` (n,) alone."""
        at = slice(len(self.catalogue)) if items is None else items
        popularity: NDArray[np.float64] = self.scaled[:, at] * np.array(self.factors(now))[:, None]
        return popularity

    def factors(self, now: int) -> list[float]:
        """What rows of `scaled` are multiplied with to be as of `now` (ms)."""
        return [2.0 ** min(ASKED_BEFORE, -(now - self.reference) / (days * DAY_MS)) for days in self.decay.popularity_days]

    def choose(self, pairs: PairTable, time: int) -> Neighbours:
        """The `most` pairs that are strongest by weight / sqrt(count of the other), of all time and of the season; `time` (ms): when the
        weights given are to be those of.
        """
        if not len(pairs):
            return _NONE
        used = np.flatnonzero(pairs.keys)
        others = self._places(pairs.keys[used])
        lasting, season = (float(halves[0]) for halves in self.decay.halves(np.array([time])))
        fading = 2.0 ** np.clip([-lasting, pairs.halves - season, -lasting, -lasting], -MOST_HALVES, MOST_HALVES)
        weights = pairs.weights[used].T * fading[:, None]
        if len(others) > self.most:
            strength = weights[:2] / np.sqrt(self.count[others] + 5.0)
            first = int(LASTING * self.most)
            order = np.argpartition(-strength[0], first)
            rest = order[first:]
            kept = np.concatenate([order[:first], rest[np.argpartition(-strength[1, rest], self.most - first)[: self.most - first]]])
            others, weights = others[kept], weights[:, kept]
        return Neighbours(others, np.minimum(weights, LARGEST).astype(np.float32, order="C"), time)

    def _places(self, keys: Keys) -> NDArray[np.int32]:
        """Indices of items, known or not."""
        return self.catalogue.places_of(keys).astype(np.int32)

    def put_neighbours(self, record: NeighbourList) -> None:
        """Take over a published neighbour list."""
        others = self._places(np.frombuffer(record.others, "<u8"))
        weights = np.frombuffer(record.weights, "<f4").reshape(KINDS, len(others))
        self.neighbours.put(self.catalogue.place(record.item), Neighbours(others, weights, record.time))

    def publishable(self, item: int, chosen: Neighbours) -> NeighbourList:
        """A chosen neighbour list as it is published."""
        keys = self.catalogue.hashes[chosen.others].astype("<u8")
        return NeighbourList(item, keys.tobytes(), chosen.weights.astype("<f4").tobytes(), chosen.time)

    def put_all(self, counts: Iterable[Counts]) -> None:
        """`put` for many."""
        for one in counts:
            self.put(one)

    def _rebase(self, time: int) -> None:
        for h, days in enumerate(self.decay.popularity_days):
            self.scaled[h] *= 2.0 ** max(-1_000.0, -(time - self.reference) / (days * DAY_MS))
        self.reference = time

    def _grow(self, capacity: int) -> None:
        self.neighbours.grow(capacity)
        used = len(self.count)
        for name in ("count", "first_time", "last_time"):
            new = np.zeros(capacity, getattr(self, name).dtype)
            new[:used] = getattr(self, name)
            setattr(self, name, new)
        scaled = np.zeros((len(self.scaled), capacity))
        scaled[:, :used] = self.scaled
        self.scaled = scaled
