"""Which items of a large catalogue are looked at for a user: candidates of several channels, 2,180 at most. Not their order.

Channels: what was used together with the user's recent items; what is near to them by text, each and all together; what is popular,
trending, rising, new, or lately used for the first time; and the popular items by the user's creators and with the user's categories and
tags, where few items have them all of them. The recent items are among the candidates, since some sites list again what was used.

Each channel follows counts, entries and vectors as they come, and gives the same for the same state, whatever came in which order (the text
index as far as `engine.textindex` says). A search and a filter add what they are about. Measured: `python -m bench.ranking`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.catalogue import DAY_MS, Catalogue, Terms
from engine.jit import kernel
from engine.leaders import Leaders, Ordered, Places, distinct, largest
from engine.records import Item
from engine.sharedfeatures import FEW, MINUTE_MS, SELDOM
from engine.space import Floats
from engine.stats import ItemStats
from engine.subset import Scratch
from engine.textindex import EXPANSION, TextIndex

Array = Any  # numba knows the type from the argument; mypy would need it in every expression

STEP = 0.9  # weight of one step back among a user's recent items, as in `engine.kernels`
MOST_LATE = 100.0  # half-lives that a count is faded or taken back at most
GROUP = 48
"""Popular items of a creator, category or tag that are candidates; of groups no larger all are."""
MOST_GROUPS = 4_096
"""Groups whose popular items are kept, those asked for last: some 10 kB each."""
EFFORT = 96
"""Effort of a search for what is near to an item, which stands among its like: less is needed than for a user of several tastes."""
MOST_NEAR = 65_536
"""Items whose nearest by text are kept, until a vector changes: 0.5 kB each."""


@dataclass(frozen=True, slots=True)
class Depths:
    """Candidates of each channel at most. `near`: of each of the `texts` newest items; `creators`, `terms`: so many groups of a user."""

    together: int = 800
    text: int = 200
    near: int = 40
    texts: int = 5
    popular: int = 150
    trending: int = 150
    rising: int = 50
    new: int = 100
    first: int = 50
    creators: int = 4
    terms: int = 6

    @property
    def most(self) -> int:
        """Candidates of all channels at most, the recent items not counted."""
        single = self.together + self.text + self.near * self.texts + self.popular + self.trending + self.rising + self.new + self.first
        return single + GROUP * (self.creators + self.terms)


@kernel
def add_neighbours(
    first: Array,
    length: Array,
    time: Array,
    others: Array,
    weights: Array,
    count: Array,
    recent: Array,
    now: int,
    half_lives: Array,
    place: Array,
) -> tuple[Array, Array]:
    """The neighbours of `recent` (R,) items, each once, and how strong they are: the sum over kinds of the roots of what the features of
    the kind sum up. `half_lives` (kinds,) ms; `place` (N,) is -1 everywhere, before and after.
    """
    room, kinds = 0, weights.shape[1]
    for at in recent:
        room += length[at]
    items, sums, found = np.empty(room, np.int64), np.zeros((room, kinds), np.float64), 0
    factors = np.empty(kinds, np.float64)
    for slot in range(len(recent)):
        at = recent[slot]
        own = STEP**slot / np.sqrt(count[at] + FEW)
        for kind in range(kinds):
            factors[kind] = own * 2.0 ** max(-MOST_LATE, min(MOST_LATE, -(now - time[at]) / half_lives[kind]))
        for entry in range(first[at], first[at] + length[at]):
            other = others[entry]
            if place[other] < 0:
                place[other] = found
                items[found] = other
                found += 1
            root = 1.0 / np.sqrt(count[other] + FEW)
            for kind in range(kinds):
                sums[place[other], kind] += weights[entry, kind] * factors[kind] * root
    strengths = np.zeros(found, np.float64)
    for i in range(found):
        place[items[i]] = -1
        for kind in range(kinds):
            strengths[i] += np.sqrt(sums[i, kind])
    return items[:found].copy(), strengths


class Groups:
    """The popular items of each creator, category and tag, as far as the catalogue's terms are worked out; made when first asked for."""

    def __init__(self, catalogue: Catalogue, popularity: Callable[[Places], NDArray[np.float64]]) -> None:
        self._catalogue, self._popularity = catalogue, popularity
        self._terms: Terms | None = None
        self._by_creator, self._first = np.zeros(0, np.int64), np.zeros(1, np.int64)
        self._leaders: OrderedDict[tuple[bool, int], Leaders] = OrderedDict()

    def forget(self) -> None:
        """Make all of them anew."""
        self._terms = None

    def members(self, creator: bool, code: int) -> Places:
        """All items of a creator, or with a category or tag."""
        terms = self._fit()
        if creator:
            return self._by_creator[self._first[code] : self._first[code + 1]] if 0 <= code < len(self._first) - 1 else self._by_creator[:0]
        return (
            terms.items[terms.first[code] : terms.first[code + 1]].astype(np.int64)
            if 0 <= code < len(terms.rarity)
            else self._by_creator[:0]
        )

    def top(self, creator: bool, code: int) -> Places:
        """The GROUP most popular items of a creator, or with a category or tag."""
        terms, key = self._fit(), (creator, code)
        first = self._first if creator else terms.first
        if code >= len(first) - 1 or first[code + 1] - first[code] <= GROUP:
            return self.members(creator, code)
        leaders = self._leaders.get(key)
        if leaders is None:
            leaders = Leaders(self._popularity, lambda: self.members(creator, code), lambda: self._catalogue.hashes, GROUP)
            self._leaders[key] = leaders
            if len(self._leaders) > MOST_GROUPS:
                self._leaders.popitem(last=False)
        self._leaders.move_to_end(key)
        return leaders.top(GROUP)

    def changed(self, items: Places) -> None:
        """Look at items whose popularity may have changed."""
        if self._terms is None or not self._leaders:
            return
        touched: dict[tuple[bool, int], list[int]] = {}
        for at in items.tolist():
            for key in self._of(at):
                if key in self._leaders:
                    touched.setdefault(key, []).append(at)
        for key, members in touched.items():
            self._leaders[key].changed(np.array(members, np.int64))

    def _of(self, at: int) -> Iterable[tuple[bool, int]]:
        """The groups of an item as they are in `members`: not those it came to since."""
        terms = self._fit()
        if at < len(terms.scale):
            yield True, int(self._creators[at])
            for code in terms.codes[terms.starts[at] : terms.starts[at + 1]].tolist():
                yield False, code

    def _fit(self) -> Terms:
        """Follow the catalogue's terms."""
        terms = self._catalogue.filed.terms()
        if terms is not self._terms:
            self._creators = self._catalogue.creators[: len(terms.scale)].copy()
            self._by_creator = np.argsort(self._creators, kind="stable")
            self._first = np.concatenate([[0], np.cumsum(np.bincount(self._creators, minlength=1))])
            self._leaders.clear()
            self._terms = terms
        return terms


class Retrieval:
    """Candidates for one catalogue, whose counts and entries it follows from its making on; vectors are followed by `text`."""

    def __init__(self, catalogue: Catalogue, stats: ItemStats, text: TextIndex | None = None, depths: Depths | None = None) -> None:
        self._catalogue, self._stats, self.text, self.depths = catalogue, stats, text, depths or Depths()
        self.scratch = Scratch()
        """As long as the catalogue, from `catch_up` on."""
        self._counted, self._entered = set[int](), set[int]()
        self._reference = -1
        self._made: tuple[int, Places] | None = None
        self._near: dict[int, Places] = {}
        self._near_as_of = -1
        self._groups = Groups(catalogue, self._popularity)
        stats.watch(self._counted.add)
        catalogue.watch(self._entry_changed)

    def use(self, text: TextIndex | None) -> None:
        """Switch to the index of another space."""
        self.text, self._near_as_of = text, -1
        self._near.clear()

    def pool(self, recent: Places, now: int) -> Places:
        """(M,) the candidates for a user with these `recent` items (R,), newest first, as of `now` (ms); ascending, each once."""
        self.catch_up()
        found = [recent, self._common(now // MINUTE_MS), self._new.newest(now, self.depths.new)]
        if len(recent):
            found += [self.together(recent, now), *self._texts(recent), *self._grouped(recent)]
        return distinct(found)

    def _common(self, minute: int) -> Places:
        """What is the same for all users until counts or the minute change."""
        if self._made is None or self._made[0] != minute:
            depths = self.depths
            found = [self._popular.top(depths.popular), self._trending.top(depths.trending), self._first_used.top(depths.first)]
            self._made = minute, distinct([*found, self._rising(minute * MINUTE_MS, depths.rising)])
        return self._made[1]

    def popular(self, most: int) -> Places:
        """The `most` most popular items, as many as are kept; in no order."""
        self.catch_up()
        return self._popular.top(most)

    def together(self, recent: Places, now: int) -> Places:
        """What was used together with these items, the strongest."""
        lists, stats = self._stats.neighbours, self._stats
        lasting, season = stats.decay.pair_days * DAY_MS, stats.decay.season_days * DAY_MS
        arrays = (lists.first, lists.length, lists.time, lists.others, lists.weights, stats.count)
        half_lives = np.array([lasting, season, lasting, lasting])
        items, strengths = add_neighbours(*arrays, recent, now, half_lives, self.scratch.items)
        return largest(items, strengths, self._catalogue.hashes, self.depths.together)

    def near(self, vector: Floats, most: int, effort: int = EXPANSION) -> Places:
        """The `most` items nearest to a unit vector (D,) by text; `effort`: see `TextIndex.nearest`."""
        return np.zeros(0, np.int64) if self.text is None else self.text.nearest(vector, most, self._catalogue.hashes, effort)

    def members(self, field: str, name: str) -> Places | None:
        """All items with a creator, category or tag as far as they are filed; None for a field that is not indexed."""
        if field == "creator":
            return self._groups.members(True, self._catalogue.creator_code(name))
        if field in ("categories", "tags", "category", "tag"):
            return self._groups.members(False, self._catalogue.filed.code(name.lower()))
        return None

    def catch_up(self) -> None:
        """Follow what has changed since: some µs for an item's counts."""
        stats, catalogue = self._stats, self._catalogue
        self.scratch.fit(catalogue.capacity, 0)
        if stats.reference != self._reference:  # the scale of all counts was moved
            self._reference, self._made = stats.reference, None
            self._popular = self._leaders(self._popularity, 1_000)
            self._trending = self._leaders(lambda items: stats.scaled[0, items] * catalogue.listable[items], 1_000)
            self._first_used = self._leaders(lambda items: stats.first_time[items] * catalogue.listable[items], 200)
            times = lambda items: catalogue.since[items] * catalogue.listable[items]  # noqa: E731
            self._new = Ordered(times, lambda: np.arange(len(catalogue)), lambda: catalogue.hashes)
            self._groups.forget()
        else:
            changed = np.array(sorted(self._counted | self._entered), np.int64)
            if len(changed):
                self._made = None
                for leaders in (self._popular, self._trending, self._first_used, self._groups):
                    leaders.changed(changed)
                self._new.changed(np.array(sorted(self._entered), np.int64))
        self._counted.clear()
        self._entered.clear()
        if self.text is not None:
            self.text.settle()

    def _texts(self, recent: Places) -> Iterable[Places]:
        """What is near to the user's vector and to the newest items."""
        text, space = self.text, self._catalogue.space
        if text is None:
            return
        if text.version != self._near_as_of:
            self._near.clear()
            self._near_as_of = text.version
        known = recent[space.has_vector[recent]]
        if not len(known):
            return
        steps = (STEP ** np.arange(len(recent)))[space.has_vector[recent]].astype(np.float32)
        own = steps @ space.vectors[known]
        length = float(np.linalg.norm(own))
        if length > 0.0:
            yield self.near(own / np.float32(length), self.depths.text)
        for at in known[: self.depths.texts].tolist():
            found = self._near.get(at)
            if found is None:
                if len(self._near) == MOST_NEAR:
                    del self._near[next(iter(self._near))]
                found = self._near[at] = self.near(space.vectors[at], self.depths.near, EFFORT)
            yield found

    def _grouped(self, recent: Places) -> Iterable[Places]:
        """Popular ones by the creators of the recent items, and with those of their categories and tags that say most of the user."""
        catalogue, terms = self._catalogue, self._catalogue.filed.terms()
        steps = STEP ** np.arange(len(recent))
        if catalogue.creator_count > 1:
            creators = catalogue.creators[recent]
            for code in strongest_codes(creators[creators != 0], steps[creators != 0], self.depths.creators):
                yield self._groups.top(True, code)
        filed, steps = recent[recent < len(terms.scale)], steps[recent < len(terms.scale)]
        parts = [terms.codes[terms.starts[at] : terms.starts[at + 1]] for at in filed.tolist()]
        codes = np.concatenate([np.zeros(0, np.int32), *parts])
        steps = np.repeat(steps, [len(part) for part in parts])
        for code in strongest_codes(codes, steps * terms.rarity[codes], self.depths.terms):
            yield self._groups.top(False, code)

    def _rising(self, now: int, most: int) -> Places:
        """Of the trending those that were used least before, by the feature's formula."""
        items = self._trending.top(self._trending.most)
        trending, popular = self._stats.popularity(now, items)
        days, lasting = self._stats.decay.popularity_days
        return largest(items, (trending + SELDOM) / (popular * (days / lasting) + SELDOM), self._catalogue.hashes, most)

    def _popularity(self, items: Places) -> NDArray[np.float64]:
        popularity: NDArray[np.float64] = self._stats.scaled[1, items] * self._catalogue.listable[items]
        return popularity

    def _leaders(self, values: Callable[[Places], Any], most: int) -> Leaders:
        return Leaders(values, lambda: np.arange(len(self._catalogue)), lambda: self._catalogue.hashes, most)

    def _entry_changed(self, at: int, before: Item | None) -> None:
        self._entered.add(at)
        if self.text is not None and self._catalogue.items[at] is None:
            self.text.drop(at)
        elif self.text is not None and before is None and self._catalogue.space.has_vector[at]:  # it comes back
            self.text.put_all([at])


def strongest_codes(codes: NDArray[np.int32], weights: NDArray[np.float64], most: int) -> list[int]:
    """The codes (n,) that have the largest weights (n,) in all; of equal ones those that come first, which are the newest item's.

    >>> strongest_codes(np.array([7, 3, 5, 3], np.int32), np.array([1.0, 0.5, 1.0, 0.75]), 2)
    [3, 7]
    """
    found, first, which = np.unique(codes, return_index=True, return_inverse=True)
    sums = np.bincount(which, weights, len(found))
    strongest: list[int] = found[np.lexsort((first, -sums))[:most]].tolist()
    return strongest
