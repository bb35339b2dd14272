"""What else can be said of a list than where its target stands: accuracy over sets, order, variety, surprise, honesty. One list each.

HR, NDCG and MRR with their errors are in `engine.figures`; which lists, and the means over cases, in `engine.assess`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.figures import DEPTH

BINS = 15
"""Bins of a calibration error, of equally many predictions each."""
PAIR = 2
"""Fewest items that can differ."""
NAN = float("nan")
Array = NDArray[np.float64]


def precision_recall_f1(items: Sequence[str], relevant: Collection[str]) -> tuple[float, float, float]:
    """Precision@10 (a shorter list counts as ten), recall@10, and their harmonic mean; NaN where nothing is relevant.

    >>> precision_recall_f1(["a", "b", "c"], {"b", "x"})
    (0.1, 0.5, 0.16666666666666669)
    """
    if not relevant:
        return NAN, NAN, NAN
    hits = len(set(items[:DEPTH]) & set(relevant))
    precision, recall = hits / DEPTH, hits / len(relevant)
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


def auc(rank: float | None, candidates: int) -> float:
    """The chance that the target stands above another candidate drawn at random, given its rank from 0 among `candidates`.

    None: it was no candidate, 0. NaN with no other candidate.

    >>> auc(0, 101), auc(25, 101), auc(None, 101)
    (1.0, 0.75, 0.0)
    """
    if rank is None:
        return 0.0
    return 1 - rank / (candidates - 1) if candidates > 1 else NAN


def expected_rank(listed: int, candidates: int) -> float:
    """The rank of a candidate that is not among the first `listed`, if it stands anywhere below with equal chance.

    >>> expected_rank(100, 301)
    200.0
    """
    return (listed + candidates - 1) / 2


def intra_list_diversity(vectors: Array | NDArray[np.float32]) -> float:
    """Mean of 1 - cosine over the pairs of a list (Ziegler et al. 2005; Smyth & McClave 2001), in 0..2.

    `vectors` (K, D) unit rows; rows of zeros, items without a vector, are left out. NaN with fewer than two others.

    >>> intra_list_diversity(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [-1.0, 0.0]]))
    1.3333333333333333
    """
    rows = np.asarray(vectors, np.float64)
    rows = rows[rows.any(1)]
    n = len(rows)
    if n < PAIR:
        return NAN
    total = rows.sum(0)
    squares = float((rows * rows).sum())
    return 1 - (float(total @ total) - squares) / (n * (n - 1))


def novelty(uses: Sequence[int], events: int, catalogue_size: int) -> float:
    """Mean of -log2 of the items' shares of all uses so far (self-information, Zhou et al. 2010), in bits; NaN for an empty list.

    One use is added to each item of the catalogue, so that an item nobody has used has a share.

    >>> novelty([3, 0], events=12, catalogue_size=4)
    3.0
    """
    if not len(uses):
        return NAN
    return float(np.mean([math.log2((events + catalogue_size) / (n + 1)) for n in uses]))


def expected_calibration_error(probabilities: Array, taken: NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean over the predictions of |mean probability - share taken| of their bin (Naeini et al. 2015); NaN without predictions.

    Bins have equally many predictions (Nixon et al. 2019): probabilities of single items are small, and bins of equal width would put all
    into the first.

    >>> expected_calibration_error(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, False, True, False]), bins=2)
    0.25
    """
    if not len(probabilities):
        return NAN
    order = np.argsort(probabilities, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(abs(float(probabilities[part].sum()) - int(taken[part].sum())) for part in parts) / len(order))
