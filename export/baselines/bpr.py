"""Matrix factorisation for Bayesian personalised ranking (Rendle et al. 2009), as the package `implicit` fits it.

implicit's BPR has no factors for a history that came after the fit. They are worked out here: the weighted mean of the history's item
factors, then, with `steps`, ascent of BPR's own objective with the items' factors held fixed (Adagrad, Duchi et al. 2011).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from implicit.cpu.bpr import BayesianPersonalizedRanking
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from engine.space import Floats
from export.baselines.log import Asked, Log, Weighting
from export.baselines.rows import Unit, interactions

NEGATIVES = 200
"""Items drawn for one batch of histories that these are told apart from."""


@dataclass
class BPR:
    """`recent_d`: only uses of so many days before the newest are learned, None: all; `scale`: of the mean of the history's factors;
    `steps`, `rate`: of the ascent, 0 for the mean alone. One thread: with more, `implicit` writes factors in no fixed order.
    """

    unit: Unit = "history"
    factors: int = 64
    learning_rate: float = 0.05
    regularization: float = 0.01
    iterations: int = 100
    recent_d: float | None = None
    scale: float = 2.0
    steps: int = 0
    rate: float = 0.1
    weighting: Weighting = field(default_factory=Weighting)
    seed: int = 0

    def fit(self, log: Log) -> None:
        """Learn to rank what was used above what was not, by user or session."""
        rows = sp.csr_matrix(interactions(log, self.unit, None))
        if self.recent_d is not None:
            weights = interactions(log, self.unit, self.recent_d)
            rows = sp.csr_matrix(weights >= 0.5, dtype=np.float32)  # noqa: PLR2004 - a weight is halved after `recent_d`
            rows.data[:] = 1.0
        self.known = np.asarray(rows.sum(0)).ravel() > 0
        with threadpool_limits(1, user_api="blas"):
            model = BayesianPersonalizedRanking(
                factors=self.factors,
                learning_rate=self.learning_rate,
                regularization=self.regularization,
                iterations=self.iterations,
                verify_negative_samples=True,
                num_threads=1,
                random_state=self.seed,
            )
            model.fit(rows, show_progress=False)
        self.items = np.ascontiguousarray(model.item_factors[:, :-1])  # (I, F); the last column is the item's bias
        self.bias = model.item_factors[:, -1].copy()

    def scores(self, asked: Asked) -> Floats:
        """Factors of the history times factors of the items, and their biases."""
        weights = asked.weights(self.weighting, len(self.known))
        weights = sp.csr_array(weights * self.known)
        total = np.maximum(weights.sum(1), 1e-9)[:, None]
        users = np.asarray(weights @ self.items / total * self.scale, np.float32)
        if self.steps:
            users = self._ascend(users, weights, total)
        found: Floats = users @ self.items.T + self.bias
        found[:, ~self.known] = -np.inf
        return found

    def _ascend(self, users: NDArray[np.float32], weights: sp.csr_array, total: NDArray[np.float32]) -> NDArray[np.float32]:
        """Users' factors (B, F) that rank their histories above items drawn at random; the mean is where it starts."""
        rng = np.random.default_rng(self.seed)
        known = np.flatnonzero(self.known)
        coo = weights.tocoo()
        share = (coo.data / total[coo.row, 0]).astype(np.float32)
        squares = np.full_like(users, 1e-8)
        for _ in range(self.steps):
            drawn = known[rng.integers(0, len(known), NEGATIVES)]
            below = users @ self.items[drawn].T + self.bias[drawn]  # (B, N)
            own = (users[coo.row] * self.items[coo.col]).sum(1) + self.bias[coo.col]
            wrong = share[:, None] / (1 + np.exp(np.clip(own[:, None] - below[coo.row], -30, 30)))  # (pairs, N)
            gradient = np.zeros_like(users)
            np.add.at(gradient, coo.row, wrong.mean(1)[:, None] * self.items[coo.col])
            by_user = np.zeros((len(users), NEGATIVES), np.float32)
            np.add.at(by_user, coo.row, wrong)
            gradient -= by_user @ self.items[drawn] / NEGATIVES
            gradient -= self.regularization * users
            squares += gradient * gradient
            users = np.asarray(users + self.rate * gradient / np.sqrt(squares), np.float32)
        return users
