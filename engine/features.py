"""The numbers from which an item's score is made. How the personal ones are worked out: `engine.kernels`; weights: `engine.ranker`.

Shared features are the same for every user at one time (`engine.sharedfeatures`); the others depend on the user's recent items. All are of
the order of 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, compress

import numpy as np
from numpy.typing import NDArray

from engine import kernels
from engine.catalogue import Catalogue
from engine.fatigue import weariness
from engine.kernels import LONGEST
from engine.partition import item_key
from engine.sharedfeatures import MINUTE_MS, SHARED, Shared
from engine.space import Floats
from engine.user import SESSION_MS, UserState, liked, together

PERSONAL = (
    "together",
    "together_last",
    "together_near",
    "together_most",
    "lately",
    "lately_last",
    "after",
    "after_last",
    "session",
    "session_most",
    "basket",
    "chance",
    "linked",
    "session_linked",
    "creator_last",
    "tags_last",
    "date",
    "date_last",
    "popularity_gap",
    "text_last",
    "text_most",
    "words_last",
    "text",
    "creator",
    "tags",
    "words",
)
COLD = ("text_cold", "creator_cold", "tags_cold", "words_cold")
"""The last of the personal ones times how little is known of the item: what decides where nobody has been before."""
NAMES = SHARED + PERSONAL + COLD
S, P = len(SHARED), len(PERSONAL)
CONTEXT = 3
"""Numbers that say how much is known of a user, see `contexts`."""
RECENT = 20  # liked items that describe a user, and LONGEST while they belong to the session that goes on; older ones add little
SIZES = (3, 20)  # events: a new user has at most the first, a known one more than the second


@dataclass(frozen=True, slots=True)
class Taste:
    """What a user's row says to the ranker, copied out of it: newest first. `recent`: hash64 of the liked items; `ids` their ids;
    `seen`: hash64 of all items that may not be listed again; `now`, `last_time` in ms; `events`: how many so far; `together`: so many of
    `recent` belong to the user's last session; `weary`: hash64 and weight of items shown in vain (`engine.fatigue.weariness`).
    """

    recent: tuple[int, ...]
    ids: tuple[str, ...]
    seen: tuple[int, ...]
    now: int
    last_time: int
    events: int
    together: int = 0
    weary: tuple[tuple[int, float], ...] = ()


def taste_of(state: UserState | None, now: int) -> Taste:
    """Copy what the ranker needs out of a row; None or a user who is not to be personalised gives an empty taste."""
    if state is None or not state.personalise:
        return Taste((), (), () if state is None else tuple(state.seen), now, 0, 0)
    found = liked(state.history, LONGEST)
    session = together(found, found[0].time, found[0].session) if found else 0
    ids = tuple(one.item_id for one in found[: max(RECENT, session)])
    weary = tuple(weariness(state.shown, now // 1000)) if state.shown else ()
    return Taste(tuple(map(item_key, ids)), ids, tuple(state.seen), now, state.last_time, state.events, session, weary)


def situations(tastes: Sequence[Taste]) -> NDArray[np.intp]:
    """(B,) the situation of each user, for which the ranker has weights of its own: gap since the last event x length of the history.

    >>> int(situations([Taste((), (), (), 0, 0, 0)])[0])
    3
    """
    gap = [0 if t.events and t.now - t.last_time < SESSION_MS else 1 for t in tastes]
    size = [sum(t.events > most for most in SIZES) for t in tastes]
    return np.array([(len(SIZES) + 1) * g + s for g, s in zip(gap, size, strict=True)], np.intp)


SITUATIONS = 2 * (len(SIZES) + 1)


def contexts(tastes: Sequence[Taste]) -> Floats:
    """(B, CONTEXT): how many events, how long since the last, how many of the recent items belong to the last session; of the order of 1.

    >>> contexts([Taste((), (), (), 60_000, 0, 1)]).round(2).tolist()
    [[0.14000000059604645, 0.05999999865889549, 0.0]]
    """
    told = [(t.events, max(0, t.now - t.last_time) / MINUTE_MS if t.events else 0.0, t.together) for t in tastes]
    events, idle, session = np.array(told, np.float64).reshape(-1, CONTEXT).T
    return np.stack([np.log1p(events) / 5.0, np.log1p(idle) / 12.0, np.minimum(session / kernels.MANY, 1.0)], 1).astype(np.float32)


@dataclass(slots=True)
class Features:
    """Features of one user: `shared` (S, N), `personal` (P, N), `cold` (N,) float32."""

    shared: Floats
    personal: Floats
    cold: Floats

    def named(self, name: str) -> Floats:
        """(N,) one feature."""
        if name in SHARED:
            found = self.shared[SHARED.index(name)]
        elif name in COLD:
            found = self.personal[P - len(COLD) + COLD.index(name)] * self.cold
        else:
            found = self.personal[PERSONAL.index(name)]
        return np.asarray(found, np.float32)

    def scores(self, weights: Floats) -> Floats:
        """(N,) what the features add up to under the weights (F,)."""
        own = weights[S : S + P] @ self.personal + (weights[S + P :] @ self.personal[-len(COLD) :]) * self.cold
        return np.asarray(weights[:S] @ self.shared + own, np.float32)

    def rows(self, items: NDArray[np.integer]) -> Floats:
        """(len(items), F) all features of some items."""
        own = self.personal[:, items]
        return np.asarray(np.concatenate([self.shared[:, items], own, own[-len(COLD) :] * self.cold[items]]).T, np.float32)


def tastes_of(common: Shared, tastes: Sequence[Taste]) -> tuple[kernels.Tastes, Floats, list[Sequence[str]]]:
    """A batch as compiled loops read it, the rows of cosines that it names, and the ids of each user's recent items."""
    listed = [t.recent[:LONGEST] for t in tastes]
    start = starts_of(map(len, listed))
    recent = common.catalogue.places.of(np.fromiter(chain.from_iterable(listed), np.uint64, start[-1]))
    names: list[Sequence[str]] = [t.ids for t in tastes]
    together = [t.together for t in tastes]
    known = recent >= 0
    if not known.all():
        ends = zip(start[:-1].tolist(), start[1:].tolist(), strict=True)
        for b, mask in enumerate([known[first:last].tolist() for first, last in ends]):
            names[b] = list(compress(names[b], mask))
            together[b] = sum(mask[: together[b]])
        start = np.concatenate([[0], np.cumsum(known)])[start]
        recent = recent[known]
    near, slots = common.cosines.of(recent)
    now = np.array([t.now for t in tastes], np.int64)
    return kernels.Tastes(start, recent, slots, now, np.array(together, np.int64), situations(tastes), contexts(tastes)), near, names


def recent_of(catalogue: Catalogue, taste: Taste) -> tuple[NDArray[np.int64], list[str], int]:
    """Of a user's recent items those that are known: indices (R,), newest first, their ids, and how many belong to the last session."""
    places = catalogue.places.of(np.array(taste.recent[:LONGEST], np.uint64))
    known = places >= 0
    return places[known], list(compress(taste.ids, known.tolist())), int(known[: taste.together].sum())


def starts_of(lengths: Iterable[int]) -> NDArray[np.int64]:
    """Where each of some lists begins in all of them together, and the end.

    >>> starts_of([2, 0, 3]).tolist()
    [0, 2, 2, 5]
    """
    return np.array([0, *accumulate(lengths)], np.int64)


def features_of(common: Shared, taste: Taste) -> Features:
    """Features of all items for a user, as of the user's `now`."""
    common.at(taste.now)
    batch, near, _ = tastes_of(common, [taste])
    every, out = np.arange(len(common.catalogue), dtype=np.int32), np.empty((P, len(common.catalogue)), np.float32)
    kernels.personal(common.world(near), batch.recent, batch.slot, taste.now, int(batch.together[0]), every, every, out)
    return Features(common.features, out, common.cold)
