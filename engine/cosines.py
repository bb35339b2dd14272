"""Cosines of one item's text with all items, remembered. Users share items, so most products of vectors were made before.

A user's vector is a weighted sum of items' vectors, hence the user's cosines are the same sum of the items' cosines: 20 rows added up
instead of a product with all vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.catalogue import Catalogue, Floats
from engine.kernels import LONGEST

BUDGET_BYTES = 64 * 1024 * 1024
"""Memory for the rows: at 4,300 items 3,400 of them."""
ROOM = 1.125
"""Items that a row has room for, over those there are: a new item does not cost all rows."""


class Cosines:
    """Rows (slots, width) float32, first in first out, forgotten when a vector changes."""

    def __init__(self, catalogue: Catalogue, budget_bytes: int = BUDGET_BYTES) -> None:
        self._catalogue, self._budget = catalogue, budget_bytes
        self._rows = np.zeros((0, 0), np.float32)
        self._slots: dict[int, int] = {}
        self._version = -1

    def users_at_once(self) -> int:
        """Users whose recent items surely fit together."""
        return max(1, self._budget // (8 * self._width() * LONGEST))

    def of(self, places: Sequence[int]) -> tuple[Floats, list[int]]:
        """Rows of cosines with all items (rows, >= N), and which of them is that of each item of `places` (indices)."""
        if self._version != self._catalogue.vectors_version or len(self._catalogue) > self._rows.shape[1]:
            width = self._width()
            self._rows = np.zeros((self._budget // (4 * width), width), np.float32)
            self._slots.clear()
            self._version = self._catalogue.vectors_version
        needed = set(places)
        if 2 * len(needed) > len(self._rows):  # a catalogue so large that its rows are not worth keeping
            own = {at: slot for slot, at in enumerate(needed)}
            return self._made(list(own)), [own[at] for at in places]
        missing = [at for at in needed if at not in self._slots]
        if missing:
            self._fill(missing, needed)
        return self._rows, [self._slots[at] for at in places]

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
            self._rows[slot, n:] = 0.0  # items to come have no vector yet; when one gets it, all rows are forgotten
