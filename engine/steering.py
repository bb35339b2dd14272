"""What rules and the wish for variety do to lists under way, as the compiled loops and the model need it (meaning: `engine.policy`).

Boosts and buries are added to the scores before the strongest items are picked, and the best item of each pin is picked whatever its score;
then the list is arranged. Lists for which nothing is asked pass by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine import kernels
from engine.diversity import Kinds
from engine.policy import Orders, Placed, Variety, arrange, kinds_for
from engine.reasons import DIGITS, Reason
from engine.space import Floats

STEERS = frozenset({"pin", "boost", "bury", "cap"})
"""Actions of rules that change a list without keeping an item out of it."""


@dataclass(frozen=True, slots=True)
class Steering:
    """For each list its orders and how different its items are to be; `kinds`: what items have in common, by the same index."""

    orders: Sequence[Orders]
    variety: Sequence[Variety]
    kinds: Kinds | None

    def arrays(self, n: int) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64], NDArray[np.bool_]]:
        """For `kernels.Asks`: (B,) each list's row of shifts or -1; (R, n) what is added to scores; (B, 2) where its pins begin and end;
        (P, n) what each pin matches. Lists with the same orders share them.
        """
        rows: dict[int, Floats] = {}
        shift, pins, ranges = [], list[NDArray[np.bool_]](), dict[int, tuple[int, int]]()
        at: dict[int, int] = {}
        for orders in self.orders:
            if orders.shifts and id(orders) not in at:
                at[id(orders)] = len(rows)
                row = rows[id(orders)] = np.zeros(n, np.float32)
                for one in orders.shifts:
                    row[one.mask] += np.float32(one.weight)
            shift.append(at[id(orders)] if orders.shifts else -1)
            if id(orders) not in ranges:
                ranges[id(orders)] = (len(pins), len(pins) + len(orders.pins))
                pins += [pin.mask for pin in orders.pins]
        spans = np.array([ranges[id(orders)] for orders in self.orders], np.int64).reshape(-1, 2)
        shifts = np.array(list(rows.values()), np.float32).reshape(len(rows), n)
        return np.array(shift, np.int64), shifts, spans, np.array(pins, np.bool_).reshape(len(pins), n)

    def arrange(self, asks: kernels.Asks, picked: kernels.Picked, more: Floats, lists: kernels.Lists) -> dict[int, list[Placed]]:
        """Arrange the lists for which something is asked anew: list -> its places. Their scores in `lists` are those without what is told
        here of pins and variety.
        """
        told: dict[int, list[Placed]] = {}
        for b, (orders, variety) in enumerate(zip(self.orders, self.variety, strict=True)):
            if self.kinds is None or (orders.none and variety == Variety()):
                continue
            count = int(picked.count[b])
            items, k = picked.items[b, :count], count if asks.fixed[b] else min(count, int(asks.k[b]))
            own = picked.linear[b, :count].astype(np.float64) + more[b, :count]
            if asks.shift[b] >= 0:
                own -= asks.shifts[asks.shift[b], items]
            may = np.zeros(asks.masks.shape[1], np.bool_)
            may[items] = True
            placed = told[b] = arrange(items, own, may, k, orders, variety, kinds_for(self.kinds, orders, variety))
            lists.count[b] = len(placed)
            lists.best[b, : len(placed)] = [one.item for one in placed]
            lists.score[b, : len(placed)] = [one.own + shifts_of(asks, b, one.item) for one in placed]
        return told


def shifts_of(asks: kernels.Asks, b: int, item: int) -> float:
    """What boosts and buries add to an item's score in list `b`."""
    return float(asks.shifts[asks.shift[b], item]) if asks.shift[b] >= 0 else 0.0


def with_parts(reasons: Sequence[Reason], placed: Placed, name_of: Mapping[int, str]) -> tuple[Reason, ...]:
    """The reasons of a place with what rules and variety did, largest first. `name_of`: ids by index, for the item that it is like."""
    parts = [
        Reason(part.kind, name_of[part.other] if part.other >= 0 else None, round(part.weight, DIGITS), part.rule_id or None)
        for part in placed.parts
        if round(part.weight, DIGITS)
    ]
    return tuple(sorted((*reasons, *parts), key=lambda one: -abs(one.weight))) if parts else tuple(reasons)
