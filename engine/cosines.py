"""Cosines of one item's text with all items, remembered. Users share items, so most products of vectors were made before.

A user's vector is a weighted sum of items' vectors, hence the user's cosines are the same sum of the items' cosines: 20 rows added up
instead of a product with all vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.catalogue import Catalogue, Floats

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

    def of(self, places: Sequence[int]) -> Floats | None:
        """(len(places), N) cosines of the items at these indices, each once, with all items; None where too few rows fit the budget."""
        n = len(self._catalogue)
        if self._version != self._catalogue.vectors_version or n > self._rows.shape[1]:
            width = int(n * ROOM) + 64
            self._rows = np.zeros((self._budget // (4 * width), width), np.float32)
            self._slots.clear()
            self._version = self._catalogue.vectors_version
        if len(places) > len(self._rows) // 4:
            return None
        missing = [at for at in places if at not in self._slots]
        if missing:
            self._fill(missing, set(places), n)
        return self._rows[[self._slots[at] for at in places], :n]

    def _fill(self, missing: Sequence[int], needed: set[int], n: int) -> None:
        vectors = self._catalogue.vectors[:n]
        made: NDArray[np.float32] = vectors[list(missing)] @ vectors.T if len(missing) > 1 else (vectors @ vectors[missing[0]])[None]
        for row, at in zip(made, missing, strict=True):
            if len(self._slots) < len(self._rows):
                slot = len(self._slots)
            else:
                oldest = next(key for key in self._slots if key not in needed)
                slot = self._slots.pop(oldest)
            self._slots[at] = slot
            self._rows[slot, :n] = row
            self._rows[slot, n:] = 0.0  # items to come have no vector yet; when one gets it, all rows are forgotten
