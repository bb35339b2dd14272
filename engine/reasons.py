"""Why an item stands where it stands: the parts of its score. They are the terms of the sum itself, not a story told afterwards.

Kinds: `popular` (used often, lately or ever), `new` (recent or untried), `often_together` (used together with the named item),
`similar_text` (its text is near the named item's), `same_creator`, `similar_tags` (filed under the same), `similar_date`,
`similar_popularity` (how far from as well known as what the user takes), `query` (its text is near the search), `unknown_item`. An entry
of a kind without an item is the sum over the user's other items. Square roots of sums are shared out in proportion to the sums'
terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.catalogue import Catalogue, Floats
from engine.features import AT, CO_VISITED, COLD, NAMES, SHARED, Features, P, S

NAMED = 2  # history items named per kind and listed item; the others are summed
_POPULAR = [SHARED.index(name) for name in ("trending", "popular", "known")]
_NEW = [n for n in range(S) if n not in _POPULAR]
_PLAIN = {  # kind -> features that no history item is named for
    "same_creator": ("creator", "creator_last", "creator_cold"),
    "similar_tags": ("tags", "tags_last", "tags_cold"),
    "similar_date": ("date", "date_last"),
    "similar_popularity": ("popularity_gap",),
}
_ROWS = {kind: [NAMES.index(name) - S for name in names] for kind, names in _PLAIN.items()}


class Reason(NamedTuple):
    """A part of a score. `weight` is on the score's scale; `item_id` names the history item it comes from."""

    kind: str
    item_id: str | None
    weight: float


def reasons_of(
    catalogue: Catalogue, features: Features, weights: Floats, row: int, best: Sequence[int], extra: Floats | None
) -> list[tuple[float, tuple[Reason, ...]]]:
    """Score and reasons, largest first, of the items at the indices `best` for user `row` of a batch.

    `weights` (F,); `extra` (N,): the part of a search query.
    """
    if not best:
        return []
    w = weights.astype(np.float64)
    common = features.shared[:, best].astype(np.float64) * w[:S, None]
    popular, new = common[_POPULAR].sum(0).tolist(), common[_NEW].sum(0).tolist()
    own = features.personal[:, row, best].astype(np.float64)
    own = np.concatenate([own, own[-len(COLD) :] * features.cold[best]]) * w[S:, None]
    plain = [(kind, own[rows].sum(0).tolist()) for kind, rows in _ROWS.items()]
    query = [0.0] * len(best) if extra is None else extra[best].astype(np.float64).tolist()
    slots = len(features.recent[row])
    names = features.names[row]
    if slots:
        together = _together(features, row, best, slots, own)
        text = _text(catalogue, features, w, row, best)
    plain += [("popular", popular), ("new", new), ("query", query)]
    named = [("often_together", *_strongest(together)), ("similar_text", *_strongest(text))] if slots else []
    out = []
    for i in range(len(best)):
        found: list[tuple[float, str, str | None]] = [(parts[i], kind, None) for kind, parts in plain]
        for kind, at, weight, rest in named:
            found += [(part, kind, names[slot]) for slot, part in zip(at[i], weight[i], strict=True)]
            found.append((rest[i], kind, None))
        kept = sorted((one for one in found if one[0]), key=_size, reverse=True)
        out.append((sum(map(itemgetter(0), kept)), tuple([Reason(kind, item, weight) for weight, kind, item in kept])))
    return out


def _size(part: tuple[float, str, str | None]) -> float:
    return abs(part[0])


def _strongest(parts: NDArray[np.float64]) -> tuple[list[list[int]], list[list[float]], list[float]]:
    """(k, NAMED) slots of the strongest parts of (k, slots), these parts, and (k,) the sum of the others."""
    if parts.shape[1] <= NAMED:
        return [list(range(parts.shape[1]))] * len(parts), parts.tolist(), [0.0] * len(parts)
    at = np.argpartition(-np.abs(parts), NAMED, axis=1)
    ordered = np.take_along_axis(parts, at, axis=1)
    return at[:, :NAMED].tolist(), ordered[:, :NAMED].tolist(), ordered[:, NAMED:].sum(1).tolist()


def _together(features: Features, row: int, best: Sequence[int], slots: int, own: NDArray[np.float64]) -> NDArray[np.float64]:
    """(k, slots) what each recent item adds through co-visitation."""
    links = features.links
    place = np.full(features.shared.shape[1], -1, np.int32)
    place[best] = np.arange(len(best))
    start, end = np.searchsorted(links.row, np.array([row, row + 1], links.row.dtype))  # of one type: else it copies them all
    to = place[links.other[start:end]]
    hit = np.flatnonzero(to >= 0)
    cell = to[hit] * slots + links.slot[start:end][hit]
    hit += start
    newest = cell % slots == 0
    parts = np.zeros((len(best), slots))
    for name in CO_VISITED:
        gained = own[AT[name]]
        if not gained.any():
            continue
        adds = getattr(links, name.removesuffix("_last"))[hit]
        share = np.bincount(cell, adds * newest if name.endswith("_last") else adds, len(best) * slots).reshape(len(best), slots)
        total = share.sum(1, keepdims=True)
        parts += np.divide(share, total, out=np.zeros(share.shape), where=total > 0) * gained[:, None]
    return parts


def _text(catalogue: Catalogue, features: Features, w: np.ndarray, row: int, best: Sequence[int]) -> NDArray[np.float64]:
    """(k, slots) what each recent item adds through text."""
    near = (catalogue.vectors[list(best)] @ catalogue.vectors[features.recent[row]].T).astype(np.float64)
    user = w[S + AT["text"]] + w[S + P + COLD.index("text_cold")] * features.cold[list(best)]
    parts = near * features.shares[row] * user[:, None]
    parts[:, 0] += w[S + AT["text_last"]] * near[:, 0]
    return np.asarray(parts, np.float64)
