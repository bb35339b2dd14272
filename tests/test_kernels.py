"""Compiled loops: they give what plain numpy gives, compile once, and lists of neighbours stay apart. Not what the features mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import diversity, hashtable, kernels, network, sharedfeatures
from engine.catalogue import DAY_MS, Catalogue
from engine.cosines import Cosines
from engine.features import PERSONAL, features_of
from engine.item import decode_item, encode_item
from engine.model import Ask
from engine.neighbours import NeighbourLists, Neighbours
from engine.partition import item_key
from engine.policy import Variety
from engine.records import Item, Rule
from engine.rules import compile_rules
from engine.sharedfeatures import Shared
from engine.user import Position
from tests.little_shop import DIMS, START, Shop

SHOP = Shop().live()


def test_rows_stand_where_their_names_say() -> None:
    """Rule: the numbers of the loops' rows are those of the features' names."""
    assert len(PERSONAL) == kernels.PERSONAL
    for name in PERSONAL:
        assert getattr(kernels, {"popularity_gap": "GAP"}.get(name, name.upper())) == PERSONAL.index(name)


@pytest.mark.parametrize("user", sorted(SHOP.users))
def test_co_visited_and_text_as_counted_the_plain_way(user: str) -> None:
    """Rule: sums over neighbours and cosines with a weighted sum of vectors, worked out with numpy from what the tables say."""
    model, taste = SHOP.model, SHOP.taste(user)
    stats, catalogue, found = model.stats, model.catalogue, features_of(Shared(model.catalogue, model.stats), taste)
    n, places = len(catalogue), catalogue.known(taste.recent).tolist()
    root = 1.0 / np.sqrt(stats.count[:n] + 5.0)
    names = (
        "together",
        "together_near",
        "lately",
        "session",
        "basket",
        "together_last",
        "after",
        "after_last",
        "together_most",
        "session_most",
        "chance",
    )
    sums, linked, session_linked = {name: np.zeros(n) for name in names}, np.zeros(n), np.zeros(n)
    for slot, at in enumerate(places):
        one = stats.neighbours.of(at)
        age = (taste.now - one.time) / DAY_MS
        slow, fast = root[at] * 2.0 ** (-age / stats.decay.pair_days), root[at] * 2.0 ** (-age / stats.decay.season_days)
        lasting, season, session, later = one.weights * root[one.others]
        sums["together"][one.others] += lasting * slow * 0.9**slot
        sums["together_near"][one.others] += lasting * slow * 0.7**slot
        sums["lately"][one.others] += season * fast * 0.9**slot
        sums["session"][one.others] += session * slow * 0.9**slot
        sums["basket"][one.others] += session * slow * (slot < taste.together)
        sums["after"][one.others] += later * slow * 0.9**slot
        sums["together_most"][one.others] = np.maximum(sums["together_most"][one.others], lasting * slow)
        sums["session_most"][one.others] = np.maximum(sums["session_most"][one.others], session * slow)
        chance = one.weights[2] * slow * root[at]
        sums["chance"][one.others] = np.maximum(sums["chance"][one.others], chance)
        linked[one.others] += 1
        session_linked[one.others] += session > 0
        if not slot:
            sums["together_last"][one.others] += lasting * slow
            sums["after_last"][one.others] += later * slow
    for name, total in sums.items():
        np.testing.assert_allclose(found.named(name), np.sqrt(total), rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(found.named("linked"), linked / kernels.MANY, rtol=1e-5)
    np.testing.assert_allclose(found.named("session_linked"), session_linked / kernels.MANY, rtol=1e-5)
    vectors = catalogue.space.vectors[:n].astype(np.float64)
    own = sum((0.9**slot * vectors[at] for slot, at in enumerate(places)), np.zeros(DIMS))
    np.testing.assert_allclose(found.named("text"), vectors @ (own / (np.linalg.norm(own) or 1.0)), rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_the_strongest_are_those_that_sorting_gives(items: list[tuple[int, bool]], most: int, seed: int) -> None:
    """Rule: the allowed items with the largest scores, equal ones by hash64, and no more than are wanted."""
    hashes = np.random.default_rng(seed).permutation(1 << 16)[: len(items)].astype(np.uint64)
    scores, allowed = np.array([score for score, _ in items], np.float32), np.array([free for _, free in items])
    out = np.zeros(len(items), np.int64)
    count = kernels.strongest(hashes, np.arange(len(items), dtype=np.int32), scores, allowed, most, out)
    best = sorted(np.flatnonzero(allowed).tolist(), key=lambda at: (-scores[at], int(hashes[at])))[:most]
    assert sorted(out[:count].tolist()) == sorted(best)


@pytest.mark.parametrize("user", sorted(SHOP.users))
def test_candidates_are_scored_as_in_the_whole_catalogue(user: str) -> None:
    """Rule: an item's score does not depend on which others are looked at."""
    taste = SHOP.taste(user)
    everything = SHOP.model.rank([Ask(taste, 200)])[0].items
    some = tuple(one.item_id for one in everything[::3])
    asked = SHOP.model.rank([Ask(taste, candidates=some)])[0].items
    whole = {one.item_id: one.score for one in everything}
    for one in asked:
        assert one.score == pytest.approx(whole[one.item_id], abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9_000)), max_size=60))
def test_lists_of_neighbours_stay_apart(puts: list[tuple[int, int]]) -> None:
    """Rule: however lists grow, shrink and move, each item has what was set last."""
    lists, expected = NeighbourLists(), dict[int, Neighbours]()
    lists.grow(10)
    for number, (at, count) in enumerate(puts):
        one = Neighbours(np.arange(count, dtype=np.int32) + number, np.full((4, count), float(number), np.float32), number)
        lists.put(at, one)
        expected[at] = one
    for at, one in expected.items():
        found = lists.of(at)
        assert found.time == one.time
        assert np.array_equal(found.others, one.others)
        assert np.array_equal(found.weights, one.weights)


def test_a_catalogue_too_large_for_rows_has_the_same_cosines() -> None:
    """Rule: with a budget for a few rows only, lists are those of a large one."""
    taste, small = SHOP.taste("u1"), Shared(SHOP.model.catalogue, SHOP.model.stats)
    small.cosines = Cosines(SHOP.model.catalogue.space, SHOP.model.catalogue, budget_bytes=4 * 200 * 3)
    for name in ("text", "text_last"):
        np.testing.assert_allclose(features_of(small, taste).named(name), SHOP.model.features(taste).named(name), rtol=1e-4, atol=1e-6)


def test_rows_of_cosines_follow_changed_vectors() -> None:
    """Rule: after any change of vectors each row is that of its item, and no two items share one."""
    rng, catalogue = np.random.default_rng(0), Catalogue(4)

    def change(n: int) -> None:
        vector = rng.normal(size=4).astype(np.float32)
        catalogue.put_vector(item_key(f"i{n}"), vector / np.linalg.norm(vector))

    for n in range(12):
        catalogue.put(Item(f"i{n}", "t"))
        change(n)
    cosines = Cosines(catalogue.space, catalogue)
    cosines.of(np.array([0, 3, 5]))
    for step in range(30):
        for n in rng.integers(12, size=2).tolist():
            change(n)
        places = rng.permutation(12)[:4]
        rows, slots = cosines.of(places)
        assert len(set(slots.tolist())) == len(places), step
        np.testing.assert_allclose(rows[slots, :12], catalogue.space.vectors[places] @ catalogue.space.vectors[:12].T, rtol=1e-5, atol=1e-6)


def test_nothing_is_compiled_twice() -> None:
    """Rule: whatever is asked, the loops see the same types: another compilation would stop all lists for ten seconds."""
    shop, query = Shop().live(), np.ones(DIMS, np.float32)
    shop.model.ranker.network.learned, shop.model.ranker.network.edge = network.ENOUGH, 1.0
    taste = shop.taste("u1")
    Shop(0).model.rank([Ask(taste), Ask(taste, reasons=False)])
    shop.model.rank([Ask(taste), Ask(shop.taste("nobody"), reasons=False), Ask(taste, candidates=("i1", "i2")), Ask(taste, query=query)])
    shop.model.rank([Ask(shop.taste("nobody"), reasons=False)])
    shop.event("u1", "i9", START + 400 * DAY_MS)
    shop.model.rank([Ask(shop.taste("nobody"), reasons=False)])
    shop.event("u1", "i10", START + 400 * DAY_MS)
    shop.model.rank([Ask(shop.taste("nobody"), reasons=False)])
    shop.model.features(taste)
    shop.model.example(taste, item_key("i8"), Position("events", 1, 0, 0))
    shop.model.use_rules(compile_rules([Rule("p", "pin", {"tags": "sea"}, rank=1), Rule("c", "cap", {"tags": "cave"}, max=1)]))
    for variety in (Variety(), Variety(1.0), Variety(0.5, 1, 1)):
        shop.model.variety = variety
        shop.model.rank([Ask(taste), Ask(taste, candidates=("i1", "i2"))])
    for row in shop.rows.values():
        read = decode_item(encode_item(row))
        assert read == row
        shop.model.stats.put_neighbours(shop.model.stats.publishable(1, shop.model.stats.choose(read.pairs, START)))
    compiled: list[Any] = [
        *(kernels.pick, kernels.choose, kernels.look_again, kernels.tell, network.forward),
        *(kernels.contrast, diversity.choose, kernels.personal, hashtable.look_up, hashtable.add, hashtable.spread),
        *(sharedfeatures.gather, sharedfeatures.weigh),
    ]
    assert [len(loop.signatures) for loop in compiled] == [1] * len(compiled)
    of_places_and_pairs: Any = hashtable.place_all
    assert len(of_places_and_pairs.signatures) == 2
