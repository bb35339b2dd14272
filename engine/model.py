"""All that a list is made from besides the user's row: catalogue, statistics, weights, rules, generation.

`rank` is the one way from a user's taste to a list: the worker calls it for batches of users, evaluation for one at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, compress, repeat
from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine import calibration, kernels
from engine.candidates import Candidates, Query
from engine.catalogue import Catalogue
from engine.cosines import Cosines
from engine.diversity import NO_MASKS, Kinds
from engine.features import (
    Features,
    Taste,
    contexts,
    features_of,
    recent_of,
    situations,
    starts_of,
    tastes_of,
)
from engine.generation import Generation
from engine.leaders import Places, distinct, largest
from engine.network import ENOUGH
from engine.pairs import Decay
from engine.partition import item_key
from engine.policy import NO_ORDERS, Orders, Placed, Variety, orders_of
from engine.ranker import Example, Ranker
from engine.reasons import Reason, lists_for, reasons_of
from engine.records import Conditions, Item
from engine.rules import Match, RuleSet, compile_rules, matches
from engine.search import Search
from engine.sharedfeatures import MINUTE_MS, SHARED, Shared
from engine.space import Floats, Space
from engine.stats import ItemStats
from engine.steering import STEERS, Steering, with_parts
from engine.subset import world_of
from engine.textindex import TextIndex
from engine.user import Position
from engine.work import CANDIDATES, Work

NO_GENERATION = "none"
NEGATIVES = 20  # of the strongest, and as many at random
STRONGEST = 100
WHOLE = 10_000
"""Items up to which a list looks at all of them; in larger catalogues at candidates (`engine.candidates`)."""
DRAWN = 256
"""Items of a large catalogue that are drawn to find others that may be listed."""
MOST_ORDERS = 64
"""Sets of rules in force whose orders are remembered: rules for some users alone make many."""
HEARD = 64
"""Items beyond these that are asked what the networks add to items as they mostly are."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One list to make. `candidates`: only these, and all of them (also seen ones); `text`: a search, `query`: its centred unit vector (D,)
    where it was encoded; `reasons`: say why.
    """

    taste: Taste
    k: int = 10
    surface: str = "home"
    attributes: tuple[tuple[str, object], ...] = ()
    candidates: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    filters: Conditions | None = None
    query: Floats | None = None
    reasons: bool = True
    text: str = ""

    @property
    def searches(self) -> bool:
        """Whether the list is to answer a search."""
        return bool(self.text) or self.query is not None


class Ranked(msgspec.Struct, frozen=True, gc=False):
    """One place of a list; the reasons' weights add up to the score."""

    item_id: str
    score: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A list as made, best first; `note` says why it is empty or a fallback, "" otherwise."""

    items: tuple[Ranked, ...]
    generation: str
    note: str = ""


@dataclass(slots=True)
class Draft:
    """Lists under way: what was asked for, candidates that the catalogue does not have, the lists' arrays (None: an empty catalogue), the
    ids of each user's recent items, what the compiled loops work from, and, once filled in, the lists that were steered; `items` (U,): the
    catalogue indices of the items that they know, None where these are all.
    """

    asks: Sequence[Ask]
    unknown: Sequence[Sequence[str]]
    lists: kernels.Lists | None
    names: Sequence[Sequence[str]]
    work: Work | None
    items: Places | None = None
    steered: Mapping[int, list[Placed]] = field(default_factory=dict)

    def fill(self) -> None:
        """Work the lists out; in any thread, while nothing changes the model."""
        if self.work is not None and self.lists is not None:
            self.steered = self.work.fill(self.lists)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A generation ready to be switched to: its space with the cosines of its items; `ranker`: the weights it begins with, None to go on
    with those in use.
    """

    generation: str
    space: Space
    cosines: Cosines
    ranker: Ranker | None
    text: TextIndex | None = None


class Model:
    """Everything all workers read. One thread at a time may be in its methods. `whole`: see WHOLE."""

    def __init__(self, dims: int = 0, decay: Decay | None = None, neighbours: int = 256, whole: int = WHOLE) -> None:
        self.whole = whole
        self.catalogue = Catalogue(dims)
        self.stats = ItemStats(self.catalogue, decay or Decay(), neighbours)
        self._shared = Shared(self.catalogue, self.stats)
        self.candidates = Candidates(self.catalogue, self.stats)
        self.search = Search(self.catalogue)
        self.ranker = Ranker()
        self.generation = NO_GENERATION
        self._rules: RuleSet = compile_rules(())
        self._masks: dict[str, NDArray[np.bool_]] = {}  # rule id -> items it matches, until rules or catalogue change
        self._orders: dict[tuple[str, ...], Orders] = {}  # ids of rules in force -> what they ask for, as long
        self.variety = Variety()
        """How different the items of a list are to be, searches excepted."""
        self.fatigue = 0.0
        """How much it counts against an item that it was shown in vain, searches excepted: times `Taste.weary`."""

    def use(self, prepared: Prepared) -> None:
        """Switch generation: vectors and weights are those of this one from the next list on. A moment's work in any catalogue."""
        prepared.space.grow(self.catalogue.capacity)
        self.catalogue.space = prepared.space
        self._shared.cosines = prepared.cosines
        self.candidates.use(prepared.text)
        self.generation = prepared.generation
        if prepared.ranker is not None:
            self.ranker = prepared.ranker

    def use_ranker(self, ranker: Ranker) -> None:
        """Take over published weights, if they are those of this generation."""
        if ranker.generation == self.generation:
            self.ranker = ranker

    def use_rules(self, rules: RuleSet) -> None:
        """Take over all rules."""
        self._rules = rules
        self._forget()

    def catalogue_changed(self) -> None:
        """Say that entries were added, changed or removed: what rules match is worked out anew, and the search learns of them."""
        self._forget()
        self.search.catch_up()

    def open_to(self, now: int) -> NDArray[np.bool_]:
        """(N,) what may be listed at `now`: in the catalogue, available, and released or used already."""
        n = len(self.catalogue)
        open_: NDArray[np.bool_] = self.catalogue.listable[:n] & ((self.catalogue.since[:n] <= now) | (self.stats.first_time[:n] > 0))
        return open_

    def rank(self, asks: Sequence[Ask]) -> list[Ranking]:
        """Make the lists, in the order asked for."""
        out: list[Ranking] = []
        for draft in self.drafts(asks):
            draft.fill()
            out += self.rankings(draft)
        return out

    def drafts(self, asks: Sequence[Ask]) -> Iterator[Draft]:
        """What has to be worked out for some lists, in pieces whose rows of cosines fit into memory together.

        `Draft.fill` may run in another thread while the model stays as it is; `rankings` then gives the lists.
        """
        if len(self.catalogue) > self.whole:
            yield from map(self._draft_of_candidates, asks)
            return
        size = self._shared.cosines.users_at_once()
        for start in range(0, len(asks), size):
            yield self._draft(asks[start : start + size])

    def features(self, taste: Taste) -> Features:
        """Features of all items for a user."""
        return features_of(self._shared, taste)

    def open_for(self, taste: Taste) -> NDArray[np.bool_]:
        """(N,) what may be listed for this user: open, and not seen."""
        open_ = self.open_to(taste.now)
        open_[self.catalogue.known(taste.seen)] = False
        return open_

    def example(self, taste: Taste, item: int, position: Position) -> Example | None:
        """What the ranker can learn from this user taking the item with hash64 `item` now; None when it could not have been listed."""
        return next(iter(self.examples(taste, [item], [position])), None)

    def examples(self, taste: Taste, items: Sequence[int], positions: Sequence[Position]) -> list[Example]:
        """The same for items that the user took at once, with the `positions` of their events; those that were not open are left out."""
        return self.examples_of([(taste, items, positions)])[0]

    def examples_of(self, lessons: Sequence[tuple[Taste, Sequence[int], Sequence[Position]]]) -> list[list[Example]]:
        """The same for several users; those of one minute are worked out together, and come out as they would alone."""
        if len(self.catalogue) > self.whole:
            return [self._examples_of_candidates(*lesson) for lesson in lessons]
        made: list[list[Example]] = [[] for _ in lessons]
        minutes = [taste.now // MINUTE_MS for taste, _, _ in lessons]
        for minute in dict.fromkeys(minutes) if len(self.catalogue) else ():
            which = [n for n, own in enumerate(minutes) if own == minute]
            for n, found in zip(which, self._examples_at(minute, [lessons[n] for n in which]), strict=True):
                made[n] = found
        return made

    def _examples_at(self, minute: int, lessons: Sequence[tuple[Taste, Sequence[int], Sequence[Position]]]) -> list[list[Example]]:
        """Examples of one minute: what may be listed by its end could have been."""
        index, newest = self.catalogue.index, (minute + 1) * MINUTE_MS - 1
        open_, seen = self.open_to(newest), [taste.seen for taste, _, _ in lessons]
        taken = [
            [
                (at, one)
                for item, one in zip(items, places, strict=True)
                if (at := index.get(item, -1)) >= 0 and open_[at] and item not in own
            ]
            for (_, items, places), own in zip(lessons, seen, strict=True)
        ]
        flat = [one for some in taken for one in some]
        common = self._shared.at(newest)
        batch, near, _ = tastes_of(common, [taste for taste, _, _ in lessons])
        weights, base = (every[batch.situation] for every in common.weighted(self.ranker))
        told = kernels.Lessons(
            open_,
            starts_of(map(len, seen)),
            self.catalogue.places.of(np.array([key for own in seen for key in own], np.uint64)),
            starts_of(map(len, taken)),
            np.array([at for at, _ in flat], np.int64),
            np.array([(one.offset * 4_096 + one.partition) * 4 * NEGATIVES for _, one in flat], np.int64),
            STRONGEST,
            NEGATIVES,
        )
        rows, out = np.empty(len(flat), np.int64), np.empty((len(flat), 1 + 2 * NEGATIVES, weights.shape[1] + 1), np.float32)
        kernels.contrast(common.world(near), batch, told, weights, base, rows, out)
        made, number = list[list[Example]](), 0
        for b, some in enumerate(taken):
            known = (int(batch.situation[b]), tuple(batch.context[b].tolist()))
            own = [(at, one, out[number + n, : rows[number + n]].tobytes()) for n, (at, one) in enumerate(some)]
            number += len(some)
            made.append([Example(*one, known[0], packed, self.generation, known[1]) for _, one, packed in own])
            if own and own[0][1].offset % calibration.EVERY == 0:
                made[b][0] = self._with_list(made[b][0], lessons[b][0], [at for at, *_ in own])
        return made

    def shares(self, taste: Taste, also: Sequence[int] = ()) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """What the scores say of what the user takes next, whatever rules say: the CANDIDATES strongest of what may be listed, and those of
        `also` (indices) that may, best first, as (n,) catalogue indices, and (n,) logarithms of their shares of a softmax over all that
        may be.
        """
        open_ = np.flatnonzero(self.open_for(taste))
        features = self.features(taste)
        situation, context = int(situations([taste])[0]), tuple(contexts([taste])[0].tolist())
        linear = features.scores(self.ranker.weights()[situation].astype(np.float32))[open_]
        order = np.argpartition(-linear, CANDIDATES) if len(linear) > CANDIDATES else np.arange(len(linear))
        pool = np.union1d(order[:CANDIDATES], np.flatnonzero(np.isin(open_, np.array(also, np.int64))))
        rest = np.setdiff1d(order, pool, assume_unique=True)
        heard = rest[:: max(1, len(rest) // HEARD)]
        added = self.ranker.network.added(features.rows(open_[np.concatenate([pool, heard])]), context, situation)
        scores = linear[pool] + added[: len(pool)]
        logs = calibration.log_shares(scores, linear[rest], linear[heard], added[len(pool) :])
        best = np.argsort(-logs, kind="stable")
        return open_[pool[best]], logs[best]

    def _with_list(self, example: Example, taste: Taste, taken: Sequence[int]) -> Example:
        """An example that also says what would have been listed, and which of that was taken."""
        items, logs = self.shares(taste)
        first = items[: calibration.LISTED].tolist()
        places = tuple(first.index(at) for at in taken if at in first)
        return msgspec.structs.replace(example, listed=tuple(logs[: len(first)].tolist()), taken=places)

    def _examples_of_candidates(self, taste: Taste, items: Sequence[int], positions: Sequence[Position]) -> list[Example]:
        """`examples` in a large catalogue: the strongest are those of the candidates, the others are drawn from the whole catalogue."""
        catalogue, candidates = self.catalogue, self.candidates
        hidden, recent = catalogue.known(taste.seen), recent_of(catalogue, taste)[0]
        pairs = [(catalogue.index[item], position) for item, position in zip(items, positions, strict=True) if item in catalogue.index]
        places = np.array([at for at, _ in pairs], np.int64)
        may = candidates.open_at(places, taste.now) & ~np.isin(places, hidden)
        taken = list(compress(pairs, may.tolist()))
        if not taken:
            return []
        mine = places[may]
        pool, usable = candidates.of(recent, taste.now, 0, hidden, lambda _: None)
        pool = pool[usable & ~np.isin(pool, mine)]
        drawn, others = self._drawn(taken, taste.now, np.concatenate([hidden, mine]))
        looked_at = distinct([pool, mine, recent, *drawn])
        features = self._features_at(taste, looked_at, recent)
        situation, context = int(situations([taste])[0]), tuple(contexts([taste])[0].tolist())
        scores = features.scores(self.ranker.weights()[situation].astype(np.float32))[np.searchsorted(looked_at, pool)]
        strongest = largest(pool, scores, catalogue.hashes, STRONGEST)
        made = []
        for (at, position), found in zip(taken, drawn, strict=True):
            rng = np.random.default_rng(position.offset * 4_096 + position.partition)
            some = found[~np.isin(found, strongest)][:NEGATIVES]
            parts = [(strongest[rng.integers(0, len(strongest), NEGATIVES)], len(strongest))] if len(strongest) else []
            parts += [(some, others - len(strongest))] if len(some) else []
            x = features.rows(np.searchsorted(looked_at, np.concatenate([[at], *(part for part, _ in parts)])))
            stands_for = np.concatenate([[0.0], *(np.full(len(part), np.log(max(1, size) / len(part))) for part, size in parts)])
            packed = np.ascontiguousarray(np.column_stack([x, stands_for]), "<f4").tobytes()
            made.append(Example(*position, situation, packed, self.generation, context))
        return made

    def _drawn(self, taken: Sequence[tuple[int, Position]], now: int, closed: Places) -> tuple[list[Places], int]:
        """For each item taken some others at random that may be listed, twice NEGATIVES of them where many may; and about how many may."""
        drawn, tried, found = [], 0, 0
        for _, position in taken:
            rng = np.random.default_rng((position.offset, position.partition))
            some = rng.integers(0, len(self.catalogue), DRAWN)
            some = some[self.candidates.open_at(some, now) & ~np.isin(some, closed)]
            tried, found = tried + DRAWN, found + len(some)
            drawn.append(some[: 2 * NEGATIVES])
        return drawn, len(self.catalogue) * found // tried

    def _features_at(self, taste: Taste, items: Places, recent: Places) -> Features:
        """Features of some items (U,), ascending, with the user's `recent` ones among them."""
        world = world_of(self.catalogue, self.stats, items, recent, taste.now, self.candidates.retrieval.scratch)
        every, own = np.arange(len(items), dtype=np.int32), np.empty((kernels.PERSONAL, len(items)), np.float32)
        together = recent_of(self.catalogue, taste)[2]
        kernels.personal(world, np.searchsorted(items, recent), np.arange(len(recent)), taste.now, together, every, every, own)
        return Features(world.shared, own, world.cold)

    def _draft(self, asks: Sequence[Ask]) -> Draft:
        n = len(self.catalogue)
        candidates = [([], []) if ask.candidates is None else self._candidates(ask, ask.candidates) for ask in asks]
        unknown = [names for _, names in candidates]
        if not n:
            return Draft(asks, unknown, None, [], None)
        common = self._shared.at(max(ask.taste.now for ask in asks))
        tastes, near, names = tastes_of(common, [ask.taste for ask in asks])
        extras = [self.search.row(ask.text, ask.query, known=bool(ask.taste.recent)) for ask in asks if ask.searches]
        masks, mask_of = self._masks_for(asks)
        hidden, hidden_start = array("Q"), [0]
        for ask in asks:
            if ask.candidates is None:
                hidden.extend(ask.taste.seen)
                hidden.extend(map(item_key, ask.exclude))
            hidden_start.append(len(hidden))
        steering = self._steering(asks)
        queried = accumulate(int(ask.searches) for ask in asks)
        wanted = kernels.Asks(
            np.array([ask.k for ask in asks], np.int64),
            np.array(mask_of, np.int64),
            masks,
            np.array(hidden_start, np.int64),
            self.catalogue.places.of(np.array(hidden, np.uint64)),
            np.array([ask.candidates is not None for ask in asks]),
            starts_of(len(places) for places, _ in candidates),
            np.array([at for places, _ in candidates for at in places], np.int64),
            np.array([count - 1 if ask.searches else -1 for ask, count in zip(asks, queried, strict=True)], np.int64),
            np.array(extras, np.float32).reshape(-1, n),
            np.array([ask.reasons for ask in asks]),
            *steering.arrays(n),
            *self._weary(asks),
        )
        most = max(min(ask.k, n) if ask.candidates is None else len(places) for ask, (places, _) in zip(asks, candidates, strict=True))
        lists = lists_for(len(asks), most, told=any(ask.reasons for ask in asks))
        weights, base = common.weighted(self.ranker)
        network = self.ranker.network
        net = network.net if network.trusted else None
        return Draft(asks, unknown, lists, names, Work(common.world(near), tastes, wanted, weights, base, net, most, steering))

    def _draft_of_candidates(self, ask: Ask) -> Draft:
        """A draft of one list in a large catalogue: nothing in it is as long as the catalogue but, in a search, how words fit."""
        catalogue, taste, given = self.catalogue, ask.taste, ask.candidates is not None
        recent, names, together = recent_of(catalogue, taste)
        query = Query(self.search.fit(ask.text), ask.query) if ask.searches else None
        places, unknown = ([], []) if ask.candidates is None else self._candidates(ask, ask.candidates)
        hidden = np.zeros(0, np.int64) if given else catalogue.known([*taste.seen, *map(item_key, ask.exclude)])
        if given:
            items = distinct([np.array(places, np.int64), recent])
            may = np.ones(len(items), np.bool_)
        else:
            found = partial(self._allowed, ask)
            items, may = self.candidates.of(recent, taste.now, ask.k, hidden, found, self._filters(ask), query, self._fetched(ask))
        steering = self._steering([ask], items)
        row = None if query is None else self.search.told(query.fit, query.vector, known=bool(taste.recent), items=items)
        wanted = kernels.Asks(
            np.array([ask.k], np.int64),
            np.zeros(1, np.int64),
            may[None],
            np.zeros(2, np.int64),
            np.zeros(0, np.int64),
            np.array([given]),
            starts_of([len(places)]),
            np.searchsorted(items, np.array(places, np.int64)),
            np.array([-1 if row is None else 0], np.int64),
            np.zeros((0, len(items)), np.float32) if row is None else row[None],
            np.array([ask.reasons]),
            *steering.arrays(len(items)),
            *self._weary([ask], items),
        )
        world = world_of(catalogue, self.stats, items, recent, taste.now, self.candidates.retrieval.scratch)
        slots = np.arange(len(recent))
        tastes = kernels.Tastes(
            starts_of([len(recent)]),
            np.searchsorted(items, recent),
            slots,
            np.array([taste.now], np.int64),
            np.array([together], np.int64),
            situations([taste]),
            contexts([taste]),
        )
        most = len(places) if given else min(ask.k, len(items))
        weights = self.ranker.weights().astype(np.float32)
        net = self.ranker.network.net if self.ranker.network.trusted else None
        work = Work(world, tastes, wanted, weights, weights[:, : len(SHARED)] @ world.shared, net, most, steering)
        return Draft([ask], [unknown], lists_for(1, most, told=ask.reasons), [names], work, items)

    def rankings(self, draft: Draft) -> list[Ranking]:
        """The lists of a draft that has been filled in."""
        if draft.lists is None:
            found: Iterable[list[Ranked]] = ([] for _ in draft.asks)
        else:
            found = self._found(draft.lists, draft)
        return [self._ranking(ask, items, unknown) for ask, items, unknown in zip(draft.asks, found, draft.unknown, strict=True)]

    def _found(self, lists: kernels.Lists, draft: Draft) -> Iterator[list[Ranked]]:
        """The lists that the loops have filled in."""
        listed = lists.best if draft.items is None else draft.items[lists.best]
        items, rows = self.catalogue.items, zip(lists.count.tolist(), listed.tolist(), lists.score.tolist(), strict=True)
        told = reasons_of(lists, draft.names) if any(ask.reasons for ask in draft.asks) else repeat([])
        for b, ((count, best, score), ask, reasons) in enumerate(zip(rows, draft.asks, told, strict=False)):
            ids = [cast("Item", items[at]).item_id for at in best[:count]]
            if b in draft.steered:
                yield steered(ids, draft.steered[b], reasons, dict(zip(lists.best[b].tolist(), ids, strict=False)), told=ask.reasons)
            else:
                yield list(map(Ranked, ids, score, reasons if ask.reasons else repeat(())))

    def _ranking(self, ask: Ask, found: list[Ranked], unknown: Sequence[str]) -> Ranking:
        items = found + _unknown(unknown, found) if unknown else found
        note = ""
        if not len(self.catalogue):
            note = "the catalogue is empty"
        elif not items:
            note = "no usable candidate" if ask.candidates is not None else "nothing may be listed"
        return Ranking(tuple(items), self.generation, note)

    def _candidates(self, ask: Ask, names: Sequence[str]) -> tuple[list[int], list[str]]:
        """Indices of the candidates that may be listed, and those that the catalogue does not have."""
        catalogue, large = self.catalogue, len(self.catalogue) > self.whole
        allowed = None if large else self._allowed(ask)
        excluded, places, unknown = set(ask.exclude), list[int](), list[str]()
        for name in dict.fromkeys(names):
            at = catalogue.index.get(item_key(name))
            if name in excluded:
                continue
            if at is None or catalogue.items[at] is None:
                unknown.append(name)
            elif allowed is None or allowed[at]:
                places.append(at)
        left = self._allowed(ask, np.array(places, np.int64)) if large else None
        return places if left is None else list(compress(places, left.tolist())), unknown

    def _masks_for(self, asks: Sequence[Ask]) -> tuple[NDArray[np.bool_], list[int]]:
        """What may be listed, (masks, N), and which of the masks is each ask's: most share the first, of what is open."""
        masks, of = [self.open_to(max(ask.taste.now for ask in asks))], []
        for ask in asks:
            allowed = self._allowed(ask) if ask.candidates is None else None
            if allowed is None:
                of.append(0)
            else:
                of.append(len(masks))
                masks.append(masks[0] & allowed)
        return np.array(masks), of

    def _allowed(self, ask: Ask, items: Places | None = None) -> NDArray[np.bool_] | None:
        """(N,) what rules and filters leave, or (n,) of some `items` alone; None where there are none."""
        allowed: NDArray[np.bool_] | None = None
        for rule in self._rules.active(ask.surface, dict(ask.attributes), ask.taste.now):
            if rule.action in ("block", "filter"):
                match = self._rules.match_of(rule.rule_id)
                matched = self._matched(rule.rule_id, match) if items is None else self._match(match, items)
                left = ~matched if rule.action == "block" else matched
                allowed = left if allowed is None else allowed & left
        if ask.filters:
            left = self._match(Match.of(ask.filters), items)
            allowed = left if allowed is None else allowed & left
        return allowed

    def _weary(self, asks: Sequence[Ask], items: Places | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """For `kernels.Asks`: what users are weary of; of some `items` by their places among them."""
        found = [ask.taste.weary if self.fatigue and not ask.searches else () for ask in asks]
        every = [one for some in found for one in some]
        places = self.catalogue.places.of(np.array([key for key, _ in every], np.uint64))
        if items is not None:
            among = np.searchsorted(items, places)
            places = np.where(np.isin(places, items), among, -1)
        return starts_of(map(len, found)), places, np.array([self.fatigue * much for _, much in every], np.float32)

    def _steering(self, asks: Sequence[Ask], items: Places | None = None) -> Steering:
        """What rules and variety ask of some lists; of some `items` by their places among them."""
        orders = [self._orders_for(ask, items) for ask in asks]
        variety = [self._variety_of(ask) for ask in asks]
        wanted = any(one != Variety() for one in variety) or not all(one.none for one in orders)
        return Steering(orders, variety, self._kinds(items) if wanted else None)

    def _variety_of(self, ask: Ask) -> Variety:
        """Given candidates are ranked all, whatever they have in common; a search is answered by what fits."""
        if ask.searches:
            return Variety()
        return self.variety if ask.candidates is None else Variety(self.variety.strength)

    def _orders_for(self, ask: Ask, items: Places | None) -> Orders:
        rules = [rule for rule in self._rules.active(ask.surface, dict(ask.attributes), ask.taste.now) if rule.action in STEERS]
        if not rules:
            return NO_ORDERS
        if items is not None:
            return orders_of(rules, lambda name: self._match(self._rules.match_of(name), items), len(items))
        key = tuple(rule.rule_id for rule in rules)
        known, n = self._orders.get(key), len(self.catalogue)
        if known is None or known.masks.shape[1] != n:
            if len(self._orders) >= MOST_ORDERS:
                self._orders.clear()
            known = self._orders[key] = orders_of(rules, lambda name: self._matched(name, self._rules.match_of(name)), n)
        return known

    def _kinds(self, items: Places | None) -> Kinds:
        """What items have in common; of some `items` by their places among them."""
        catalogue, n, none = self.catalogue, len(self.catalogue), np.zeros(0, np.int64)
        if items is not None:
            own = [catalogue.categories.of(at) for at in items.tolist()]
            codes = np.array([code for some in own for code in some], np.int32)
            return Kinds(catalogue.space.vectors[items], catalogue.creators[items], 0, starts_of(map(len, own)), codes, 0, NO_MASKS, none)
        terms = catalogue.categories.terms()
        starts = np.concatenate([terms.starts, np.full(n + 1 - len(terms.starts), terms.starts[-1])])
        return Kinds(catalogue.space.vectors[:n], catalogue.creators[:n], 0, starts, terms.codes, 0, NO_MASKS, none)

    def _forget(self) -> None:
        self._masks.clear()
        self._orders.clear()

    def _fetched(self, ask: Ask) -> list[Match]:
        """What rules pin or boost."""
        rules = self._rules.active(ask.surface, dict(ask.attributes), ask.taste.now)
        return [self._rules.match_of(rule.rule_id) for rule in rules if rule.action in ("pin", "boost")]

    def _filters(self, ask: Ask) -> list[Match]:
        """What items must all match."""
        rules = self._rules.active(ask.surface, dict(ask.attributes), ask.taste.now)
        found = [self._rules.match_of(rule.rule_id) for rule in rules if rule.action == "filter"]
        return [*found, Match.of(ask.filters)] if ask.filters else found

    def _matched(self, rule_id: str, match: Match) -> NDArray[np.bool_]:
        known = self._masks.get(rule_id)
        if known is None or len(known) != len(self.catalogue):
            known = self._masks[rule_id] = self._match(match)
        return known

    def _match(self, match: Match, items: Places | None = None) -> NDArray[np.bool_]:
        entries = self.catalogue.items if items is None else [self.catalogue.items[at] for at in items.tolist()]
        return np.fromiter((item is not None and matches(match, item) for item in entries), bool, len(entries))


def steered(
    ids: Sequence[str], placed: Sequence[Placed], reasons: Sequence[Sequence[Reason]], name_of: Mapping[int, str], *, told: bool
) -> list[Ranked]:
    """A list that rules or variety have arranged; `reasons`: of the scores before that."""
    whole = (with_parts(own, one, name_of) for own, one in zip(reasons, placed, strict=True)) if told else repeat(())
    return [Ranked(item, one.score, parts) for item, one, parts in zip(ids, placed, whole, strict=False)]


def prepare(
    generation: Generation, places: NDArray[np.int64], catalogue: Catalogue, live: Mapping[int, Floats], ranker: Ranker | None
) -> Prepared:
    """Make a generation ready to be switched to, in any thread: the catalogue is only asked for its size.

    Args:
        generation: the generation, proven.
        places: catalogue indices of its items, (N,).
        catalogue: the catalogue as it stands.
        live: catalogue index -> (D,) vector of this generation, made after it was.
        ranker: the weights to begin with.

    Raises:
        ArtefactError: a vector is not finite.
    """
    space = Space.of(generation.id, generation.vectors, places, catalogue.capacity)
    if live:
        space.put_many(list(live), np.array(list(live.values())))
    cosines = Cosines(space, catalogue)
    if len(catalogue) > WHOLE:
        return Prepared(generation.id, space, cosines, ranker, TextIndex(space, catalogue.hashes.copy()))
    cosines.prepare(min(len(catalogue), len(space.vectors)))
    return Prepared(generation.id, space, cosines, ranker)


def warm_up() -> None:
    """Compile the loops that lists are made in, some 20 s the first time on a machine and half a second from then on."""
    model = Model()
    model.catalogue.put(Item("any", "any"))
    taste = Taste((), (), (), 0, 0, 0)
    example = model.example(taste, item_key("any"), Position("any", 0, 0, 0))
    if example is not None:
        model.ranker.learn(example)
    model.ranker.network.learned, model.ranker.network.edge = ENOUGH, 1.0
    model.rank([Ask(taste, text="any")])
    model.features(Taste((), (), (), 0, 0, 0))
    model.variety = Variety(1.0)
    model.rank([Ask(taste)])
    model.whole = 0
    model.rank([Ask(Taste((item_key("any"),), ("any",), (), 0, 0, 1))])


def _unknown(names: Sequence[str], known: Sequence[Ranked]) -> list[Ranked]:
    """Candidates the catalogue does not have come last, below the worst known one."""
    below = min((one.score for one in known), default=0.0) - 1.0
    return [Ranked(name, below, (Reason("unknown_item", None, below),)) for name in names]
