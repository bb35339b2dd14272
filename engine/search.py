"""What a search adds to the scores of a list: its words (`engine.lexical`) and its meaning (the encoder's vector) in one row. No taste.

The ranker's scores are logarithms of odds, up to a constant, and so are sums of BM25 (Robertson & Zaragoza 2009): they are added, as
evidence is. The vector speaks where words do not: a cosine counts for the cube of that share of the query that not even the item that fits
best covers. The constants are chosen on the first 30 % of ifdb-played (docs/decisions/0012, `make search ARGS=--tune`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.catalogue import Catalogue
from engine.lexical import Fit, LexicalIndex
from engine.records import Item
from engine.space import Floats


@dataclass(frozen=True, slots=True)
class Mix:
    """How much each part counts, on the scale of the ranker's scores.

    `words`: of a word that hardly any item has, where it is found; common ones count less. The smaller, the further taste moves a search.
    `meaning`: of a cosine, where no word fits; `doubt`: the power of the uncovered share. `alone`: what all are multiplied with for users
    without a history: popularity then only orders what fits equally.
    """

    words: float = 24.0
    meaning: float = 12.0
    doubt: float = 3.0
    alone: float = 50.0


class Search:
    """Rows for one catalogue, whose entries it follows from the first search (or `catch_up`) on: who never searches pays nothing."""

    def __init__(self, catalogue: Catalogue, mix: Mix | None = None) -> None:
        self.mix = mix or Mix()
        self.index = LexicalIndex()
        self._catalogue = catalogue
        self._stale: dict[int, Item | None] | None = None  # place -> the entry as it was indexed; None: nothing is indexed yet
        catalogue.watch(self._changed)

    def row(self, text: str, vector: Floats | None, *, known: bool) -> Floats:
        """(N,) float32, to be added to the scores of all items.

        Args:
            text: the query.
            vector: its centred unit vector (D,), None where it could not be encoded.
            known: whether the user has a history.
        """
        return self.told(self.fit(text), vector, known=known)

    def fit(self, text: str) -> Fit:
        """How well all items fit a query by their words."""
        self.catch_up()
        return self.index.fit(text, len(self._catalogue))

    def told(self, fit: Fit, vector: Floats | None, *, known: bool, items: NDArray[np.int64] | None = None) -> Floats:
        """`row` from what `fit` found: (N,), or of some `items` (n,) alone."""
        mix, at = self.mix, slice(len(self._catalogue)) if items is None else items
        row = mix.words / fit.rarest * fit.scores[at]
        if vector is not None:
            row += mix.meaning * (1.0 - fit.coverage) ** mix.doubt * (self._catalogue.space.vectors[at] @ vector)
        return np.asarray(row if known else mix.alone * row, np.float32)

    def catch_up(self) -> None:
        """Index what has changed since: some 0.1 ms for an entry."""
        items = self._catalogue.items
        if self._stale is None:
            self._stale = dict.fromkeys(range(len(items)))
        for place, before in self._stale.items():
            self.index.change(place, before, items[place])
        self._stale.clear()

    def _changed(self, place: int, before: Item | None) -> None:
        if self._stale is not None:
            self._stale.setdefault(place, before)
