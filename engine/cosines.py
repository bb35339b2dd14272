"""Cosines of one item's text with all items, remembered. Users share items, so most products of vectors were made before.

A user's vector is a weighted sum of items' vectors, hence the user's cosines are the same sum of the items' cosines: 20 rows added up
instead of a product with all vectors.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized

import numpy as np
from numpy.typing import NDArray

from engine.kernels import LONGEST
from engine.space import Floats, Space

BUDGET_BYTES = 96 * 1024 * 1024
"""Memory for the rows: those of all items up to 4,600 of them, of 200 where there are 100,000."""
ROOM = 1.125
"""Items that a row has room for, over those there are: a new item does not cost all rows."""
AT_ONCE = 512


class Cosines:
    """Rows (slots, width) float32; where there are fewer than items, each new one takes the place of the one made longest ago.

    `items`: the catalogue, whose length says how many of the space's vectors there are.
    """

    def __init__(self, space: Space, items: Sized, budget_bytes: int = BUDGET_BYTES) -> None:
        self._space, self._items, self._budget = space, items, budget_bytes
        self._rows = np.zeros((0, 0), np.float32)
        self._owner = np.zeros(0, np.int64)  # slot -> item, -1: free
        self._slot = np.zeros(0, np.int64)  # item -> slot, -1: none
        self._next = 0

    def users_at_once(self) -> int:
        """Users whose recent items surely fit together."""
        return max(1, self._budget // (8 * _width(len(self._items)) * LONGEST))

    def prepare(self, n: int) -> None:
        """Make the rows of the first `n` items where they fit: 0.3 s for 4,000, and no list waits for a row later.

        In any thread, while nobody else has this object and the space is not changed.
        """
        self._fit(n)
        if n <= len(self._rows):
            missing = np.flatnonzero(self._slot[:n] < 0)
            for start in range(0, len(missing), AT_ONCE):
                self._fill(missing[start : start + AT_ONCE], missing, n)

    def of(self, places: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
        """Rows of cosines with all items (rows, >= N), and which of them is that of each item of `places` (indices)."""
        n = len(self._items)
        self._fit(n)
        if 2 * len(places) > len(self._rows):
            needed, own = np.unique(places, return_inverse=True)
            if 2 * len(needed) > len(self._rows):  # a catalogue so large that its rows are not worth keeping
                return self._made(needed, n), own.astype(np.int64)
        slots: NDArray[np.int64] = self._slot[places]
        if (slots < 0).any():
            self._fill(np.unique(places[slots < 0]), places, n)
            slots = self._slot[places]
        return self._rows, slots

    def _fit(self, n: int) -> None:
        """Follow the space and the catalogue: a changed vector changes a column, many changed ones all rows."""
        changed = self._space.take_changed()
        if changed is None or n > self._rows.shape[1]:
            width = _width(n)
            self._rows = np.zeros((self._budget // (4 * width), width), np.float32)
            self._owner, self._slot, self._next = np.full(len(self._rows), -1), np.full(width, -1), 0
            return
        slots = np.flatnonzero(self._owner >= 0)
        if changed and len(slots):
            vectors = self._space.vectors
            self._rows[np.ix_(slots, np.array(changed))] = vectors[self._owner[slots]] @ vectors[changed].T
            own = [at for at in changed if self._slot[at] >= 0]
            if own:
                self._rows[self._slot[own], :n] = self._made(own, n)

    def _made(self, places: Sequence[int] | NDArray[np.int64], n: int) -> Floats:
        vectors = self._space.vectors[:n]
        made: Floats = vectors[places] @ vectors.T
        return made

    def _fill(self, missing: NDArray[np.int64], needed: NDArray[np.int64], n: int) -> None:
        kept = set(needed.tolist())
        for row, at in zip(self._made(missing, n), missing.tolist(), strict=True):
            while (owner := int(self._owner[self._next])) in kept:
                self._next = (self._next + 1) % len(self._owner)
            if owner >= 0:
                self._slot[owner] = -1
            self._slot[at], self._owner[self._next] = self._next, at
            self._rows[self._next, :n] = row
            self._rows[self._next, n:] = 0.0  # items to come have no vector yet
            self._next = (self._next + 1) % len(self._owner)


def _width(n: int) -> int:
    return int(n * ROOM) + 64
