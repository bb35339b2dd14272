"""All that a list is made from besides the user's row: catalogue, statistics, weights, rules, generation. Owned by one thread, no locks.

`rank` is the one way from a user's taste to a list: the worker calls it for batches of users, evaluation for one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.catalogue import Catalogue, Floats
from engine.errors import ArtefactError
from engine.features import Features, Shared, Taste, features_of, situations
from engine.generation import Generation
from engine.item import Decay
from engine.partition import item_key
from engine.ranker import Example, Ranker
from engine.reasons import Reason, reasons_of
from engine.records import Conditions
from engine.rules import Match, RuleSet, compile_rules, matches
from engine.stats import ItemStats
from engine.user import Position

NO_GENERATION = "none"
QUERY_WEIGHT = 12.0  # a cosine of .1 more outweighs what taste usually adds
SCORES_AT_ONCE = 262_144  # users x items in one product: 7 features of 1 MB each stay near the processor
NEGATIVES = 20  # of the strongest, and as many at random
STRONGEST = 100


@dataclass(frozen=True, slots=True)
class Ask:
    """One list to make. `candidates`: only these, and all of them (also seen ones); `query`: centred unit vector (D,) of a search;
    `reasons`: say why (half the cost of a long list).
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


@dataclass(frozen=True, slots=True)
class Ranked:
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


class Model:
    """Everything all workers read. Its methods must be called from one thread."""

    def __init__(self, dims: int = 0, decay: Decay | None = None, neighbours: int = 256) -> None:
        self.catalogue = Catalogue(dims)
        self.stats = ItemStats(self.catalogue, decay or Decay(), neighbours)
        self._shared = Shared(self.catalogue, self.stats)
        self.ranker = Ranker()
        self.generation = NO_GENERATION
        self._rules: RuleSet = compile_rules(())
        self._masks: dict[str, NDArray[np.bool_]] = {}  # rule id -> items it matches, until rules or catalogue change

    def use_generation(self, generation: Generation) -> None:
        """Switch encoder space: all vectors are those of this generation from the next list on.

        Raises:
            ArtefactError: a vector is not finite.
        """
        vectors = np.asarray(generation.vectors, np.float32)
        if not np.isfinite(vectors).all():
            raise ArtefactError("vectors_not_finite", generation.id, "finite vectors", "export the generation again")
        self.catalogue.clear_vectors(generation.manifest.dims)
        self.catalogue.put_vectors([item_key(i) for i in generation.item_ids], vectors)
        self.generation = generation.id

    def use_ranker(self, ranker: Ranker) -> None:
        """Take over published weights: those of this generation, or any while nothing was learned here."""
        if ranker.generation == self.generation or not self.ranker.version:
            self.ranker = ranker

    def use_rules(self, rules: RuleSet) -> None:
        """Take over all rules."""
        self._rules = rules
        self._masks.clear()

    def catalogue_changed(self) -> None:
        """Say that entries were added, changed or removed: what rules match is worked out anew."""
        self._masks.clear()

    def open_to(self, now: int) -> NDArray[np.bool_]:
        """(N,) what may be listed at `now`: in the catalogue, available, and released or used already."""
        n = len(self.catalogue)
        open_: NDArray[np.bool_] = self.catalogue.listable[:n] & ((self.catalogue.since[:n] <= now) | (self.stats.first_time[:n] > 0))
        return open_

    def rank(self, asks: Sequence[Ask]) -> list[Ranking]:
        """Make the lists, in the order asked for."""
        size = max(1, SCORES_AT_ONCE // max(1, len(self.catalogue)))
        return [ranking for start in range(0, len(asks), size) for ranking in self._rank(asks[start : start + size])]

    def score(self, tastes: Sequence[Taste]) -> tuple[Features, Floats, Floats]:
        """Features of all items, the users' weights (B, F), and scores (B, N) float32 before any rule."""
        features = features_of(self._shared, tastes)
        weights = self.ranker.weights()[situations(tastes)].astype(np.float32)
        scores = features.scores(weights)
        return features, weights, scores

    def open_for(self, taste: Taste) -> NDArray[np.bool_]:
        """(N,) what may be listed for this user: open, and not seen."""
        open_ = self.open_to(taste.now)
        open_[self.catalogue.places(taste.seen)] = False
        return open_

    def example(self, taste: Taste, item: int, position: Position) -> Example | None:
        """What the ranker can learn from this user taking the item with hash64 `item` now; None when it could not have been listed."""
        return next(iter(self.examples(taste, [item], [position])), None)

    def examples(self, taste: Taste, items: Sequence[int], positions: Sequence[Position]) -> list[Example]:
        """The same for items that the user took at once, with the `positions` of their events; those that were not open are left out."""
        index = self.catalogue.index
        open_ = self.open_for(taste)
        taken = [(index[item], position) for item, position in zip(items, positions, strict=True) if item in index and open_[index[item]]]
        if not taken:
            return []
        features, _, scores = self.score([taste])
        situation = int(situations([taste])[0])
        taken_at = [at for at, _ in taken]
        open_[taken_at] = False
        ranked = np.where(open_, scores[0], -np.inf)
        strongest = np.argpartition(-ranked, STRONGEST)[:STRONGEST] if len(ranked) > STRONGEST else np.arange(len(ranked))
        strongest = strongest[open_[strongest]]
        open_[strongest] = False
        others = np.flatnonzero(open_)
        made = []
        for at, position in taken:
            rng = np.random.default_rng(position.offset * 4_096 + position.partition)
            drawn = [(part, part[rng.integers(0, len(part), NEGATIVES)]) for part in (strongest, others) if len(part)]
            x = features.rows(0, np.concatenate([[at], *(rows for _, rows in drawn)]))
            stands_for = np.concatenate([[0.0], *(np.full(NEGATIVES, np.log(len(part) / NEGATIVES)) for part, _ in drawn)])
            packed = np.ascontiguousarray(np.column_stack([x, stands_for]), "<f4").tobytes()
            made.append(Example(*position, situation, packed))
        return made

    def _rank(self, asks: Sequence[Ask]) -> list[Ranking]:
        if not len(self.catalogue):
            return [Ranking((), self.generation, "the catalogue is empty") for _ in asks]
        features, weights, scores = self.score([ask.taste for ask in asks])
        open_ = self.open_to(max(ask.taste.now for ask in asks))
        out = []
        for row, ask in enumerate(asks):
            extra = None
            if ask.query is not None:
                extra = QUERY_WEIGHT * (self.catalogue.vectors[: len(self.catalogue)] @ ask.query)
                scores[row] += extra
            if ask.candidates is None:
                best, unknown = self._best(ask, scores[row], open_), list[str]()
            else:
                best, unknown = self._rerank(ask, ask.candidates, scores[row])
            chosen: Sequence[tuple[float, tuple[Reason, ...]]]
            if ask.reasons:
                chosen = reasons_of(self.catalogue, features, weights[row], row, best, extra)
            else:
                chosen = [(score, ()) for score in scores[row, best].tolist()]
            items = [Ranked(self.catalogue.item_id(at), score, reasons) for at, (score, reasons) in zip(best, chosen, strict=True)]
            items += _unknown(unknown, items)
            note = "" if items else "no usable candidate" if ask.candidates is not None else "nothing may be listed"
            out.append(Ranking(tuple(items), self.generation, note))
        return out

    def _best(self, ask: Ask, scores: Floats, open_: NDArray[np.bool_]) -> list[int]:
        """Indices of the best `k` of the catalogue, best first."""
        allowed = open_.copy()
        allowed[self.catalogue.places(ask.taste.seen)] = False
        self._restrict(ask, allowed)
        masked = np.where(allowed, scores, -np.inf)
        if ask.k < len(masked):
            cut = np.partition(masked, len(masked) - ask.k)[len(masked) - ask.k]
            places = np.flatnonzero((masked >= cut) & allowed)
        else:
            places = np.flatnonzero(allowed)
        return self._sorted(places, scores)[: ask.k]

    def _rerank(self, ask: Ask, candidates: Sequence[str], scores: Floats) -> tuple[list[int], list[str]]:
        """Indices of the candidates, best first, and those that the catalogue does not have."""
        catalogue = self.catalogue
        allowed = np.ones(len(catalogue), bool)
        self._restrict(ask, allowed)
        places, unknown = [], []
        for name in dict.fromkeys(candidates):
            at = catalogue.index.get(item_key(name))
            if at is None or catalogue.items[at] is None:
                if name not in ask.exclude:
                    unknown.append(name)
            elif allowed[at]:
                places.append(at)
        return self._sorted(np.array(places, np.intp), scores), unknown

    def _sorted(self, places: NDArray[np.intp], scores: Floats) -> list[int]:
        """Best first; equal scores by hash64, so that it does not matter in which order a worker met the items."""
        hashes = self.catalogue.hashes
        return [
            at for _, _, at in sorted((-score, hashes[at], at) for at, score in zip(places.tolist(), scores[places].tolist(), strict=True))
        ]

    def _restrict(self, ask: Ask, allowed: NDArray[np.bool_]) -> None:
        """Take out what rules, filters and exclusions forbid."""
        for rule in self._rules.active(ask.surface, dict(ask.attributes), ask.taste.now):
            if rule.action in ("block", "filter"):
                matched = self._matched(rule.rule_id, self._rules.match_of(rule.rule_id))
                allowed &= ~matched if rule.action == "block" else matched
        if ask.filters:
            allowed &= self._match(Match.of(ask.filters))
        if ask.exclude:
            allowed[self.catalogue.places(map(item_key, ask.exclude))] = False

    def _matched(self, rule_id: str, match: Match) -> NDArray[np.bool_]:
        known = self._masks.get(rule_id)
        if known is None or len(known) != len(self.catalogue):
            known = self._masks[rule_id] = self._match(match)
        return known

    def _match(self, match: Match) -> NDArray[np.bool_]:
        return np.fromiter((item is not None and matches(match, item) for item in self.catalogue.items), bool, len(self.catalogue))


def _unknown(names: Sequence[str], known: Sequence[Ranked]) -> list[Ranked]:
    """Candidates the catalogue does not have come last, below the worst known one."""
    below = min((one.score for one in known), default=0.0) - 1.0
    return [Ranked(name, below, (Reason("unknown_item", None, below),)) for name in names]
