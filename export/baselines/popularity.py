"""The most used items, lately: what everything personal has to beat. It knows no user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.space import Floats
from export.baselines.log import Asked, Log


@dataclass
class Popularity:
    """Uses of each item, halved every `half_life_d` days; None: all count the same."""

    half_life_d: float | None = None

    def fit(self, log: Log) -> None:
        """Count."""
        counts = np.bincount(log.items, log.weights(self.half_life_d), minlength=log.size)
        self.found = np.where(counts > 0, counts, -np.inf).astype(np.float32)

    def scores(self, asked: Asked) -> Floats:
        """The same for everybody."""
        return np.tile(self.found, (len(asked.items), 1))
