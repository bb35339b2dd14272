"""The features that are the same for all users at one time: how popular an item is and how new, and what they add to every score.

Counts change with almost every event, but those of few items at a time: only these items' features are worked out again. With the minute
all of them are. Either way each item's numbers are made by the same steps in the same order, so that all processes come to the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine import kernels
from engine.catalogue import DAY_MS, Catalogue
from engine.cosines import Cosines
from engine.jit import kernel
from engine.space import Floats
from engine.stats import ItemStats

if TYPE_CHECKING:
    from engine.ranker import Ranker

Array = Any  # numba knows the type from the argument; mypy would need it in every expression

SHARED = (
    "trending",
    "popular",
    "known",
    "rising",
    "new",
    "recent",
    "unused",
    "untried",
    "released",
    "released_year",
    "dated",
    "used_week",
    "used_season",
)
S = len(SHARED)
MINUTE_MS = 60_000
SELDOM = 0.3  # uses that a few more or less say nothing beside
FEW = 5.0  # uses at which half of the cold features is left
DAYS_A_MS = 1.0 / 86_400_000
LOG_SCALE = np.array([1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 2.0], np.float32)[:, None]
"""Of the first four features, so that they are of the order of 1."""
SOME = 8
"""Where more than one in so many items have changed, all are worked out again: it is as fast."""


class Uses(NamedTuple):
    """What is counted of items (`engine.stats.ItemStats`), by catalogue index: `count` (N,) float32; `first`, `last` (N,) int64 ms, 0 if
    never used; `scaled` (2, N) float64; `since` (N,) int64 ms; `factors`: what the rows of `scaled` are multiplied with to be as of `now`;
    `usual`: the part of the lasting popularity that is recent if nothing rises or falls; `start`, `now` ms.
    """

    count: Array
    first: Array
    last: Array
    scaled: Array
    since: Array
    factors: tuple[float, float]
    usual: float
    start: int
    now: int


class Rows(NamedTuple):
    """What is made of it: `features` (S, M), `cold`: how little is known of an item, `root`: 1 / sqrt(count), what a pair's weight is
    multiplied with, (M,) float32.
    """

    features: Array
    cold: Array
    root: Array


@kernel
def days_since(time: int, now: int) -> float:
    """Days from a time to now (ms), 0 for a later one."""
    return max(0.0, float(now - time) * DAYS_A_MS)


@kernel
def gather(uses: Uses, items: Array, rows: Rows) -> None:
    """What `work_out` takes logarithms and exponentials of, and the rest, of some `items` (M,)."""
    out = rows.features
    for to in range(len(items)):
        at = items[to]
        count, first, since = float(uses.count[at]), uses.first[at], uses.since[at]
        trending, popular = uses.scaled[0, at] * uses.factors[0], uses.scaled[1, at] * uses.factors[1]
        age = days_since(first if first > 0 else max(since, uses.start), uses.now)
        release = days_since(since, uses.now) if since != 0 else np.inf
        idle = days_since(uses.last[at], uses.now) if first > 0 else np.inf
        out[0, to] = 1.0 + 10.0 * trending
        out[1, to] = 1.0 + 10.0 * popular
        out[2, to] = 1.0 + count
        out[3, to] = (trending + SELDOM) / (popular * uses.usual + SELDOM)
        out[4, to] = age * (-1.0 / 30.0)
        out[5, to] = age * (-1.0 / 365.0)
        out[6, to] = 1.0 / (1.0 + count)
        out[7, to] = 0.0 if first > 0 else 1.0
        out[8, to] = release * (-1.0 / 30.0)
        out[9, to] = release * (-1.0 / 365.0)
        out[10, to] = 0.0 if since == 0 else 1.0
        out[11, to] = idle * (-1.0 / 7.0)
        out[12, to] = idle * (-1.0 / 60.0)
        rows.cold[to] = 1.0 / (1.0 + count / FEW)
        rows.root[to] = 1.0 / np.sqrt(count + FEW)


def work_out(uses: Uses, items: NDArray[np.int64], rows: Rows) -> None:
    """The features of some `items` (M,) to rows of so many columns.

    Logarithms and exponentials are numpy's of float32: a register full at a time, each number as it would be alone.
    """
    gather(uses, items, rows)
    out = rows.features
    np.log(out[:4], out=out[:4])
    out[:4] *= LOG_SCALE
    for some in (slice(4, 6), slice(8, 10), slice(11, 13)):
        np.exp(out[some], out=out[some])


@kernel
def weigh(features: Array, weights: Array, out: Array) -> None:
    """What the shared features (S, M) add under the weights (SITUATIONS, F): `out` (SITUATIONS, M)."""
    out[:] = np.float32(0.0)
    for situation in range(len(weights)):
        for row in range(features.shape[0]):
            weight, total, values = weights[situation, row], out[situation], features[row]
            for i in range(len(values)):
                total[i] += weight * values[i]


class Shared:
    """These features of all items, as of a minute: `features` (S, N), `cold`, `root` (N,) float32; `cosines`: of the items' texts.

    `at` and `weighted` change these arrays in place: what was drafted with them is to be filled in before the next `at`.
    """

    def __init__(self, catalogue: Catalogue, stats: ItemStats) -> None:
        self.catalogue, self.stats, self.cosines = catalogue, stats, Cosines(catalogue.space, catalogue)
        self.features, self.cold, self.root = rows_for(0)
        self._made: tuple[int, ...] | None = None
        self.changed: set[int] | None = None
        """Items whose counts were put since the last `at`; None: so many that all are worked out again."""
        self._weighted: tuple[Floats, Ranker, int, Floats, Floats] | None = None
        self._moved: set[int] = set()  # items whose features have changed since they were weighed
        stats.watch(self._put)

    def _put(self, at: int) -> None:
        if self.changed is not None:
            self.changed.add(at)
            if len(self.changed) * SOME > len(self.catalogue):
                self.changed = None

    def at(self, now: int) -> Shared:
        """Itself, as of the minute of `now` (ms)."""
        minute = now // MINUTE_MS
        state = (self.catalogue.version, len(self.catalogue), minute, self.stats.start, self.stats.reference)
        if state != self._made or self.changed is None:
            rows = some_of(self.catalogue, self.stats, now, np.arange(len(self.catalogue)))
            self.features, self.cold, self.root = rows
            self._made, self.changed = state, set()
        elif self.changed:
            items = np.fromiter(self.changed, np.int64, len(self.changed))
            rows = some_of(self.catalogue, self.stats, now, items)
            self.features[:, items], self.cold[items], self.root[items] = rows
            self._moved |= self.changed
            self.changed.clear()
        return self

    def weighted(self, ranker: Ranker) -> tuple[Floats, Floats]:
        """Weights (SITUATIONS, F) and what the shared features add under them (SITUATIONS, N), as of the last `at`."""
        known = self._weighted
        if known is None or known[0] is not self.features or known[1] is not ranker or known[2] != ranker.version:
            weights = ranker.weights().astype(np.float32)
            known = self._weighted = (self.features, ranker, ranker.version, weights, added_by(weights, self.features))
        elif self._moved:
            items = np.fromiter(self._moved, np.int64, len(self._moved))
            known[4][:, items] = added_by(known[3], self.features.take(items, 1))
        self._moved.clear()
        return known[3], known[4]

    def world(self, near: Floats) -> kernels.World:
        """Everything that compiled loops read of the items, as of the last `at`; `near`: rows of cosines."""
        catalogue, lists, decay = self.catalogue, self.stats.neighbours, self.stats.decay
        n = len(catalogue)
        return kernels.World(
            self.features,
            self.cold,
            self.root,
            catalogue.hashes[:n],
            catalogue.creators[:n],
            catalogue.creator_count,
            catalogue.days[:n],
            near,
            lists.first[:n],
            lists.length[:n],
            lists.time[:n],
            lists.others,
            lists.weights,
            catalogue.filed.terms(),
            catalogue.titled.terms(),
            decay.pair_days * DAY_MS,
            decay.season_days * DAY_MS,
        )


def added_by(weights: Floats, features: Floats) -> Floats:
    """What features (S, M) add under the weights (SITUATIONS, F), (SITUATIONS, M)."""
    added = np.empty((len(weights), features.shape[1]), np.float32)
    weigh(features, weights, added)
    return added


def rows_for(count: int) -> Rows:
    """Room for so many items."""
    return Rows(np.empty((S, count), np.float32), np.empty(count, np.float32), np.empty(count, np.float32))


def uses_of(catalogue: Catalogue, stats: ItemStats, now: int) -> Uses:
    """What is counted, as of `now` (ms)."""
    days, lasting = stats.decay.popularity_days
    first, second = stats.factors(now)
    return Uses(
        stats.count, stats.first_time, stats.last_time, stats.scaled, catalogue.since, (first, second), days / lasting, stats.start, now
    )


def some_of(catalogue: Catalogue, stats: ItemStats, now: int, items: NDArray[np.int64]) -> Rows:
    """The same rows of some `items` (M,) alone, as of the minute of `now` (ms)."""
    rows = rows_for(len(items))
    work_out(uses_of(catalogue, stats, now // MINUTE_MS * MINUTE_MS), items, rows)
    return rows
