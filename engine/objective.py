"""What lists are to bring about: how much an example counts for the ranker, by its event's type and value. Not how much an event says of a
user's taste (`engine.user.Limits`), and nothing of which items may be listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MOST = 100.0
"""Largest weight of a type."""
MOST_VALUES = 10.0
"""A value counts as so many ordinary ones at most: one large order must not decide what everybody sees."""


@dataclass(frozen=True, slots=True)
class Objective:
    """`weights`: event type -> weight of an example of it, 1 where it is not named; 0: nothing is learned from it. `values`: event type ->
    the `value` (contract: events) that counts once; an example of it is weighted by its own value over that as well, where it has one.

    All 1 is the same as no weight at all. Weights matter against each other: the ranker's steps (Adagrad) adapt to their size.

    >>> goal = Objective({"purchase": 3.0, "view": 0.0}, {"purchase": 20.0})
    >>> goal.weight("click"), goal.weight("view"), goal.weight("purchase"), goal.weight("purchase", 30.0), goal.weight("purchase", -5.0)
    (1.0, 0.0, 3.0, 4.5, 0.0)
    >>> goal.weight("purchase", 1e9)
    30.0
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)

    def weight(self, kind: str, value: float | None = None) -> float:
        """How much an example counts whose event is of this type and has this `value`."""
        weight, once = self.weights.get(kind, 1.0), self.values.get(kind)
        if once is None or value is None:
            return weight
        return weight * min(MOST_VALUES, max(0.0, value / once))
