"""Predicted ratings, for data sets that have them: a baseline that learns online, and its errors, test-then-train. Lists don't use it.

What predicts: the mean of all ratings so far, plus the item's offset, plus the user's, each damped (the baseline of Koren, Bell & Volinsky
2009, learned in one pass). It is no model of taste: it says how large errors are that need no knowledge of the two together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.dataset import Row
from engine.figures import DIGITS, Figures
from engine.protocol import WARM, in_order

PREDICTOR = "mean of all + offset of the item + offset of the user, damped, learned online"


@dataclass
class OnlineBaseline:
    """`item_damping`, `user_damping`: ratings that stand against each offset. Chosen on the first 30 % of ml-latest-small-2016: 3 and 5."""

    item_damping: float = 3.0
    user_damping: float = 5.0
    count: int = 0
    mean: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    items: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    users: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))

    def predict(self, user: str, item: int) -> float:
        """The rating expected, within the range of those met so far.

        >>> some = OnlineBaseline(item_damping=1, user_damping=1)
        >>> some.learn("u", 0, 4.0)
        >>> some.learn("v", 1, 2.0)
        >>> some.predict("w", 1), some.predict("w", 2)
        (2.5, 3.0)
        """
        expected = self.mean + self._item(item) + self._user(user)
        return min(max(expected, self.low), self.high) if self.count else expected

    def learn(self, user: str, item: int, rating: float) -> None:
        """Take one rating in: the mean, then the item's offset from it, then the user's from both."""
        self.count += 1
        self.mean += (rating - self.mean) / self.count
        self.low, self.high = min(self.low, rating), max(self.high, rating)
        of_item, of_user = self.items[item], self.users[user]
        of_item[0] += 1
        of_item[1] += rating
        of_user[0] += 1
        of_user[1] += rating - self._item(item)

    def _item(self, item: int) -> float:
        count, total = self.items.get(item, (0.0, 0.0))
        return (total - count * self.mean) / (count + self.item_damping)

    def _user(self, user: str) -> float:
        count, total = self.users.get(user, (0.0, 0.0))
        return (total - count * self.mean) / (count + self.user_damping)


def rating_errors(rows: Iterable[Row]) -> Figures | None:
    """MAE and MSE of rows with a rating, all of them, also low ones, in the protocol's order; counted after the first 30 %, and beside the
    mean alone. None where there are no ratings.
    """
    rated = [row for row in in_order(rows) if row.item >= 0 and row.rating is not None and math.isfinite(row.rating)]
    if not rated:
        return None
    model, start = OnlineBaseline(), int(len(rated) * WARM)
    absolute = squared = plain_absolute = plain_squared = 0.0
    for n, row in enumerate(rated):
        rating = float(row.rating or 0.0)
        if n >= start:
            error, plain = rating - model.predict(row.user, row.item), rating - model.mean
            absolute += abs(error)
            squared += error * error
            plain_absolute += abs(plain)
            plain_squared += plain * plain
        model.learn(row.user, row.item, rating)
    count = len(rated) - start
    return {
        "predictor": PREDICTOR,
        "ratings": count,
        "MAE": round(absolute / count, DIGITS),
        "MSE": round(squared / count, DIGITS),
        "mean alone": {"MAE": round(plain_absolute / count, DIGITS), "MSE": round(plain_squared / count, DIGITS)},
    }
