"""The items with the largest values of some number, kept while the numbers change: popular, trending, lately first used. Not the numbers.

Exact at any time: what was counted in which order changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Values = NDArray[np.floating] | NDArray[np.integer]
MARGIN = 4
"""So many times the leaders that are asked for are kept at most, half of that after they were trimmed: they are then looked for among all
items only after half of those kept have lost their places.
"""


def largest(items: Places, values: Values, hashes: Hashes, most: int) -> Places:
    """The `most` of `items` (n,) whose `values` (n,) are largest, of equal ones the first by `hashes` (capacity,), which is the same in all
    processes; in no order.

    >>> largest(np.array([4, 5, 6]), np.array([1.0, 2.0, 1.0]), np.array([9, 9, 9, 9, 3, 2, 1], np.uint64), 2).tolist()
    [5, 6]
    """
    if len(items) <= most:
        return items
    if not most:
        return items[:0]
    least = np.partition(values, len(values) - most)[len(values) - most]
    above, equal = items[values > least], items[values == least]
    wanted = most - len(above)
    if len(equal) > wanted:
        equal = equal[np.argpartition(hashes[equal], wanted - 1)[:wanted]]
    return np.concatenate([above, equal])


def distinct(parts: Sequence[Places]) -> Places:
    """(n,) the items of some parts, ascending, each once; several times as fast as numpy's `unique`, which hashes.

    >>> distinct([np.array([3, 1]), np.array([1, 2])]).tolist()
    [1, 2, 3]
    """
    items = np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))
    new = np.ones(len(items), np.bool_)
    np.not_equal(items[1:], items[:-1], out=new[1:])
    found: Places = items[new]
    return found


class Leaders:
    """The leaders among the items that `among()` gives, by `values(items)`, larger than 0; `most` of them can be asked for."""

    def __init__(self, values: Callable[[Places], Values], among: Callable[[], Places], hashes: Callable[[], Hashes], most: int) -> None:
        self._values, self._among, self._hashes, self.most = values, among, hashes, most
        self._members: set[int] = set()
        self._floor: tuple[float, int] | None = None  # (value, hash) of the largest that is not kept; None where all above 0 are
        self._kept: Places | None = None
        self._tops: dict[int, Places] = {}
        self._look()

    def changed(self, items: Places) -> None:
        """Look at items whose values may have changed; each is among those of `among`."""
        self._kept = None
        self._tops.clear()
        least, first = self._floor or (0.0, -1)
        hashes = self._hashes()
        for at, value in zip(items.tolist(), self._values(items).tolist(), strict=True):
            if value > least or (value == least and int(hashes[at]) < first):
                self._members.add(at)
            else:
                self._members.discard(at)
        if len(self._members) > MARGIN * self.most:
            self._keep(np.fromiter(self._members, np.int64, len(self._members)), missing=self._floor is not None)
        elif len(self._members) < self.most and self._floor is not None:
            self._look()

    def top(self, most: int) -> Places:
        """The `most` leaders, no more than can be asked for; in no order."""
        if self._kept is None:
            self._kept = np.fromiter(self._members, np.int64, len(self._members))
        found = self._tops.get(most)
        if found is None:
            found = self._tops[most] = largest(self._kept, self._values(self._kept), self._hashes(), min(most, self.most))
        return found

    def _look(self) -> None:
        """Look for the leaders among all."""
        items = self._among()
        self._keep(items[self._values(items) > 0], missing=False)

    def _keep(self, items: Places, *, missing: bool) -> None:
        """Keep the leaders of `items`; `missing`: whether there are others above 0."""
        hashes, most = self._hashes(), MARGIN * self.most // 2
        kept = largest(items, self._values(items), hashes, most)
        if len(kept) < len(items):
            dropped = np.setdiff1d(items, kept)
            best = largest(dropped, self._values(dropped), hashes, 1)
            self._floor = (float(self._values(best)[0]), int(hashes[best[0]]))
        elif not missing:
            self._floor = None
        self._members, self._kept = set(kept.tolist()), kept


class Ordered:
    """Items in the order of a time that only their catalogue entries change, asked for as of any time: the newest that are out."""

    def __init__(self, times: Callable[[Places], NDArray[np.int64]], among: Callable[[], Places], hashes: Callable[[], Hashes]) -> None:
        self._times, self._among, self._hashes = times, among, hashes
        self._order, self._sorted = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._changed: set[int] | None = None  # since they were put in order; None: never

    def changed(self, items: Places) -> None:
        """Look at items whose times may have changed."""
        if self._changed is not None:
            self._changed.update(items.tolist())

    def newest(self, now: int, most: int) -> Places:
        """The `most` items with the latest times up to `now`, later than 0; in no order."""
        if self._changed is None or len(self._changed) > max(1_024, len(self._order) // 64):
            self._changed = self._sort()
        moved = np.fromiter(self._changed, np.int64, len(self._changed))
        start = end = int(np.searchsorted(self._sorted, now, "right"))
        found = self._order[:0]
        while len(found) < most and start > 0:  # passing over those that were moved
            start = max(0, start - most)
            found = np.setdiff1d(self._order[start:end], moved)
        times = self._times(moved)
        found = np.concatenate([found, moved[(times > 0) & (times <= now)]])
        return largest(found, self._times(found), self._hashes(), most)

    def _sort(self) -> set[int]:
        """Put all in order, the latest last; some 0.1 s for a million."""
        items = self._among()
        times = self._times(items)
        items, times = items[times > 0], times[times > 0]
        order = np.lexsort((self._hashes()[items], -times))[::-1]
        self._order, self._sorted = items[order], times[order]
        return set()
