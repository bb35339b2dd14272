"""Cosines of one item's text with all items, remembered. Users share items, so most products of vectors were made before.

A user's vector is a weighted sum of items' vectors, hence the user's cosines are the same sum of the items' cosines: 20 rows added up
instead of a product with all vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.catalogue import Catalogue, Floats
from engine.kernels import LONGEST

BUDGET_BYTES = 96 * 1024 * 1024
"""Memory for the rows: those of all items up to 4,600 of them, of 200 where there are 100,000."""
ROOM = 1.125
"""Items that a row has room for, over those there are: a new item does not cost all rows."""
AT_ONCE = 512


class Cosines:
    """Rows (slots, width) float32, first in first out."""

    def __init__(self, catalogue: Catalogue, budget_bytes: int = BUDGET_BYTES) -> None:
        self._catalogue, self._budget = catalogue, budget_bytes
        self._rows = np.zeros((0, 0), np.float32)
        self._slots: dict[int, int] = {}

    def users_at_once(self) -> int:
        """Users whose recent items surely fit together."""
        return max(1, self._budget // (8 * self._width() * LONGEST))

    def prepare(self) -> None:
        """Make the rows of all items where they fit: 0.3 s for 4,000 items, and no list waits for a row later."""
        n = len(self._catalogue)
        self._fit()
        if n <= len(self._rows):
            for start in range(0, n, AT_ONCE):
                missing = [at for at in range(start, min(n, start + AT_ONCE)) if at not in self._slots]
                if missing:
                    self._fill(missing, set())

    def of(self, places: Sequence[int]) -> tuple[Floats, list[int]]:
        """Rows of cosines with all items (rows, >= N), and which of them is that of each item of `places` (indices)."""
        self._fit()
        needed = set(places)
        if 2 * len(needed) > len(self._rows):  # a catalogue so large that its rows are not worth keeping
            own = {at: slot for slot, at in enumerate(needed)}
            return self._made(list(own)), [own[at] for at in places]
        missing = [at for at in needed if at not in self._slots]
        if missing:
            self._fill(missing, needed)
        return self._rows, [self._slots[at] for at in places]

    def _fit(self) -> None:
        """Follow the catalogue: a changed vector changes a column, many changed ones all rows."""
        catalogue = self._catalogue
        changed = catalogue.take_changed_vectors()
        if changed is None or len(catalogue) > self._rows.shape[1]:
            width = self._width()
            self._rows = np.zeros((self._budget // (4 * width), width), np.float32)
            self._slots.clear()
            return
        if changed and self._slots:
            owners, slots = list(self._slots), list(self._slots.values())
            self._rows[np.ix_(slots, changed)] = catalogue.vectors[owners] @ catalogue.vectors[changed].T
            own = [at for at in changed if at in self._slots]
            if own:
                self._rows[[self._slots[at] for at in own], : len(catalogue)] = self._made(own)

    def _width(self) -> int:
        return int(len(self._catalogue) * ROOM) + 64

    def _made(self, places: Sequence[int]) -> Floats:
        vectors = self._catalogue.vectors[: len(self._catalogue)]
        made: Floats = vectors[list(places)] @ vectors.T
        return made

    def _fill(self, missing: Sequence[int], needed: set[int]) -> None:
        n = len(self._catalogue)
        for row, at in zip(self._made(missing), missing, strict=True):
            if len(self._slots) < len(self._rows):
                slot = len(self._slots)
            else:
                oldest = next(key for key in self._slots if key not in needed)
                slot = self._slots.pop(oldest)
            self._slots[at] = slot
            self._rows[slot, :n] = row
            self._rows[slot, n:] = 0.0  # items to come have no vector yet
