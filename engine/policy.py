"""What people's rules and the wish for variety make of a ranked pool: boosts, pins, caps, diversity, each told as a part of the score.

Pure functions over arrays by catalogue index; not which items rules match (`engine.rules`), and not the pool (`engine.model`). Blocks and
filters have done their work before: they, and seen items, come in as `may`.

What the actions mean:

* **boost, bury** change the odds. Scores are log-odds up to a constant that is the same for all items of a list, so `factor` adds
  |ln factor| to the score of each item matched (boost) or takes it off (bury): 2 doubles or halves the odds, and 0.5 says the same. A boost
  never lowers and a bury never raises, whatever the sign of the score. Several of them add up.
* **pin** puts one item at its rank, counted from 0: of those it matches and that the user may be shown, the one with the highest score in
  the pool, else the first by catalogue index. Pins have their places by rank, then by rule_id; where a rank is taken already the next free
  one is used, or the last free one before. A rank beyond the list's end is no place. Where candidates run out, pinned items move up.
* **cap** allows `max` matched items in a list. Pinned items count, and go before caps: if they alone are more, no other is added.

The order of steps: shifts, then pins, then the rest by diversity and caps (`engine.diversity`), then the pinned items' scores. A pinned
item keeps its score where that fits its place, else gets one between its neighbours': the score orders the list, and the pin's part says by
how much it was moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.diversity import NOBODY, Chosen, Kinds, choose, room
from engine.records import Rule

GAP = 1e-3
"""How far apart pinned scores are kept where they have a neighbour on one side only: above the 1e-6 that scores are told with."""
RULE, DIVERSITY = "rule", "diversity"

Bools = NDArray[np.bool_]
Places = NDArray[np.int64]


class Part(NamedTuple):
    """A part of a score, on its scale: of a rule (`rule_id`), or of diversity, for being like the item `other` (index) of the list."""

    kind: str
    weight: float
    rule_id: str = ""
    other: int = NOBODY


class Placed(NamedTuple):
    """One place of a list. `score` = `own`, what the pool says of the item (0 where it is not in the pool), + the weights of the parts."""

    item: int
    score: float
    own: float
    parts: tuple[Part, ...]


class Pin(NamedTuple):
    """One of `items` (M,) int64, catalogue indices, those where `mask` (N,), at `rank`."""

    rule_id: str
    rank: int
    items: Places
    mask: Bools


class Shift(NamedTuple):
    """`weight` on the scores of items where `mask` (N,)."""

    rule_id: str
    weight: float
    mask: Bools


@dataclass(frozen=True, slots=True)
class Orders:
    """The rules of a list, ready: `masks` (R, N) and `most` (R,) are those of the caps."""

    pins: tuple[Pin, ...]
    shifts: tuple[Shift, ...]
    masks: Bools
    most: Places

    @property
    def none(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.pins or self.shifts or len(self.most))

    def pinned(self) -> Places:
        """Items that pins may bring in: a model that adds them to the pool has true scores for them."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(pin.items for pin in self.pins)]))


NO_ORDERS = Orders((), (), np.zeros((0, 0), bool), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Variety:
    """How different the items of a list are to be: see `engine.diversity`; 0 is off. `strength`: score per unit of cosine."""

    strength: float = 0.0
    per_creator: int = 0
    per_category: int = 0


def odds(action: str, factor: float) -> float:
    """What a boost or a bury adds to a score.

    >>> odds("boost", 1.0), round(odds("boost", 3.0), 3), round(odds("bury", 3.0), 3), odds("bury", 4.0) == odds("bury", 0.25)
    (0.0, 1.099, -1.099, True)
    """
    size = abs(math.log(factor))
    return -size if action == "bury" and size else size


def orders_of(rules: Iterable[Rule], mask_of: Callable[[str], Bools], count: int) -> Orders:
    """Make the rules in force on a list ready. Do it once for all lists for which the same rules hold, until rules or catalogue change.

    Args:
        rules: those in force (`RuleSet.active`); blocks and filters are passed over.
        mask_of: rule_id -> (N,) what it matches.
        count: N, the length of the catalogue.
    """
    pins, shifts, caps = list[Pin](), list[Shift](), list[tuple[Bools, int]]()
    for rule in sorted(rules, key=lambda one: one.rule_id):
        if rule.action == "pin" and rule.rank is not None:
            mask = mask_of(rule.rule_id)
            pins.append(Pin(rule.rule_id, rule.rank, np.flatnonzero(mask), mask))
        elif rule.action in ("boost", "bury") and rule.factor is not None:
            shifts.append(Shift(rule.rule_id, odds(rule.action, rule.factor), mask_of(rule.rule_id)))
        elif rule.action == "cap" and rule.max is not None:
            caps.append((mask_of(rule.rule_id), rule.max))
    pins.sort(key=lambda pin: pin.rank)  # of one rank those stay in order of rule_id
    masks = np.array([mask for mask, _ in caps], bool).reshape(len(caps), count)
    return Orders(tuple(pins), tuple(shifts), masks, np.array([most for _, most in caps], np.int64))


def shifted(orders: Orders, items: Places, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,) the scores of some items with what boosts and buries add to them.

    A pool is chosen by these: an item that is boosted may have to be fetched from far below.
    """
    total = scores.astype(np.float64, copy=True)
    for shift in orders.shifts:
        total[shift.mask[items]] += shift.weight
    return total


def arrange(items: Places, scores: NDArray[np.float64], may: Bools, k: int, orders: Orders, variety: Variety, kinds: Kinds) -> list[Placed]:
    """Make a list of up to `k` of a pool and of the pinned items.

    Args:
        items: (P,) int64 catalogue indices of the pool, each once.
        scores: (P,) float64 without rules: of equal ones the first in the pool goes first.
        may: (N,) what the user may be shown: open, not seen, not blocked, not excluded.
        k: the list's length.
        orders: the rules in force.
        variety: how different the items are to be; `kinds` has its limits and those of caps as `kinds_for` sets them.
        kinds: what items have in common.

    Raises:
        IndexError: an item is beyond the arrays: the catalogue has grown since they were made.
    """
    totals = shifted(orders, items, scores)
    fixed = np.full(k, NOBODY)
    rules = {}
    for rank, (item, rule_id) in _pinned(orders, items, totals, may, k).items():
        fixed[rank], rules[item] = item, rule_id
    last = max(items.max(initial=NOBODY), fixed.max(initial=NOBODY))
    if last >= min(len(kinds.vectors), len(kinds.creators), len(kinds.starts) - 1, kinds.masks.shape[1] if len(kinds.most) else len(may)):
        raise IndexError(f"item {last}: compiled loops look at no length")
    out = room(k)
    count = choose(items, totals, may[items], fixed, float(variety.strength), kinds, out)
    return _told(out, count, items, scores, totals, orders, rules, variety.strength)


def kinds_for(kinds: Kinds, orders: Orders, variety: Variety) -> Kinds:
    """What items have in common, with the limits that hold for a list."""
    return kinds._replace(per_creator=variety.per_creator, per_category=variety.per_category, masks=orders.masks, most=orders.most)


def _pinned(orders: Orders, items: Places, totals: NDArray[np.float64], may: Bools, k: int) -> dict[int, tuple[int, str]]:
    """Which item has which rank, and by which rule: rank -> (item, rule_id)."""
    found: dict[int, tuple[int, str]] = {}
    if not orders.pins:
        return found
    left = may[items] & np.isfinite(totals)
    taken: set[int] = set()
    for pin in orders.pins:
        rank = next((r for r in (*range(pin.rank, k), *range(min(pin.rank, k) - 1, -1, -1)) if r not in found), None)
        if pin.rank >= k or rank is None:
            continue
        places = np.flatnonzero(pin.mask[items] & left)
        if len(places):
            item = int(items[places[np.argmax(totals[places])]])
            left &= items != item
        else:
            others = (at for at in pin.items[may[pin.items]].tolist() if at not in taken)
            item = next(others, NOBODY)
        if item >= 0:
            found[rank] = (item, pin.rule_id)
            taken.add(item)
    return found


def _told(
    out: Chosen,
    count: int,
    items: Places,
    scores: NDArray[np.float64],
    totals: NDArray[np.float64],
    orders: Orders,
    rules: dict[int, str],
    strength: float,
) -> list[Placed]:
    """The list with every part of its scores."""
    chosen, places = out.items[:count].tolist(), out.places[:count].tolist()
    at = {item: place for place, item in reversed(list(enumerate(items.tolist())))} if rules else {}
    pooled = [at.get(item, NOBODY) if place < 0 else place for item, place in zip(chosen, places, strict=True)]
    before = [
        0.0 if place < 0 or not math.isfinite(totals[place]) else float(totals[place]) if item in rules else float(out.values[n])
        for n, (item, place) in enumerate(zip(chosen, pooled, strict=True))
    ]
    final = fitting(before, [item in rules for item in chosen])
    listed = []
    for n, (item, place) in enumerate(zip(chosen, pooled, strict=True)):
        known = place >= 0 and math.isfinite(totals[place])
        parts = [Part(RULE, shift.weight, shift.rule_id) for shift in orders.shifts if known and shift.mask[item]]
        if item in rules:
            parts.append(Part(RULE, final[n] - before[n], rules[item]))
        elif strength > 0.0 and out.likeness[n] > 0.0:
            parts.append(Part(DIVERSITY, -strength * float(out.likeness[n]), other=int(out.nearest[n])))
        listed.append(Placed(item, final[n], float(scores[place]) if known else 0.0, tuple(parts)))
    return listed


def fitting(scores: Sequence[float], pinned: Sequence[bool]) -> list[float]:
    """Scores that order a list: those of pinned items are moved where they do not fit between their neighbours'.

    >>> fitting([3.0, 9.0, 2.0], [False, True, False]), fitting([1.0, 3.0], [True, False]), fitting([3.0, 2.5, 2.0], [False, True, False])
    ([3.0, 2.5, 2.0], [3.001, 3.0], [3.0, 2.5, 2.0])
    """
    found = list(scores)
    start = 0
    while start < len(found):
        if not pinned[start]:
            start += 1
            continue
        end = start
        while end < len(found) and pinned[end]:
            end += 1
        above = found[start - 1] if start else math.inf
        below = found[end] if end < len(found) else -math.inf
        run = found[start:end]
        bounds = [above, *run, below]
        if not all(high > low for high, low in pairwise(bounds)):
            found[start:end] = _between(run, above, below)
        start = end
    return found


def _between(run: Sequence[float], above: float, below: float) -> list[float]:
    """Scores for items in a row, below one score and above another, as near to their own as is simple."""
    count = len(run)
    if math.isfinite(above) and math.isfinite(below):
        return [above + (below - above) * (n + 1) / (count + 1) for n in range(count)]
    found = list(run)
    if math.isfinite(below) or not math.isfinite(above):  # from the last one up
        for n in range(count - 1, -1, -1):
            found[n] = max(found[n], (found[n + 1] if n + 1 < count else below) + GAP)
        return found
    for n in range(count):
        found[n] = min(found[n], (found[n - 1] if n else above) - GAP)
    return found
