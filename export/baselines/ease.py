"""EASE: a linear item-item model in closed form (Steck 2019), with its denoising form EDLAE (Steck 2020). Not approximated."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from engine.space import Floats
from export.baselines.log import Asked, Log, Weighting
from export.baselines.rows import Unit, cooccurrence

MORE = 10.0
"""What the regularisation is multiplied by when a matrix isn't positive definite (see `rows.LEAST`)."""


def solve(gram: NDArray[np.float32], l2: float, dropout: float = 0.0) -> NDArray[np.float32]:
    """(I, I) weights with a zero diagonal that minimise |X - XB|² + |Λ^½ B|², given `gram` = XᵀX.

    Λ = l2 + dropout / (1 - dropout) diag(XᵀX). `gram` is overwritten. The inverse P of XᵀX + Λ gives B = I - P / diag(P).
    """
    diagonal = np.diag(gram).copy()
    ridge = np.float32(l2) + np.float32(dropout / (1 - dropout)) * diagonal
    np.fill_diagonal(gram, diagonal + ridge)
    # gram.T is column-major, as LAPACK wants it, and the same matrix.
    factor, failed = lapack.spotrf(gram.T, lower=0, clean=0, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError(f"not positive definite with l2 = {l2}")
    inverse, _ = lapack.spotri(factor, lower=0, overwrite_c=1)
    found: NDArray[np.float32] = inverse  # its upper triangle
    scale = -1 / np.diag(found)
    found = np.triu(found)
    found += np.triu(found, 1).T
    found *= scale  # column j by P_jj
    np.fill_diagonal(found, 0)
    return np.ascontiguousarray(found)


@dataclass
class EASE:
    """`l2`: regularisation, in uses; `dropout`: share of a row's items that are hidden while it is learned."""

    unit: Unit = "history"
    l2: float = 100.0
    dropout: float = 0.0
    proximity: float = 1.0
    half_life_d: float | None = None
    weighting: Weighting = field(default_factory=Weighting)
    threads: int = 1

    def fit(self, log: Log) -> None:
        """Solve it for the items that have been used."""
        self.size = log.size
        self.known = np.flatnonzero(log.counts())
        together = cooccurrence(log, self.unit, self.half_life_d, self.proximity)[self.known][:, self.known]
        l2 = self.l2
        with threadpool_limits(self.threads, user_api="blas"):
            while True:
                try:
                    self.weights = solve(np.asarray(together.toarray(), np.float32), l2, self.dropout)
                except np.linalg.LinAlgError:
                    l2 *= MORE
                else:
                    return

    def scores(self, asked: Asked) -> Floats:
        """History times weights."""
        found = np.full((len(asked.items), self.size), -np.inf, np.float32)
        found[:, self.known] = asked.weights(self.weighting, self.size)[:, self.known] @ self.weights
        return found
