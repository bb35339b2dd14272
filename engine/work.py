"""The steps in which lists under way are worked out: strongest items, networks, choice, rules and variety, reasons.

`engine.model` gathers what they are made from; the loops are those of `engine.kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine import kernels
from engine.features import CONTEXT
from engine.network import Net, forward
from engine.policy import Placed
from engine.reasons import DIGITS
from engine.space import Floats
from engine.steering import Steering

CANDIDATES = 300
"""The strongest items by the linear score, among which the networks choose."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the compiled loops work from: the world, the users, what is asked for, the linear weights (SITUATIONS, F) and what they add to
    every item (SITUATIONS, N), the networks, None while they are not trusted, what lists hold at most, and what steers them.
    """

    world: kernels.World
    tastes: kernels.Tastes
    asks: kernels.Asks
    weights: Floats
    base: Floats
    net: Net | None
    most: int
    steering: Steering

    def fill(self, lists: kernels.Lists) -> dict[int, list[Placed]]:
        """The strongest items, their order, and the reasons; gives the lists that were steered, which say so themselves."""
        candidates = CANDIDATES
        found, steered = self._arranged(candidates, lists)
        while any(found[b] >= candidates and len(placed) < self.asks.k[b] for b, placed in steered.items()):
            candidates *= 4  # a cap, say, left out so many that others have to be fetched from further down
            found, steered = self._arranged(candidates, lists)
        count, features = len(self.tastes.now), self.weights.shape[1]
        rows = kernels.rows_again(self.tastes, self.asks, lists)
        if not rows:
            return steered
        deepest = int(lists.count.max())
        again = kernels.Again(
            np.zeros(rows, np.int64),
            np.zeros(rows, np.int64),
            np.zeros(rows, np.int64),
            np.zeros((rows, deepest), np.float32),
            np.zeros((rows, features, deepest), np.float32),
            np.zeros((rows, CONTEXT), np.float32),
            np.zeros(rows, np.int64),
            np.zeros((count, deepest, kernels.NAMED), np.int64),
            np.zeros((count, deepest, kernels.NAMED), np.int64),
        )
        middle = np.zeros(features, np.float32) if self.net is None else self.net.middle[:features]
        rows = kernels.look_again(self.world, self.tastes, self.asks, lists, self.weights, self.base, middle, again)
        more = self._added(again.count[:rows], again.x, again.context, again.situation)
        kernels.tell(self.world, self.tastes, self.asks, lists, self.weights, again, rows, more, 10.0**DIGITS)
        return steered

    def _arranged(self, candidates: int, lists: kernels.Lists) -> tuple[NDArray[np.int64], dict[int, list[Placed]]]:
        """The lists of the strongest so many items each, without reasons; how many items each was made of, and those that were steered."""
        picked = self.picked(candidates)
        self.pick(picked, candidates)
        more = self.added(picked)
        kernels.choose(self.world.hashes, self.asks, picked, more, lists)
        return picked.count, self.steering.arrange(self.asks, picked, more, lists)

    def picked(self, candidates: int = CANDIDATES) -> kernels.Picked:
        """Room for the strongest items."""
        count, features = len(self.tastes.now), self.weights.shape[1]
        pins = int((self.asks.pin_range[:, 1] - self.asks.pin_range[:, 0]).max(initial=0))
        depth = max(candidates, self.most) + pins
        return kernels.Picked(
            np.empty(count, np.int64),
            np.empty((count, depth), np.int64),
            np.empty((count, depth), np.float32),
            np.empty((count, features, depth), np.float32),
        )

    def pick(self, picked: kernels.Picked, candidates: int = CANDIDATES) -> None:
        """Find the strongest items."""
        kernels.pick(self.world, self.tastes, self.asks, self.weights, self.base, candidates, picked)

    def added(self, picked: kernels.Picked) -> Floats:
        """What the networks add to them, (B, C)."""
        return self._added(picked.count, picked.x, self.tastes.context, self.tastes.situation)

    def _added(self, counts: NDArray[np.int64], x: Floats, context: Floats, situation: NDArray[np.intp]) -> Floats:
        """What the networks add, (R, C)."""
        more = np.zeros((len(counts), x.shape[2]), np.float32)
        if self.net is not None:
            forward(self.net, counts, x, context, situation, more)
        return more
