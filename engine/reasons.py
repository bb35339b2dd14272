"""Why an item stands where it stands: the parts of its score, which are what becomes of it when something is left out.

Kinds: `often_together` (used together with the named item) and `similar_text` (its text is near the named item's): leaving the named item
out of the user's history lowers the score by the weight. `history`: what the whole history adds to the score, less the named items'
weights; how items go together stands here. Without any history there is left: `popular` (used often, lately or ever), `new` (how recent
or untried it is) and `bias` (what any item has in this user's situation). `query`: it fits the search. `shown`: it was shown again and
again and not taken. `rule`: the named rule moved it; `diversity`: it is like the named item of the list. `unknown_item`: the catalogue does
not have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import msgspec
import numpy as np

from engine import kernels

DIGITS = 6  # that are told: parts rounded so still add up within 1e-5
KINDS = ("popular", "new", "bias", "history", "query", "often_together", "similar_text", "shown")
"""In the order of the numbers that `engine.kernels` gives them."""
_KINDS = np.array(KINDS, object)


class Reason(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A part of a score. `weight` is on the score's scale; `item_id` names the item it comes from, `rule_id` the rule."""

    kind: str
    item_id: str | None = None
    weight: float = 0.0
    rule_id: str | None = None


def lists_for(count: int, most: int, *, told: bool) -> kernels.Lists:
    """Room for so many lists of so many items at most, with parts where they are to be told."""
    depth = (count, most, kernels.PARTS) if told else (0, 0, 0)
    return kernels.Lists(
        np.zeros(count, np.int64),
        np.zeros((count, most), np.int64),
        np.zeros((count, most), np.float64),
        np.zeros((count, most), np.int64),
        np.zeros(depth[:2], np.int64),
        np.zeros(depth, np.int64),
        np.zeros(depth, np.int64),
        np.zeros(depth, np.float64),
    )


def reasons_of(lists: kernels.Lists, names: Sequence[Sequence[str]]) -> list[list[tuple[Reason, ...]]]:
    """The reasons of each place of each list, largest first. `names`: the ids of each user's recent items."""
    told = np.arange(kernels.PARTS) < lists.parts[:, :, None]
    known = np.array([None, *chain.from_iterable(names)], object)
    starts = np.array([0, *accumulate(map(len, names))][: len(names)], np.int64) + 1
    place = np.where(lists.slot < 0, 0, lists.slot + starts[:, None, None])[told]  # in `known`; 0 names none
    made = list(map(Reason, _KINDS[lists.kind[told]].tolist(), known[place].tolist(), lists.weight[told].tolist()))
    ends = [0, *accumulate(lists.parts.ravel().tolist())]
    most, out = lists.parts.shape[1], []
    for row, count in enumerate(lists.count.tolist()):
        at = ends[row * most : row * most + count + 1]
        out.append([tuple(made[start:end]) for start, end in pairwise(at)])
    return out
