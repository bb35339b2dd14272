"""Why an item stands where it stands: the parts of its score. They are the terms of the sum itself, not a story told afterwards.

Kinds: `popular` (used often, lately or ever), `new` (recent or untried), `often_together` (used together with the named item), `similar_text`
(its text is near the named item's), `same_creator`, `similar_date`, `query` (its text is near the search), `unknown_item`. An entry of a kind without an item
is the sum over the user's other items. Square roots of sums are shared out in proportion to the sums' terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from engine.catalogue import Catalogue, Floats
from engine.features import NAMES, SHARED, Features

NAMED = 2  # history items named per kind and listed item; the others are summed
_AT = {name: i for i, name in enumerate(NAMES)}
_POPULAR = [_AT["trending"], _AT["popular"], _AT["known"]]
_NEW = [_AT["new"], _AT["recent"], _AT["unused"]]


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
    shared, personal = len(SHARED), features.personal[:, row]
    w = weights.astype(np.float64)
    common = features.shared[:, best].astype(np.float64) * w[:shared, None]
    popular, new = common[_POPULAR].sum(0).tolist(), common[_NEW].sum(0).tolist()
    own = personal[:, best].astype(np.float64) * w[shared:, None]
    creator, date = own[5].tolist(), own[6].tolist()
    query = [0.0] * len(best) if extra is None else extra[best].astype(np.float64).tolist()
    slots = len(features.recent[row])
    names = features.names[row]
    together = _together(features, row, best, slots, own[0], own[1])
    text = _text(catalogue, features, w, row, best, slots)
    out = []
    for i in range(len(best)):
        found = [
            Reason("popular", None, popular[i]),
            Reason("new", None, new[i]),
            Reason("same_creator", None, creator[i]),
            Reason("similar_date", None, date[i]),
            Reason("query", None, query[i]),
            *_named("often_together", together[i], names),
            *_named("similar_text", text[i], names),
        ]
        kept = sorted((r for r in found if r.weight != 0.0), key=lambda r: -abs(r.weight))
        out.append((sum(r.weight for r in kept), tuple(kept)))
    return out


def _named(kind: str, parts: list[float], names: Sequence[str]) -> Iterator[Reason]:
    """The strongest parts by name, the rest as one."""
    if not parts:
        return
    order = sorted(range(len(parts)), key=lambda s: -abs(parts[s]))
    for slot in order[:NAMED]:
        yield Reason(kind, names[slot], parts[slot])
    yield Reason(kind, None, sum(parts[slot] for slot in order[NAMED:]))


def _together(features: Features, row: int, best: Sequence[int], slots: int, all_: Floats, last: Floats) -> list[list[float]]:
    """(k, slots) what each recent item adds through co-visitation; the part of the newest one alone goes to it."""
    links = features.links
    place = np.full(features.shared.shape[1], -1, np.int32)
    place[best] = np.arange(len(best))
    start, end = np.searchsorted(links.row, [row, row + 1])
    to = place[links.other[start:end]]
    hit = to >= 0
    parts = np.bincount(to[hit] * slots + links.slot[start:end][hit], links.weight[start:end][hit], len(best) * slots).reshape(
        len(best), slots
    )
    total = parts.sum(1, keepdims=True)
    parts = np.divide(parts, total, out=np.zeros(parts.shape), where=total > 0) * np.asarray(all_)[:, None]
    if slots:
        parts[:, 0] += last
    listed: list[list[float]] = parts.tolist()
    return listed


def _text(catalogue: Catalogue, features: Features, w: np.ndarray, row: int, best: Sequence[int], slots: int) -> list[list[float]]:
    """(k, slots) what each recent item adds through text."""
    if not slots:
        return [[] for _ in best]
    near = (catalogue.vectors[list(best)] @ catalogue.vectors[features.recent[row]].T).astype(np.float64)
    shared, personal = len(SHARED), features.personal[:, row, list(best)]
    cold = np.divide(personal[4], personal[2], out=np.zeros(len(best), np.float32), where=personal[2] != 0)
    parts = near * features.shares[row] * (w[shared + 2] + w[shared + 4] * cold)[:, None]
    parts[:, 0] += w[shared + 3] * near[:, 0]
    listed: list[list[float]] = parts.tolist()
    return listed
