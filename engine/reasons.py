"""Why an item stands where it stands: the parts of its score. They are the terms of the sum itself, not a story told afterwards.

Kinds: `popular` (used often, lately or ever), `new` (recent or untried), `often_together` (used together with the named item),
`similar_text` (its text is near the named item's), `same_creator`, `similar_tags` (filed under the same), `similar_date`,
`similar_popularity` (how far from as well known as what the user takes), `query` (it fits the search), `unknown_item`. An entry
of a kind without an item is the sum over the user's other items. Square roots of sums are shared out in proportion to the sums'
terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import msgspec
import numpy as np

from engine import kernels
from engine.features import NAMES, SHARED

DIGITS = 6  # that are told: parts rounded so still add up within 1e-5
KINDS = ("popular", "new", "same_creator", "similar_tags", "similar_date", "similar_popularity", "query", "often_together", "similar_text")
"""In the order of the numbers that `engine.kernels` gives them."""
_POPULAR = ("trending", "popular", "known")
_OF = {
    **{name: "popular" if name in _POPULAR else "new" for name in SHARED},
    **dict.fromkeys(("creator", "creator_last", "creator_cold"), "same_creator"),
    **dict.fromkeys(("tags", "tags_last", "tags_cold"), "similar_tags"),
    **dict.fromkeys(("date", "date_last"), "similar_date"),
    "popularity_gap": "similar_popularity",
}
_KINDS = np.array(KINDS, object)
KIND_OF = np.array([KINDS.index(_OF[name]) if name in _OF else -1 for name in NAMES], np.int64)
"""(F,): the kind that a feature adds to as a whole; -1 for those that are shared out among history items."""


class Reason(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A part of a score. `weight` is on the score's scale; `item_id` names the history item it comes from."""

    kind: str
    item_id: str | None = None
    weight: float = 0.0


def lists_for(count: int, most: int, *, told: bool) -> kernels.Lists:
    """Room for so many lists of so many items at most, with parts where they are to be told."""
    depth = (count, most, kernels.PARTS) if told else (0, 0, 0)
    return kernels.Lists(
        np.zeros(count, np.int64),
        np.zeros((count, most), np.int64),
        np.zeros((count, most), np.float64),
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
