"""The numbers from which an item's score is made, for many users and all items at once. Not the weights (`engine.ranker`).

Shared features are the same for every user at one time; the others depend on the user's recent items. All are of the order of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.catalogue import DAY_MS, Catalogue, Floats
from engine.cosines import Cosines
from engine.partition import item_key
from engine.stats import ItemStats
from engine.user import SESSION_MS, UserState, liked, together

SHARED = (
    "trending",
    "popular",
    "known",
    "new",
    "recent",
    "unused",
    "untried",
    "released",
    "released_year",
    "dated",
    "used_week",
    "used_season",
)
PERSONAL = (
    "together",
    "together_last",
    "together_near",
    "lately",
    "lately_last",
    "session",
    "basket",
    "creator_last",
    "tags_last",
    "date",
    "date_last",
    "popularity_gap",
    "text_last",
    "text",
    "creator",
    "tags",
)
COLD = ("text_cold", "creator_cold", "tags_cold")
"""The last of the personal ones times how little is known of the item: what decides where nobody has been before."""
NAMES = SHARED + PERSONAL + COLD
AT = {name: n for n, name in enumerate(PERSONAL)}
S, P = len(SHARED), len(PERSONAL)
RECENT = 20  # liked items that describe a user; older ones add little and cost a product each
LONGEST = 40  # ... and as many while they belong to the session that goes on
STEP = 0.9  # weight of one step back among them
NEAR = 0.7  # ... where the last few count most
FEW = 5.0  # uses at which half of the cold features is left
SMALL = 0.15  # terms that weigh less in a taste than this share of its strongest are passed over, to save their many items
MINUTE_MS = 60_000
SIZES = (3, 20)  # events: a new user has at most the first, a known one more than the second


@dataclass(frozen=True, slots=True)
class Taste:
    """What a user's row says to the ranker, copied out of it: newest first. `recent`: hash64 of the liked items; `ids` their ids;
    `seen`: hash64 of all items that may not be listed again; `now`, `last_time` in ms; `events`: how many so far; `together`: so many of
    `recent` belong to the user's last session.
    """

    recent: tuple[int, ...]
    ids: tuple[str, ...]
    seen: tuple[int, ...]
    now: int
    last_time: int
    events: int
    together: int = 0


def taste_of(state: UserState | None, now: int) -> Taste:
    """Copy what the ranker needs out of a row; None or a user who is not to be personalised gives an empty taste."""
    if state is None or not state.personalise:
        return Taste((), (), () if state is None else tuple(state.seen), now, 0, 0)
    found = liked(state.history, LONGEST)
    session = together(found, found[0].time, found[0].session) if found else 0
    ids = tuple(one.item_id for one in found[: max(RECENT, session)])
    return Taste(tuple(map(item_key, ids)), ids, tuple(state.seen), now, state.last_time, state.events, session)


def situations(tastes: Sequence[Taste]) -> NDArray[np.intp]:
    """(B,) the situation of each user, for which the ranker has weights of its own: gap since the last event x length of the history.

    >>> int(situations([Taste((), (), (), 0, 0, 0)])[0])
    3
    """
    gap = [0 if t.events and t.now - t.last_time < SESSION_MS else 1 for t in tastes]
    size = [sum(t.events > most for most in SIZES) for t in tastes]
    return np.array([(len(SIZES) + 1) * g + s for g, s in zip(gap, size, strict=True)], np.intp)


SITUATIONS = 2 * (len(SIZES) + 1)


@dataclass(slots=True)
class Links:
    """Co-visitation of a batch, one entry per (user, history item, neighbour): where it belongs and what it adds."""

    row: NDArray[np.int32]  # (E,) user of the batch
    slot: NDArray[np.int32]  # (E,) place in the user's recent items
    other: NDArray[np.int32]  # (E,) the neighbour's index
    together: Floats  # (E,)
    lately: Floats
    session: Floats
    basket: Floats
    near: Floats

    def adding(self, name: str) -> Floats:
        """(E,) what the entries add to the square of a feature of this name; for one that ends in _last, those of slot 0 alone count."""
        found: Floats = self.near if name == "together_near" else getattr(self, name.removesuffix("_last"))
        return found


CO_VISITED = ("together", "together_last", "together_near", "lately", "lately_last", "session", "basket")
"""Square roots of sums over links."""


@dataclass(slots=True)
class Features:
    """Features of a batch: `shared` (S, N), `personal` (P, B, N), `cold` (N,) float32, and what the reasons need."""

    shared: Floats
    personal: Floats
    cold: Floats
    recent: list[list[int]]  # (B, <= LONGEST) indices of the users' recent items, newest first
    names: list[list[str]]  # their ids
    shares: list[Floats]  # (B, <= LONGEST) weight of each in the user vector, divided by its length
    links: Links

    def named(self, name: str, row: int = 0) -> Floats:
        """(N,) one feature of one user of the batch."""
        if name in SHARED:
            found = self.shared[SHARED.index(name)]
        elif name in COLD:
            found = self.personal[P - len(COLD) + COLD.index(name), row] * self.cold
        else:
            found = self.personal[AT[name], row]
        return np.asarray(found, np.float32)

    def rows(self, row: int, items: NDArray[np.integer]) -> Floats:
        """(len(items), F) all features of some items for one user."""
        own = self.personal[:, row, items]
        return np.asarray(np.concatenate([self.shared[:, items], own, own[-len(COLD) :] * self.cold[items]]).T, np.float32)

    def scores(self, weights: Floats) -> Floats:
        """(B, N) what the features add up to under the users' weights (B, F)."""
        out = weights[:, :S] @ self.shared
        for row, own in enumerate(weights):
            part = self.personal[:, row]
            out[row] += own[S : S + P] @ part
            out[row] += (own[S + P :] @ part[-len(COLD) :]) * self.cold
        return out


class Shared:
    """The features that are the same for all users, made anew when a count, an entry or the minute has changed.

    `features` (S, N), `cold` (N,), `root` (N,) 1 / sqrt(count) float32; `cosines`: of items' texts.
    """

    def __init__(self, catalogue: Catalogue, stats: ItemStats) -> None:
        self.catalogue, self.stats, self.cosines = catalogue, stats, Cosines(catalogue)
        self._made: tuple[int, int, int, int] | None = None

    def at(self, now: int) -> Shared:
        """Itself, as of the minute of `now` (ms)."""
        minute = now // MINUTE_MS
        state = (self.stats.version, self.catalogue.version, len(self.catalogue), minute)
        if state != self._made:
            count = self.stats.count[: len(self.catalogue)]
            self.features = shared_features(self.catalogue, self.stats, minute * MINUTE_MS)
            self.cold = (1.0 / (1.0 + count / FEW)).astype(np.float32)
            self.root = (1.0 / np.sqrt(count + FEW)).astype(np.float32)
            self._made = state
        return self


def shared_features(catalogue: Catalogue, stats: ItemStats, now: int) -> Floats:
    """(S, N) float32."""
    n = len(catalogue)
    count, first, since = stats.count[:n], stats.first_time[:n], catalogue.since[:n]
    trending, popular = stats.popularity(now)
    used, dated = first > 0, since != 0
    age = days_since(np.where(used, first, np.maximum(since, stats.start)), now)
    release = days_since(since, now)
    rows = np.empty((S, n), np.float32)
    rows[0] = np.log1p(10.0 * trending.astype(np.float32)) / 3.0
    rows[1] = np.log1p(10.0 * popular.astype(np.float32)) / 3.0
    rows[2] = np.log1p(count) / 3.0
    rows[3] = np.exp(-age / 30.0)
    rows[4] = np.exp(-age / 365.0)
    rows[5] = 1.0 / (1.0 + count)
    rows[6] = ~used
    rows[7] = np.exp(-release / 30.0) * dated
    rows[8] = np.exp(-release / 365.0) * dated
    rows[9] = dated
    idle = days_since(stats.last_time[:n], now)
    rows[10] = np.exp(-idle / 7.0) * used
    rows[11] = np.exp(-idle / 60.0) * used
    return rows


def days_since(times: NDArray[np.int64], now: int) -> Floats:
    """Days from `times` to `now` (ms), 0 for later ones."""
    return np.maximum(0.0, (now - times) / DAY_MS).astype(np.float32)


def links_of(stats: ItemStats, root: Floats, recent: list[list[int]], tastes: Sequence[Taste]) -> Links:
    """Neighbours of all recent items of a batch, weighted by cosine-like strength, place in the history and age of the counts."""
    found, rows, slots, lengths, factors = [], [], [], [], []
    lasting, season = stats.decay.pair_days * DAY_MS, stats.decay.season_days * DAY_MS
    for row, (places, taste) in enumerate(zip(recent, tastes, strict=True)):
        for slot, at in enumerate(places):
            one = stats.of(at)
            if len(one.others):
                age, own = taste.now - one.time, float(root[at])
                slow, fast = own * 2.0 ** (-age / lasting), own * 2.0 ** max(-100.0, min(100.0, -age / season))
                step = STEP**slot
                rows.append(row)
                slots.append(slot)
                found.append(one)
                lengths.append(len(one.others))
                factors.append((slow * step, fast * step, slow * step, slow if slot < taste.together else 0.0, slow * NEAR**slot))
    if not found:
        none, zero = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return Links(none, none, none, zero, zero, zero, zero, zero)
    other = np.concatenate([one.others for one in found])
    weight = np.concatenate([one.weights for one in found], axis=1)
    weight *= root[other]
    by_slot = np.repeat(np.array(factors, np.float32).T, lengths, axis=1)
    basket, near = weight[2] * by_slot[3], weight[0] * by_slot[4]
    weight *= by_slot[:3]
    row, slot = np.repeat(np.array([rows, slots], np.int32), lengths, axis=1)
    return Links(row, slot, other, weight[0], weight[1], weight[2], basket, near)


def features_of(common: Shared, tastes: Sequence[Taste]) -> Features:
    """Features of all items for a batch of users; the shared ones as of the newest `now` among them."""
    catalogue, stats = common.catalogue, common.stats
    n, b = len(catalogue), len(tastes)
    common.at(max(t.now for t in tastes))
    shared, cold = common.features, common.cold
    index = catalogue.index
    known = [[(index[key], name) for key, name in zip(t.recent, t.ids, strict=True) if key in index] for t in tastes]
    recent, names = [[at for at, _ in row] for row in known], [[name for _, name in row] for row in known]
    links = links_of(stats, common.root, recent, tastes)
    personal = np.zeros((P, b, n), np.float32)
    flat = links.row.astype(np.int64) * n + links.other
    newest = np.flatnonzero(links.slot == 0)
    for name in CO_VISITED:
        if name.endswith("_last"):
            total = np.bincount(flat[newest], links.adding(name)[newest], b * n)
        else:
            total = np.bincount(flat, links.adding(name), b * n)
        np.sqrt(total.reshape(b, n), out=personal[AT[name]], casting="same_kind")
    steps = [(STEP ** np.arange(len(places))).astype(np.float32) for places in recent]
    shares = _text(catalogue, common.cosines, recent, steps, personal)
    _tags(catalogue, recent, steps, personal)
    _creators(catalogue, recent, steps, personal)
    _dates(catalogue, recent, steps, personal)
    for row, places in enumerate(recent):
        if places:
            middle = np.average(shared[1, places], weights=steps[row])
            np.abs(shared[1] - np.float32(middle), out=personal[AT["popularity_gap"], row])
    return Features(shared, personal, cold, recent, names, shares, links)


def _text(catalogue: Catalogue, cosines: Cosines, recent: list[list[int]], steps: list[Floats], out: Floats) -> list[Floats]:
    """Cosines of all items with the users' vectors and with their newest items; gives the shares of the items in the users' vectors."""
    vectors, shares = catalogue.vectors[: len(catalogue)], []
    newest, users = out[AT["text_last"]], out[AT["text"]]
    for row, places in enumerate(recent):
        share = steps[row]
        if places:
            near = cosines.of(places)
            if near is None:
                near = vectors[places] @ vectors.T
            share = share / (max(0.0, float(share @ near[:, places] @ share)) ** 0.5 or 1.0)
            np.dot(share, near, out=users[row])
            newest[row] = near[0]
        shares.append(share)
    return shares


def _tags(catalogue: Catalogue, recent: list[list[int]], steps: list[Floats], out: Floats) -> None:
    """Cosines over categories and tags, with the users' own sums and with their newest items."""
    terms = catalogue.terms()
    n, b, size, count = len(catalogue), len(recent), len(terms.scale), len(terms.rarity)
    if not len(terms.codes):
        return
    owner, place, weight = [], [], []
    for row, places in enumerate(recent):
        filed = [(at, step) for at, step in zip(places, steps[row].tolist(), strict=True) if at < size]
        if filed:
            owner += [row] * len(filed) + [b + row]
            place += [at for at, _ in filed] + [filed[0][0]]
            weight += [step for _, step in filed] + [1.0]
    if not owner:
        return
    places_ = np.array(place)
    lengths = terms.starts[places_ + 1] - terms.starts[places_]
    codes = terms.codes[_ranges(terms.starts[places_], lengths)]
    keys, back = np.unique(np.repeat(np.array(owner), lengths) * count + codes, return_inverse=True)
    sums = np.bincount(back, np.repeat(np.array(weight) * terms.scale[places_], lengths)) * terms.rarity[keys % count]
    owners, codes = np.divmod(keys, count)
    length = np.sqrt(np.bincount(owners, sums**2, 2 * b))
    strength = sums * terms.rarity[codes]  # what it adds to an item that has the term, but for the item's own length
    most = np.zeros(2 * b)
    np.maximum.at(most, owners, strength)
    kept = strength >= SMALL * most[owners]
    owners, codes, strength = owners[kept], codes[kept], strength[kept] / length[owners[kept]]
    lengths = terms.first[codes + 1] - terms.first[codes]
    items = terms.items[_ranges(terms.first[codes], lengths)]
    total = np.bincount(np.repeat(owners * n, lengths) + items, np.repeat(strength, lengths), 2 * b * n).reshape(2, b, n)
    np.multiply(total[0, :, :size], terms.scale, out=out[AT["tags"], :, :size], casting="same_kind")
    np.multiply(total[1, :, :size], terms.scale, out=out[AT["tags_last"], :, :size], casting="same_kind")


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of all ranges one after the other.

    >>> _ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def _creators(catalogue: Catalogue, recent: list[list[int]], steps: list[Floats], out: Floats) -> None:
    """Share of the creator among the user's items, and whether the newest is by the same."""
    if catalogue.creator_count == 1:
        return
    creators = catalogue.creators[: len(catalogue)]
    for row, places in enumerate(recent):
        if places:
            by_creator = np.bincount(creators[places], steps[row] / steps[row].sum(), catalogue.creator_count).astype(np.float32)
            by_creator[0] = 0.0
            out[AT["creator"], row] = by_creator[creators]
            if creators[places[0]]:
                out[AT["creator_last"], row] = creators == creators[places[0]]


def _dates(catalogue: Catalogue, recent: list[list[int]], steps: list[Floats], out: Floats) -> None:
    """How near the date of publication is to the middle of the user's items, and to the newest."""
    days = catalogue.days[: len(catalogue)]
    with_date = days != 0.0
    if not with_date.any():
        return
    for row, places in enumerate(recent):
        dates = days[places]
        dated = dates != 0.0
        if dated.any():
            middle = np.average(dates[dated], weights=steps[row][dated])
            out[AT["date"], row] = with_date / (1.0 + np.abs(days - np.float32(middle)) / 365.0)
            if dated[0]:
                out[AT["date_last"], row] = with_date / (1.0 + np.abs(days - dates[0]) / 90.0)
