"""How sure a difference between two sets of lists is: a paired bootstrap by user. It computes no gains (see `engine.figures`).

Two lists of one case are compared with each other, which takes out how hard the case was; users are drawn, not cases, since cases of one
user say the same thing several times (Efron & Tibshirani 1993; Sakai 2006 for retrieval).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2_000
LEVEL = (2.5, 97.5)
"""Percentiles: the interval of 95 %."""
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Difference:
    """Means of two gains over the same cases, and 95 % intervals by user: `low` to `high` of other less one, `ratio_low` to `ratio_high` of
    other over one (NaN where one gained nothing).
    """

    cases: int
    users: int
    one: float
    other: float
    low: float
    high: float
    ratio: float = NAN
    ratio_low: float = NAN
    ratio_high: float = NAN

    @property
    def difference(self) -> float:
        """Other less one."""
        return self.other - self.one

    @property
    def sure(self) -> bool:
        """Whether the interval leaves zero out, on either side."""
        return self.low > 0 or self.high < 0


def paired(users: Sequence[str], one: NDArray[np.float64], other: NDArray[np.float64], *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Compare two gains, (C,) each, on the same cases; `users`: whose each case is. The same each time for one seed.

    >>> found = paired(["a", "b", "b"], np.array([0.2, 0.4, 0.0]), np.array([0.4, 0.6, 0.2]))
    >>> found.users, round(found.difference, 3), round(found.low, 3), round(found.high, 3), round(found.ratio, 3)
    (2, 0.2, 0.2, 0.2, 2.0)
    """
    if not len(users):
        return Difference(0, 0, 0.0, 0.0, 0.0, 0.0)
    _, own = np.unique(np.array(users), return_inverse=True)
    sums, before, counts = np.bincount(own, other - one), np.bincount(own, one), np.bincount(own)
    drawn = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), draws)
    more, base = drawn @ sums, drawn @ before
    low, high = np.percentile(more / (drawn @ counts), LEVEL)
    ratio = ratio_low = ratio_high = NAN
    if base.min() > 0:
        ratio_low, ratio_high = np.percentile(1 + more / base, LEVEL)
        ratio = other.sum() / one.sum()
    figures = (one.mean(), other.mean(), low, high, ratio, ratio_low, ratio_high)
    return Difference(len(users), len(counts), *(float(value) for value in figures))


def rounded(one: Difference, digits: int = 4) -> dict[str, float]:
    """A difference for a file; without a ratio where there is none."""
    figures = {**asdict(one), "difference": one.difference}
    return {name: round(value, digits) for name, value in figures.items() if not math.isnan(value)}
