"""Why an item stands where it stands: the parts of its score. They are the terms of the sum itself, not a story told afterwards.

Kinds: `popular` (used often, lately or ever), `new` (recent or untried), `often_together` (used together with the named item),
`similar_text` (its text is near the named item's), `same_creator`, `similar_tags` (filed under the same), `similar_date`,
`similar_popularity` (how far from as well known as what the user takes), `query` (its text is near the search), `unknown_item`. An entry
of a kind without an item is the sum over the user's other items. Square roots of sums are shared out in proportion to the sums'
terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.catalogue import Catalogue, Floats
from engine.features import AT, CO_VISITED, COLD, NAMES, SHARED, Features, P, S

DIGITS = 6  # that are told: parts rounded so still add up within 1e-5
NAMED = 2  # history items named per kind and listed item; the others are summed
_POPULAR = [SHARED.index(name) for name in ("trending", "popular", "known")]
_NEW = [n for n in range(S) if n not in _POPULAR]
_PLAIN = {  # kind -> features that no history item is named for
    "same_creator": ("creator", "creator_last", "creator_cold"),
    "similar_tags": ("tags", "tags_last", "tags_cold"),
    "similar_date": ("date", "date_last"),
    "similar_popularity": ("popularity_gap",),
}
_GROUPS = {
    "popular": _POPULAR,
    "new": _NEW,
    **{kind: [NAMES.index(name) for name in names] for kind, names in _PLAIN.items()},
}
_KINDS = tuple(_GROUPS)
_SUMS = np.array([[float(n in rows) for n in range(len(NAMES))] for rows in _GROUPS.values()])  # (kinds, F): which features a kind adds up


class Reason(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A part of a score. `weight` is on the score's scale; `item_id` names the history item it comes from."""

    kind: str
    item_id: str | None = None
    weight: float = 0.0


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
    own = features.personal[:, row, best].astype(np.float64)
    own = np.concatenate([own, own[-len(COLD) :] * features.cold[best]]) * w[S:, None]
    parts = [_SUMS @ np.concatenate([common, own])]  # (kinds, k)
    kinds: list[tuple[str, str | None]] = [(kind, None) for kind in _KINDS]
    if extra is not None:
        parts.append(extra[best].astype(np.float64)[None])
        kinds.append(("query", None))
    slots = len(features.recent[row])
    if slots:
        shares = (
            ("often_together", _together(features, row, best, slots, own)),
            ("similar_text", _text(catalogue, features, w, row, best)),
        )
        for kind, share in shares:  # (k, slots)
            if slots > NAMED:
                kept = np.zeros(share.shape, bool)
                np.put_along_axis(kept, np.argpartition(-np.abs(share), NAMED, axis=1)[:, :NAMED], values=True, axis=1)
                parts.append(np.where(kept, 0.0, share).sum(1)[None])
                kinds.append((kind, None))
                share = np.where(kept, share, 0.0)  # noqa: PLW2901 - the strongest only
            parts.append(share.T)
            kinds += [(kind, name) for name in features.names[row]]
    table = np.concatenate(parts).T
    scores = table.sum(1).tolist()
    table = np.round(table, DIGITS)
    order = np.argsort(-np.abs(table), axis=1, kind="stable")
    counts = np.count_nonzero(table, axis=1).tolist()
    listed = np.take_along_axis(table, order, axis=1).tolist()
    return [
        (score, tuple([Reason(kinds[at][0], kinds[at][1], weight) for at, weight in zip(places[:count], weights_, strict=False)]))
        for score, places, weights_, count in zip(scores, order.tolist(), listed, counts, strict=True)
    ]


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
        adds = links.adding(name)[hit]
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
