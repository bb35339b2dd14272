"""The numbers from which an item's score is made, for many users and all items at once. Not the weights (`engine.ranker`).

Shared features are the same for every user at one time; the others depend on the user's recent items. All are of the order of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.catalogue import DAY_MS, Catalogue, Floats
from engine.partition import item_key
from engine.stats import ItemStats
from engine.user import UserState, liked

SHARED = ("trending", "popular", "known", "new", "recent", "unused")
PERSONAL = ("together", "together_last", "text", "text_last", "text_cold", "creator", "date")
NAMES = SHARED + PERSONAL
RECENT = 20  # liked items that describe a user; older ones add little and cost a product each
STEP = 0.9  # weight of one step back among them
SESSION_MS = 1_800_000  # a gap of 30 minutes ends a session


@dataclass(frozen=True, slots=True)
class Taste:
    """What a user's row says to the ranker, copied out of it: newest first. `recent`: hash64 of the liked items; `ids` their ids;
    `seen`: hash64 of all items that may not be listed again; `now`, `last_time` in ms; `events`: how many so far.
    """

    recent: tuple[int, ...]
    ids: tuple[str, ...]
    seen: tuple[int, ...]
    now: int
    last_time: int
    events: int


def taste_of(state: UserState | None, now: int) -> Taste:
    """Copy what the ranker needs out of a row; None or a user who is not to be personalised gives an empty taste."""
    if state is None or not state.personalise:
        return Taste((), (), () if state is None else tuple(state.seen), now, 0, 0)
    ids = tuple(one.item_id for one in liked(state.history, RECENT))
    return Taste(tuple(map(item_key, ids)), ids, tuple(state.seen), now, state.last_time, state.events)


def situations(tastes: Sequence[Taste]) -> NDArray[np.intp]:
    """(B,) the situation of each user, for which the ranker has weights of its own: gap since the last event x length of the history.

    >>> int(situations([Taste((), (), (), 0, 0, 0)])[0])
    3
    """
    gap = [0 if t.events and t.now - t.last_time < SESSION_MS else 1 for t in tastes]
    size = [0 if t.events <= 3 else 1 if t.events <= 20 else 2 for t in tastes]
    return np.array([3 * g + s for g, s in zip(gap, size, strict=True)], np.intp)


SITUATIONS = 6


@dataclass(slots=True)
class Links:
    """Co-visitation of a batch, one entry per (user, history item, neighbour): where it belongs and what it adds to `together`."""

    row: NDArray[np.int32]  # (E,) user of the batch
    slot: NDArray[np.int32]  # (E,) place in the user's recent items
    other: NDArray[np.int32]  # (E,) the neighbour's index
    weight: Floats  # (E,)


@dataclass(slots=True)
class Features:
    """Features of a batch: `shared` (S, N), `personal` (P, B, N) float32, and what the reasons need."""

    shared: Floats
    personal: Floats
    recent: list[list[int]]  # (B, <= RECENT) indices of the users' recent items, newest first
    names: list[list[str]]  # their ids
    shares: list[Floats]  # (B, <= RECENT) weight of each in the user vector, divided by its length
    links: Links

    def named(self, name: str, row: int = 0) -> Floats:
        """(N,) one feature of one user of the batch."""
        return self.shared[SHARED.index(name)] if name in SHARED else self.personal[PERSONAL.index(name), row]


def shared_features(catalogue: Catalogue, stats: ItemStats, now: int) -> Floats:
    """(S, N) float32."""
    n = len(catalogue)
    count, first = stats.count[:n], stats.first_time[:n]
    trending, popular = stats.popularity(now)
    used = first > 0
    since = np.where(used, first, np.maximum(catalogue.since[:n], stats.start))
    age = np.maximum(0.0, (now - since) / DAY_MS)
    rows = (
        np.log1p(10.0 * trending) / 3.0,
        np.log1p(10.0 * popular) / 3.0,
        np.log1p(count) / 3.0,
        np.exp(-age / 30.0),
        np.exp(-age / 365.0),
        1.0 / (1.0 + count),
    )
    return np.stack(rows).astype(np.float32)


def links_of(catalogue: Catalogue, stats: ItemStats, recent: list[list[int]], nows: Sequence[int]) -> Links:
    """Neighbours of all recent items of a batch, weighted by cosine-like strength, place in the history and age of the counts."""
    rows, slots, others, weights, lengths, factors = [], [], [], [], [], []
    half_life = stats.decay.pair_days * DAY_MS
    root = np.sqrt(stats.count + 5.0)
    for row, (places, now) in enumerate(zip(recent, nows, strict=True)):
        for slot, at in enumerate(places):
            found = stats.of(at)
            if len(found.others):
                rows.append(row)
                slots.append(slot)
                others.append(found.others)
                weights.append(found.weights)
                lengths.append(len(found.others))
                factors.append(STEP**slot * 2.0 ** (-(now - found.time) / half_life) / root[at])
    if not others:
        none = np.zeros(0, np.int32)
        return Links(none, none, none, np.zeros(0, np.float32))
    other = np.concatenate(others)
    weight = np.concatenate(weights) * np.repeat(np.array(factors, np.float32), lengths) / root[other]
    return Links(np.repeat(np.array(rows, np.int32), lengths), np.repeat(np.array(slots, np.int32), lengths), other, weight)


def features_of(catalogue: Catalogue, stats: ItemStats, tastes: Sequence[Taste]) -> Features:
    """Features of all items for a batch of users; the shared ones as of the newest `now` among them."""
    n, b = len(catalogue), len(tastes)
    shared = shared_features(catalogue, stats, max(t.now for t in tastes))
    index = catalogue.index
    known = [[(index[key], name) for key, name in zip(t.recent, t.ids, strict=True) if key in index] for t in tastes]
    recent, names = [[at for at, _ in row] for row in known], [[name for _, name in row] for row in known]
    links = links_of(catalogue, stats, recent, [t.now for t in tastes])
    personal = np.zeros((len(PERSONAL), b, n), np.float32)
    flat = links.row.astype(np.int64) * n + links.other
    personal[0] = np.bincount(flat, links.weight, b * n).reshape(b, n)
    last = links.slot == 0
    personal[1] = np.bincount(flat[last], links.weight[last], b * n).reshape(b, n)
    np.sqrt(personal[:2], out=personal[:2])
    vectors = catalogue.vectors[:n]
    wanted = np.zeros((2 * b, catalogue.dims), np.float32)  # user vectors, then those of the newest items
    shares: list[Floats] = []
    for row, places in enumerate(recent):
        steps = (STEP ** np.arange(len(places))).astype(np.float32)
        if not places:
            shares.append(steps)
            continue
        wanted[row] = steps @ vectors[places]
        wanted[b + row] = vectors[places[0]]
        length = float(np.sqrt(wanted[row] @ wanted[row])) or 1.0
        wanted[row] /= length
        shares.append(steps / length)
        by_creator = np.bincount(catalogue.creators[places], steps / steps.sum(), catalogue.creator_count)
        by_creator[0] = 0.0
        personal[5, row] = by_creator[catalogue.creators[:n]]
        dates = catalogue.days[places]
        if (dated := dates != 0.0).any():
            middle = np.average(dates[dated], weights=steps[dated])
            personal[6, row] = 1.0 / (1.0 + np.abs(catalogue.days[:n] - np.float32(middle)) / 365.0)
    personal[6, :, catalogue.days[:n] == 0.0] = 0.0
    cosines = np.matmul(wanted, vectors.T)
    personal[2], personal[3] = cosines[:b], cosines[b:]
    np.multiply(personal[2], 1.0 / (1.0 + stats.count[:n] / 5.0), out=personal[4])
    return Features(shared, personal, recent, names, shares, links)
