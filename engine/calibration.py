"""From an item's share of a softmax to the probability that the user takes it next. It changes no order and no score.

Scores are learned as a softmax over the item taken and a sample of the others (`engine.ranker`), so an item's share of the softmax over
all that may be listed is nearly the probability that it is taken. Not quite: a sample hides how often the very first of a list are not
taken, and a list shows just those whose scores came out too high. What is left is corrected by Platt scaling (Platt 1999) of the log-odds,
learned online from lists that would have been shown, each before its event is learned (test-then-train).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.space import Floats

Logs = Sequence[float] | NDArray[np.float64]
"""Logarithms of shares, (n,)."""
LISTED = 10
"""First items of a list that are learned from."""
EVERY = 16
"""One example in so many says what would have been listed: that costs as much as the rest of it."""
MIDDLE = float(np.log(0.03 / 0.97))
"""Log-odds about which the slope turns, those of a listed item as they mostly are: else slope and offset would work against each other."""
SMALLEST = 1e-9
"""Probabilities are held between this and 1 less this."""
STEEP = (0.1, 10.0)
"""Bounds of the slope: above 0, so that a larger share is never a smaller probability."""
RATE = 0.1


def log_odds(logs: Logs) -> NDArray[np.float64]:
    """Log-odds (n,) of probabilities given by their logarithms (n,).

    >>> log_odds([np.log(0.5), -np.inf]).round(1).tolist()
    [0.0, -20.7]
    """
    share = np.clip(np.exp(np.minimum(np.asarray(logs, np.float64), 0.0)), SMALLEST, 1.0 - SMALLEST)
    return np.asarray(np.log(share) - np.log1p(-share), np.float64)


@dataclass
class Calibration:
    """Probability = sigmoid(slope x (log-odds of the share - MIDDLE) + MIDDLE + offset); as it begins it changes nothing.

    `squares` (2,) float64: sums of squared gradients of slope and offset, for Adagrad (Duchi et al., 2011); `learned`: lists.
    """

    slope: float = 1.0
    offset: float = 0.0
    squares: NDArray[np.float64] = field(default_factory=lambda: np.ones(2))
    learned: int = 0

    def probabilities(self, logs: Logs) -> NDArray[np.float64]:
        """Probability (n,) that each item is taken next, of the logarithms (n,) of the shares.

        >>> Calibration().probabilities([np.log(0.25), np.log(0.5)]).round(6).tolist()
        [0.25, 0.5]
        """
        return np.asarray(1.0 / (1.0 + np.exp(-(self.slope * (log_odds(logs) - MIDDLE) + MIDDLE + self.offset))), np.float64)

    def learn(self, logs: Sequence[float], taken: Sequence[int]) -> None:
        """One step on one list: logarithms of the shares of its first items, and the places, from 0, of those that were taken.

        What is no list of finite numbers, or names a place that it does not have, is passed over.
        """
        at = [place for place in taken if 0 <= place < len(logs)]
        if not logs or len(at) != len(taken) or not np.isfinite(logs).all():
            return
        hit = np.zeros(len(logs))
        hit[at] = 1.0
        missed = hit - self.probabilities(logs)
        gradient = np.array([missed @ (log_odds(logs) - MIDDLE), missed.sum()])
        self.squares += gradient * gradient
        step = RATE * gradient / np.sqrt(self.squares)
        self.slope = float(np.clip(self.slope + step[0], *STEEP))
        self.offset += float(step[1])
        self.learned += 1

    def finite(self) -> bool:
        """Whether all numbers are, the slope within its bounds, and the sums of squares above 0."""
        numbers = (self.slope, self.offset, *self.squares)
        return bool(np.isfinite(numbers).all() and STEEP[0] <= self.slope <= STEEP[1] and (self.squares > 0).all())

    def packed(self) -> tuple[float, float, float, float, int]:
        """As it is stored."""
        return self.slope, self.offset, float(self.squares[0]), float(self.squares[1]), self.learned

    @classmethod
    def unpacked(cls, packed: tuple[float, float, float, float, int]) -> Calibration:
        """As it was stored."""
        slope, offset, *squares, learned = packed
        return cls(slope, offset, np.array(squares), int(learned))


def log_shares(scores: Floats, rest: Floats, heard: Floats, added: Floats) -> NDArray[np.float64]:
    """Logarithms (n,) of the shares of some items of a softmax over them and all others.

    Args:
        scores: of the items, (n,).
        rest: linear scores of the others, (m,).
        heard: linear scores of a few of these, (h,), and ...
        added: ... what networks add to them, (h,): so much, in the mean, is added to all others.

    >>> log_shares(np.zeros(1), np.zeros(3), np.zeros(1), np.zeros(1)).round(3).tolist() == [round(float(np.log(0.25)), 3)]
    True
    """
    scores = np.asarray(scores, np.float64)
    parts: list[Any] = [np.logaddexp.reduce(scores)] if len(scores) else []
    if len(rest) and len(heard):
        few = np.asarray(heard, np.float64)
        parts.append(np.logaddexp.reduce(np.asarray(rest, np.float64)) + np.logaddexp.reduce(few + added) - np.logaddexp.reduce(few))
    return np.asarray(scores - np.logaddexp.reduce(parts) if parts else scores, np.float64)
