"""The world of some items, for lists in a large catalogue: the arrays of `engine.kernels.World` for these items alone, by their places
among them, so that the loops of `engine.kernels` cost what these items cost. Which items: `engine.candidates`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.catalogue import DAY_MS, Catalogue, Terms
from engine.jit import kernel
from engine.kernels import World
from engine.leaders import Places
from engine.sharedfeatures import some_of
from engine.stats import ItemStats

Array = Any  # numba knows the type from the argument; mypy would need it in every expression


@kernel
def neighbours_within(
    first: Array, length: Array, others: Array, weights: Array, recent: Array, place: Array, to_first: Array, to_length: Array
) -> tuple[Array, Array]:
    """The neighbour lists of `recent` (R,) items as far as they are within the subset: others by their places, and weights. `place` (N,):
    where in the subset an item stands, -1 if it does not; `to_first`, `to_length`: by place, where the lists stand from now on.
    """
    room = 0
    for at in recent:
        room += length[at]
    found, their, count = np.empty(room, np.int32), np.empty((room, weights.shape[1]), np.float32), 0
    for at in recent:
        to_first[place[at]] = count
        for entry in range(first[at], first[at] + length[at]):
            p = place[others[entry]]
            if p >= 0:
                found[count] = p
                their[count] = weights[entry]
                count += 1
        to_length[place[at]] = count - to_first[place[at]]
    return found[:count].copy(), their[:count].copy()


@kernel
def terms_within(codes: Array, starts: Array, rarity: Array, items: Array, place: Array) -> tuple[Array, Array, Array, Array, Array]:
    """`codes`, `starts`, `items`, `first` and `rarity` as in `catalogue.Terms`, for the items (U,) alone and the terms that they have,
    numbered as they come. `place` (T,) is -1 everywhere, before and after.
    """
    room = 0
    for at in items:
        room += starts[at + 1] - starts[at]
    own, its = np.empty(room, np.int32), np.empty(room, np.float64)
    begin, count, terms = np.zeros(len(items) + 1, np.int64), 0, 0
    for i in range(len(items)):
        for entry in range(starts[items[i]], starts[items[i] + 1]):
            code = codes[entry]
            if place[code] < 0:
                place[code] = terms
                its[terms] = rarity[code]
                terms += 1
            own[count] = place[code]
            count += 1
        begin[i + 1] = count
    for i in range(len(items)):
        for entry in range(starts[items[i]], starts[items[i] + 1]):
            place[codes[entry]] = -1
    first, holders = np.zeros(terms + 1, np.int64), np.empty(room, np.int32)
    for entry in range(count):
        first[own[entry] + 1] += 1
    for term in range(terms):
        first[term + 1] += first[term]
    filled = first[:terms].copy()
    for i in range(len(items)):
        for entry in range(begin[i], begin[i + 1]):
            holders[filled[own[entry]]] = i
            filled[own[entry]] += 1
    return own, begin, holders, first, its[:terms].copy()


class Scratch:
    """Arrays of -1 that the loops leave as they found them: `items` (capacity,) and `terms` (T,) int32, 4 bytes an item and a term."""

    def __init__(self) -> None:
        self.items, self.terms = np.zeros(0, np.int32), np.zeros(0, np.int32)

    def fit(self, items: int, terms: int) -> None:
        """Make them as long as this at least."""
        if len(self.items) < items:
            self.items = np.full(items, -1, np.int32)
        if len(self.terms) < terms:
            self.terms = np.full(2 * terms, -1, np.int32)


def world_of(catalogue: Catalogue, stats: ItemStats, items: Places, recent: Places, now: int, scratch: Scratch) -> World:
    """The world of `items` (U,) catalogue indices, ascending, each once, with `recent` (R,) among them; `near` has the rows of `recent` in
    that order. As of the minute of `now` (ms).
    """
    lists, decay = stats.neighbours, stats.decay
    filed, titled = catalogue.filed.terms(), catalogue.titled.terms()
    scratch.fit(catalogue.capacity, max(len(filed.rarity), len(titled.rarity)))
    place = scratch.items
    place[items] = np.arange(len(items), dtype=np.int32)
    first, length = np.zeros(len(items), np.int64), np.zeros(len(items), np.int64)
    others, weights = neighbours_within(lists.first, lists.length, lists.others, lists.weights, recent, place, first, length)
    place[items] = -1
    vectors = catalogue.space.vectors
    return World(
        *some_of(catalogue, stats, now, items),
        catalogue.hashes[items],
        catalogue.creators[items],
        catalogue.creator_count,
        catalogue.days[items],
        near_of(vectors, recent, items),
        first,
        length,
        lists.time[items],
        others,
        weights,
        terms_of(filed, items, scratch),
        terms_of(titled, items, scratch),
        decay.pair_days * DAY_MS,
        decay.season_days * DAY_MS,
    )


def terms_of(terms: Terms, items: Places, scratch: Scratch) -> Terms:
    """Terms of some items (U,), ascending, alone. Those that came after they were worked out have none yet."""
    known = items[: int(np.searchsorted(items, len(terms.scale)))]
    return Terms(*terms_within(terms.codes, terms.starts, terms.rarity, known, scratch.terms), terms.scale[known])


def near_of(vectors: NDArray[np.float32], recent: Places, items: Places) -> NDArray[np.float32]:
    """(R, U) float32: cosines of some items with others; one row at least, for those who have no history."""
    if not len(recent):
        return np.zeros((1, len(items)), np.float32)
    made: NDArray[np.float32] = np.ascontiguousarray((vectors[items] @ vectors[recent].T).T)
    return made
