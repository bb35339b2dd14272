"""Item-based nearest neighbours: a list is what is similar to the items of the history (Sarwar et al. 2001; Deshpande & Karypis 2004).

Similarities: co-occurrence divided by powers of both items' counts, with shrinkage (cosine at `target_power` .5), or implicit's BM25 and
TF-IDF weights. Well tuned it is hard to beat (Ferrari Dacrema et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import scipy.sparse as sp
from implicit.nearest_neighbours import all_pairs_knn, bm25_weight, normalize, tfidf_weight
from implicit.utils import check_csr

from engine.space import Floats
from export.baselines.log import Asked, Log, Weighting
from export.baselines.rows import Unit, cooccurrence, interactions

Similarity = Literal["cosine", "bm25", "tfidf"]
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "bm25", "tfidf")


@dataclass
class ItemKNN:
    """`neighbours`: kept per item. For cosine: `target_power`, `shrink`, `proximity` (see `rows.cooccurrence`); for BM25: `k1`, `b`."""

    unit: Unit = "history"
    similarity: Similarity = "cosine"
    neighbours: int = 200
    target_power: float = 0.5
    shrink: float = 5.0
    proximity: float = 1.0
    k1: float = 100.0
    b: float = 0.5
    half_life_d: float | None = None
    weighting: Weighting = field(default_factory=Weighting)
    threads: int = 1

    def fit(self, log: Log) -> None:
        """Work all similarities out."""
        self.unknown = log.counts() == 0
        self.similar = self._cosine(log) if self.similarity == "cosine" else self._implicit(log)

    def scores(self, asked: Asked) -> Floats:
        """Sums of similarities, weighted by the history; 0 where nothing is similar."""
        weights = asked.weights(self.weighting, len(self.unknown))
        found: Floats = np.asarray((weights @ self.similar).toarray(), np.float32)
        found[:, self.unknown] = -np.inf
        return found

    def _cosine(self, log: Log) -> sp.csr_array:
        together = cooccurrence(log, self.unit, self.half_life_d, self.proximity)
        counts = np.maximum(together.diagonal(), np.float32(1e-6))
        pairs = together.tocoo()
        apart = pairs.row != pairs.col
        row, col, value = pairs.row[apart], pairs.col[apart], pairs.data[apart]
        value = value / (counts[row] ** (1 - self.target_power) * counts[col] ** self.target_power + self.shrink)
        return nearest(sp.csr_array((value.astype(np.float32), (row, col)), shape=together.shape), self.neighbours)

    def _implicit(self, log: Log) -> sp.csr_array:
        by_item = sp.csr_matrix(interactions(log, self.unit, self.half_life_d).T)
        weighted = bm25_weight(by_item, self.k1, self.b) if self.similarity == "bm25" else normalize(tfidf_weight(by_item))
        rows = check_csr(weighted.T.tocsr())
        found = sp.csr_array(all_pairs_knn(rows, self.neighbours + 1, num_threads=self.threads, show_progress=False))
        found.setdiag(0)
        found.eliminate_zeros()
        return found


def nearest(similar: sp.csr_array, count: int) -> sp.csr_array:
    """The `count` largest values of each row.

    >>> nearest(sp.csr_array(np.array([[0.0, 1.0, 3.0, 2.0], [5.0, 0.0, 0.0, 0.0]])), 2).toarray().tolist()
    [[0.0, 0.0, 3.0, 2.0], [5.0, 0.0, 0.0, 0.0]]
    """
    lengths = np.diff(similar.indptr)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-similar.data, rows))
    place = np.arange(len(rows)) - similar.indptr[rows]  # within the row, largest first
    kept = order[place < count]
    return sp.csr_array((similar.data[kept], (rows[kept], similar.indices[kept])), shape=similar.shape)
