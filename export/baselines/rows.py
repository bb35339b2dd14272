"""Events as matrices: rows of users or sessions by item, and how often items are used together. For item-kNN, EASE, ALS and BPR."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp

from export.baselines.log import Log

Unit = Literal["history", "session"]
UNITS: tuple[Unit, ...] = ("history", "session")
"""What one row is: all that a user used, or one session."""
LEAST = 0.02
"""Pairs of events that count less than this are left out."""
PART = 8
"""Lags that are summed at a time, for the sake of memory."""


def interactions(log: Log, unit: Unit, half_life_d: float | None = None) -> sp.csr_array:
    """(rows, size) float32: an item once a row, with the weight of its newest use; rows in no order that means anything.

    >>> log = Log(*(np.array(v) for v in ([0, 0, 1], [2, 2, 0], [0, 1, 2])), np.array([0.0, 1.0, 2.0]), 3)
    >>> interactions(log, "history").toarray().tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    codes = log.users if unit == "history" else log.sessions
    _, rows = np.unique(codes, return_inverse=True)
    newest = len(log) - 1 - np.unique((rows * log.size + log.items)[::-1], return_index=True)[1]
    weights = log.weights(half_life_d)[newest]
    return sp.csr_array((weights, (rows[newest], log.items[newest])), shape=(int(rows.max()) + 1 if len(log) else 0, log.size))


def cooccurrence(log: Log, unit: Unit, half_life_d: float | None = None, proximity: float = 1.0) -> sp.csr_array:
    """(size, size) float32, symmetric: how often two items stand in one row, and on the diagonal how often each does.

    With `proximity` below 1, two events count `proximity` to the number of steps between them, so that what was used one after the other
    counts more than what was used years apart (the exponential kernel, which keeps the matrix positive semidefinite but for what LEAST
    cuts off); else each pair of a row counts 1. A pair weighs the square root of its two events' weights.
    """
    if proximity >= 1:
        rows = interactions(log, unit, half_life_d)
        rows.data = np.sqrt(rows.data)
        return sp.csr_array(rows.T @ rows)
    codes = log.users if unit == "history" else log.sessions
    order = np.argsort(codes, kind="stable")
    items, of = log.items[order], codes[order]
    weights = np.sqrt(log.weights(half_life_d)[order])
    shape = (log.size, log.size)
    found = sp.csr_array((weights * weights, (items, items)), shape=shape)
    lags = range(1, int(np.log(LEAST) / np.log(proximity)) + 1)
    for start in range(0, len(lags), PART):
        one, other, value = [], [], []
        for lag in lags[start : start + PART]:
            pair = np.flatnonzero((of[lag:] == of[:-lag]) & (items[lag:] != items[:-lag]))
            one.append(items[pair])
            other.append(items[pair + lag])
            value.append(weights[pair] * weights[pair + lag] * np.float32(proximity**lag))
        upper = sp.csr_array((np.concatenate(value), (np.concatenate(one), np.concatenate(other))), shape=shape)
        found = found + upper + upper.T
    return sp.csr_array(found)
