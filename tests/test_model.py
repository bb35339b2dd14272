"""Lists: rules hold, seen items stay out, the same in any batch, empty lists say why. Not their quality."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.features import NAMES, Taste
from engine.model import Ask, Model
from engine.partition import item_key
from engine.policy import Variety
from engine.ranker import Ranker, pack_ranker, unpack_ranker
from engine.records import Item, Rule
from engine.rules import compile_rules, matches
from engine.user import Position
from tests.little_shop import DAY, START, Shop

USERS = [f"u{n}" for n in range(11)]  # u10 is unknown
PLACE = Position("events", 1, 0, 5)

conditions: st.SearchStrategy[Any] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"tags": st.sampled_from(["cave", "sea", ("cave", "sea"), "none"])}),
    st.fixed_dictionaries({"item_ids": st.lists(st.integers(0, 30).map(lambda n: f"i{n}"), max_size=5).map(tuple)}),
)
rules = st.lists(
    st.builds(
        Rule,
        rule_id=st.integers(0, 9).map(lambda n: f"r{n}"),
        action=st.sampled_from(["block", "filter", "pin", "boost", "bury", "cap"]),
        match=conditions,
        rank=st.integers(0, 12),
        factor=st.sampled_from([0.2, 1.0, 3.0, 1e6]),
        max=st.integers(0, 3),
        surfaces=st.sampled_from([(), ("home",), ("search",)]),
        ends_at=st.sampled_from([None, START]),
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    rules,
    st.sampled_from(USERS),
    st.integers(1, 40),
    st.sampled_from(["home", "search"]),
    st.lists(st.integers(0, 30), max_size=4),
    st.sampled_from([Variety(), Variety(2.0), Variety(0.5, 1, 2)]),
)
def test_rules_and_exclusions_always_hold(found: list[Rule], user: str, k: int, surface: str, exclude: list[int], variety: Variety) -> None:
    """Rule: no list has an item that is blocked, filtered out, excluded, seen, unavailable or not yet released; each item stands once."""
    shop = Shop().live(60)
    compiled = compile_rules(found)
    shop.model.use_rules(compiled)
    shop.model.variety = variety
    taste = shop.taste(user)
    names = tuple(f"i{n}" for n in exclude)
    ranking = shop.model.rank([Ask(taste, k, surface, exclude=names)])[0]
    listed = [one.item_id for one in ranking.items]
    scores = [one.score for one in ranking.items]
    assert scores == sorted(scores, reverse=True)
    for one in ranking.items:
        assert math.isclose(sum(part.weight for part in one.reasons), one.score, rel_tol=1e-3, abs_tol=1e-3)
    active = compiled.active(surface, {}, taste.now)
    pinned = {part.rule_id for one in ranking.items for part in one.reasons if part.kind == "rule"}
    assert pinned <= {rule.rule_id for rule in active if rule.action in ("pin", "boost", "bury")}
    pins = [rule for rule in active if rule.action == "pin"]
    for rule in active:
        held = [name for name in listed if matches(compiled.match_of(rule.rule_id), entry(shop, name))]
        if rule.action == "cap" and rule.max is not None and not pins:
            assert len(held) <= rule.max
    if len(pins) == 1 and pins[0].rank is not None and pins[0].rank < len(listed):
        able = [
            item
            for at in np.flatnonzero(shop.model.open_for(taste)).tolist()
            if (item := shop.model.catalogue.items[at]) is not None
            and matches(compiled.match_of(pins[0].rule_id), item)
            and not compiled.blocked(item, surface, {}, taste.now)
            and item.item_id not in names
        ]
        if able:
            assert matches(compiled.match_of(pins[0].rule_id), entry(shop, listed[pins[0].rank]))
    assert len(set(listed)) == len(listed) <= k
    catalogue, stats = shop.model.catalogue, shop.model.stats
    for name in listed:
        at = catalogue.index[item_key(name)]
        item = catalogue.items[at]
        assert item is not None
        assert item.available
        assert not compiled.blocked(item, surface, {}, taste.now)
        assert name not in names
        assert item_key(name) not in taste.seen
        assert catalogue.since[at] <= taste.now or stats.first_time[at]
    assert ranking.note or listed


def entry(shop: Shop, name: str) -> Item:
    """A listed item's entry."""
    item = shop.model.catalogue.items[shop.model.catalogue.index[item_key(name)]]
    assert item is not None
    return item


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(USERS), min_size=1, max_size=6), st.integers(1, 12))
def test_a_list_does_not_depend_on_its_batch(users: list[str], k: int) -> None:
    """Rule: a list is a function of the user and of what all read; who else is asked for with it does not matter."""
    shop = Shop().live()
    now = START + 20 * DAY
    asks = [Ask(at_time(shop.taste(user), now), k) for user in users]
    for alone, ranking in zip((shop.model.rank([ask])[0] for ask in asks), shop.model.rank(asks), strict=True):
        assert alone == ranking


def at_time(taste: Taste, now: int) -> Taste:
    """The same taste at another time."""
    return Taste(taste.recent, taste.ids, taste.seen, now, taste.last_time, taste.events, taste.together)


def test_scores_fall_along_a_list_and_reasons_change_nothing() -> None:
    """Rule: a list is ordered by its score, with and without reasons."""
    shop = Shop().live()
    for user in USERS:
        with_reasons, without = shop.model.rank([Ask(shop.taste(user), 20), Ask(shop.taste(user), 20, reasons=False)])
        assert [one.item_id for one in with_reasons.items] == [one.item_id for one in without.items]
        scores = [one.score for one in without.items]
        assert scores == sorted(scores, reverse=True)


def test_given_candidates_are_ranked_all_and_only_they() -> None:
    """Rule: a rerank keeps every candidate once, seen or unknown ones too, and adds none; the unknown come last."""
    shop = Shop().live()
    ranking = shop.model.rank([Ask(shop.taste("u1"), candidates=("i3", "nobody", "i1", "i3", "i7"))])[0]
    assert {one.item_id for one in ranking.items} == {"i1", "i3", "i7", "nobody"}
    assert ranking.items[-1].item_id == "nobody"


def test_nothing_to_list_is_said() -> None:
    """Rule: an empty catalogue, or rules that leave nothing, give an empty list with a note, never an error."""
    taste = Taste((), (), (), START, 0, 0)
    assert Model().rank([Ask(taste)])[0].note == "the catalogue is empty"
    shop = Shop()
    shop.model.use_rules(compile_rules([Rule("r", "block", {})]))
    assert shop.model.rank([Ask(taste)])[0] == shop.model.rank([Ask(taste)])[0]
    assert (shop.model.rank([Ask(taste)])[0].items, shop.model.rank([Ask(taste)])[0].note) == ((), "nothing may be listed")
    assert shop.model.rank([Ask(taste, candidates=())])[0].note == "no usable candidate"


def test_examples_are_pure_and_have_the_item_taken_first() -> None:
    """Rule: the same event gives the same example bytes; the item taken is the first row and no negative; what was not open gives none."""
    shop = Shop().live()
    taste = shop.taste("u1")
    open_ = np.flatnonzero(shop.model.open_for(taste))
    key = shop.model.catalogue.hashes[int(open_[0])]
    one, other = shop.model.example(taste, key, PLACE), shop.model.example(taste, key, PLACE)
    assert one is not None
    assert one == other
    matrix = one.matrix()
    assert matrix.shape[1] == len(NAMES) + 1
    assert matrix[0, -1] == 0.0
    assert np.isfinite(matrix).all()
    stands_for = np.exp(matrix[1:, -1]).sum()
    assert stands_for == pytest.approx(len(open_) - 1, rel=1e-5), "the negatives stand for all other open items"
    assert shop.model.example(taste, taste.seen[0], PLACE) is None
    assert shop.model.example(taste, 12345, PLACE) is None


def test_learning_makes_the_item_taken_stand_higher() -> None:
    """Rule: after many examples in which the newest release was taken, new items stand higher for everyone."""
    shop = Shop(60).live(80)
    taste = shop.taste("u10")
    fresh = next(int(at) for at in np.flatnonzero(shop.model.open_for(taste)) if not shop.model.stats.first_time[at])
    name = shop.model.catalogue.item_id(fresh)

    def rank() -> int:
        return [one.item_id for one in shop.model.rank([Ask(taste, 60)])[0].items].index(name)

    before = rank()
    for n in range(50):
        example = shop.model.example(taste, shop.model.catalogue.hashes[fresh], Position("events", 1, 0, n))
        assert example is not None
        shop.model.ranker.learn(example)
    assert rank() < before


def test_weights_are_taken_over_again_and_again() -> None:
    """Rule: examples name the generation of their features, so weights learned from them are taken over each time, not only the first."""
    shop = Shop(60).live(80)
    model = shop.model
    model.generation = "g-1"
    taste = shop.taste("u10")
    learner = Ranker()
    for n in range(3):
        example = model.example(taste, model.catalogue.hashes[int(np.flatnonzero(model.open_for(taste))[n])], PLACE)
        assert example is not None
        assert example.generation == "g-1"
        learner.generation = example.generation
        learner.learn(example)
        model.use_ranker(unpack_ranker(pack_ranker(learner, {}))[0])
        assert model.ranker.version == n + 1


def test_a_removed_item_is_an_unknown_candidate() -> None:
    """Rule: what is no longer in the catalogue is ranked last, as what never was."""
    shop = Shop().live()
    shop.model.catalogue.remove("i3")
    shop.model.catalogue_changed()
    found = shop.model.rank([Ask(shop.taste("u1"), candidates=("i3", "i2"))])[0].items
    assert [(one.item_id, one.reasons[0].kind == "unknown_item") for one in found] == [("i2", False), ("i3", True)]
