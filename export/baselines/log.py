"""What a baseline is given: the events learned so far, and the histories of the users that lists are asked for. It fits nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from engine.space import Floats

Ints = NDArray[np.int64]
DEPTH = 200
"""Newest events of a user that a list is made from, at most."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Log:
    """Events in the order in which they were learned. `users`, `items`, `sessions` (E,) int64: codes, items by place in the catalogue;
    `times` (E,) float64: s; `size`: items in the catalogue.
    """

    users: Ints
    items: Ints
    sessions: Ints
    times: NDArray[np.float64]
    size: int

    def __len__(self) -> int:
        return len(self.items)

    def counts(self) -> Ints:
        """(size,) how often each item was used."""
        return np.bincount(self.items, minlength=self.size)

    def weights(self, half_life_d: float | None) -> Floats:
        """(E,) each event's weight: halved every `half_life_d` days before the newest event; 1 with None."""
        if half_life_d is None:
            return np.ones(len(self), np.float32)
        found: Floats = np.exp2((self.times - self.times.max()) / (half_life_d * DAY_S)).astype(np.float32)
        return found


class Past(NamedTuple):
    """One event of a user's history."""

    item: int
    session: int
    time: float


@dataclass(frozen=True, slots=True)
class Asked:
    """Histories of B users, newest event first, at most DEPTH = L events each. `items` (B, L) int64, -1 beyond the end; `times` (B, L)
    float64, s; `sessions` (B, L) int64; `now` (B,) float64, s: when the list is asked for.
    """

    items: Ints
    times: NDArray[np.float64]
    sessions: Ints
    now: NDArray[np.float64]

    @classmethod
    def of(cls, histories: Sequence[Sequence[Past]], now: Sequence[float]) -> Asked:
        """From histories with the newest event last.

        >>> Asked.of([[Past(4, 0, 10.0), Past(7, 1, 99.0)]], [100.0]).items[:, :3].tolist()
        [[7, 4, -1]]
        """
        shape = (len(histories), DEPTH)
        items, times, sessions = np.full(shape, -1, np.int64), np.zeros(shape), np.full(shape, -1, np.int64)
        for row, history in enumerate(histories):
            newest = history[: -DEPTH - 1 : -1]
            n = len(newest)
            items[row, :n] = [past.item for past in newest]
            times[row, :n] = [past.time for past in newest]
            sessions[row, :n] = [past.session for past in newest]
        return cls(items, times, sessions, np.array(now, np.float64))

    def weights(self, weighting: Weighting, size: int) -> sp.csr_array:
        """(B, size) float32: how much each item of a history counts; of an item that was used several times, its newest use."""
        depth = min(weighting.depth, self.items.shape[1])
        items = self.items[:, :depth]
        latest = self.sessions[:, :depth] == self.sessions[:, :1]
        value = weighting.recency ** np.arange(depth, dtype=np.float32) * np.where(latest, 1.0, weighting.older)
        rows, places = np.nonzero(items >= 0)
        found = items[rows, places]
        _, first = np.unique(rows * size + found, return_index=True)  # row by row, newest first: the first is the newest
        return sp.csr_array((value[rows, places][first].astype(np.float32), (rows[first], found[first])), shape=(len(items), size))


@dataclass(frozen=True, slots=True)
class Weighting:
    """How much a history's events count for a list: the newest `depth`, each step back times `recency`, and those of sessions before the
    user's latest times `older`.
    """

    depth: int = 20
    recency: float = 0.9
    older: float = 1.0


class Baseline(Protocol):
    """A recommender that is fitted in batch. Each fit sees a longer log; it may go on from the last one, or start anew."""

    def fit(self, log: Log) -> None:
        """Learn from all events so far."""

    def scores(self, asked: Asked) -> Floats:
        """(B, size) float32: higher is better; -inf for an item of which the fitted log has nothing."""
