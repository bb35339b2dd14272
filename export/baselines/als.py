"""Matrix factorisation by alternating least squares on implicit feedback (Hu, Koren & Volinsky 2008), as the package `implicit` fits it.

A list is made for the history as it is now: the user's factors are solved anew from it, with the items' factors of the last fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from engine.space import Floats
from export.baselines.log import Asked, Log, Weighting
from export.baselines.rows import Unit, interactions


@dataclass
class ALS:
    """`alpha`: confidence in a use over a non-use; `seed` draws the first factors."""

    unit: Unit = "history"
    factors: int = 64
    regularization: float = 0.1
    alpha: float = 10.0
    iterations: int = 15
    half_life_d: float | None = None
    weighting: Weighting = field(default_factory=Weighting)
    seed: int = 0
    threads: int = 1

    def fit(self, log: Log) -> None:
        """Factorise rows of users or sessions."""
        self.unknown = log.counts() == 0
        rows = sp.csr_matrix(interactions(log, self.unit, self.half_life_d))
        with threadpool_limits(1, user_api="blas"):  # implicit warns of anything else: its own threads call BLAS
            self.model = AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.iterations,
                num_threads=self.threads,
                random_state=self.seed,
            )
            self.model.fit(rows, show_progress=False)

    def scores(self, asked: Asked) -> Floats:
        """Factors of the history times factors of the items."""
        weights = sp.csr_matrix(asked.weights(self.weighting, len(self.unknown)))
        with threadpool_limits(1, user_api="blas"):
            users = self.model.recalculate_user(np.arange(len(asked.items)), weights)
        found: Floats = np.asarray(users @ self.model.item_factors.T, np.float32)
        found[:, self.unknown] = -np.inf
        return found
