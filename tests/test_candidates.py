"""Lists in large catalogues: those of the whole where all are candidates, the same in every process, and only of what may be listed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulated import NOW, Simulated, simulated
from engine import kernels, retrieval, subset
from engine.catalogue import by_term
from engine.features import NAMES, Taste
from engine.model import Ask, Model, Ranking
from engine.partition import item_key
from engine.records import Conditions, Item, Rule
from engine.retrieval import Depths
from engine.rules import compile_rules
from engine.stats import Counts
from engine.textindex import TextIndex
from engine.user import Position
from tests.little_shop import Shop

DIMS = 16
USERS = [f"u{n}" for n in range(11)]  # u10 is unknown
SHOP = Shop().live()


@pytest.fixture(scope="module")
def world() -> Simulated:
    """A simulated catalogue that is too large to be looked at whole."""
    made = simulated(3_000, 40, DIMS, most=64)
    made.model.whole = 1_000
    made.model.candidates.use(TextIndex(made.model.catalogue.space, made.model.catalogue.hashes))
    return made


def ids(ranking: Ranking) -> list[str]:
    """What is listed."""
    return [one.item_id for one in ranking.items]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(USERS),
    st.integers(0, 40),
    st.sampled_from([None, ("i3", "nobody", "i1", "i3", "i7"), ()]),
    st.sampled_from([None, {"tags": "cave"}, {"item_ids": ("i4", "i9")}, {"creator": ("Ann", "Bob"), "tags": "sea"}, {"price": 3}]),
    st.sampled_from(["", "item 3", "nothing of it"]),
)
def test_candidates_that_are_all_give_the_whole_catalogues_lists(
    user: str, k: int, candidates: tuple[str, ...] | None, filters: Conditions | None, text: str
) -> None:
    """Rule: where all items are candidates, lists, their scores and reasons are those of the whole catalogue."""
    ask = Ask(
        SHOP.taste(user), k, candidates=candidates, filters=filters, text=text, query=np.ones(6, np.float32) / 6**0.5 if text else None
    )
    SHOP.model.whole = 1_000
    whole = SHOP.model.rank([ask])[0]
    SHOP.model.whole = 0
    found = SHOP.model.rank([ask])[0]
    assert ids(found) == ids(whole)
    assert found.note == whole.note
    for one, other in zip(found.items, whole.items, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert {(r.kind, r.item_id) for r in one.reasons if abs(r.weight) > 1e-3} == {
            (r.kind, r.item_id) for r in other.reasons if abs(r.weight) > 1e-3
        }


def test_candidates_are_bounded_and_hold_most_of_the_exact_lists(world: Simulated) -> None:
    """Rule: never more candidates than the depths say, and nine in ten of the items that the whole catalogue's lists would have."""
    model, shares = world.model, []
    for taste in world.tastes[:20]:
        recent = model.catalogue.known(taste.recent)
        pool = model.candidates.retrieval.pool(recent, taste.now)
        assert len(pool) <= Depths().most + len(recent)
        assert np.array_equal(pool, np.unique(pool))
        found = ids(model.rank([Ask(taste)])[0])
        model.whole = len(model.catalogue)
        exact = ids(model.rank([Ask(taste)])[0])
        model.whole = 1_000
        shares.append(len(set(found) & set(exact)) / len(exact))
    assert np.mean(shares) > 0.9


def test_lists_have_only_what_may_be_listed(world: Simulated) -> None:
    """Rule: nothing closed, seen, blocked, excluded or not yet out is listed; a removed item is not until it comes back."""
    model, taste = world.model, world.tastes[1]
    first = ids(model.rank([Ask(taste)])[0])
    entries = [model.catalogue.items[model.catalogue.index[item_key(name)]] for name in first]
    gone, closed, late = (one for one in entries[:3] if one is not None)
    model.catalogue.remove(gone.item_id)
    model.catalogue.put(Item(closed.item_id, closed.title, available=False))
    model.use_rules(compile_rules([Rule("r", "block", {"item_ids": (first[3],)})]))
    model.catalogue_changed()
    after = ids(model.rank([Ask(taste, 50, exclude=(late.item_id,))])[0])
    assert len(after) == 50
    assert not {gone.item_id, closed.item_id, late.item_id, first[3]} & set(after)
    assert not set(taste.ids) & set(after)
    model.use_rules(compile_rules([]))
    model.catalogue.put(gone)
    model.catalogue.put(closed)
    model.catalogue_changed()
    assert ids(model.rank([Ask(taste)])[0]) == first
    to_come = Item("tomorrow", gone.title, gone.description, gone.categories, gone.tags, gone.creator, available_from=taste.now + 1)
    model.catalogue.put(to_come)
    model.catalogue.put_vector(item_key("tomorrow"), model.catalogue.space.vectors[model.catalogue.index[item_key(gone.item_id)]].copy())
    assert "tomorrow" not in ids(model.rank([Ask(taste, 200)])[0])
    assert "tomorrow" in ids(model.rank([Ask(replace(taste, now=taste.now + 1), 600)])[0])
    model.catalogue.remove("tomorrow")


def test_lists_are_as_long_as_they_can_be(world: Simulated) -> None:
    """Rule: where candidates are too few, closed or seen, more are looked for: among those a filter leaves, else in the whole catalogue."""
    model, nobody = world.model, Taste((), (), (), NOW, 0, 0)
    assert len(model.rank([Ask(nobody, 1_500)])[0].items) == 1_500
    saw_most = replace(nobody, seen=tuple(int(key) for key in world.keys[:2_990]))
    assert set(ids(model.rank([Ask(saw_most, 20)])[0])) == set(world.ids[2_990:])
    cluster = [at for at, one in enumerate(world.cluster) if one == 3]
    asked: list[Conditions] = [{"tags": "cluster 3"}, {"tags": ("cluster 3", "no such"), "available": True}]
    for filters in asked:
        assert len(model.rank([Ask(nobody, 500, filters=filters)])[0].items) == len(cluster)
    assert ids(model.rank([Ask(nobody, filters={"title": world.model.catalogue.items[9].title})])[0])  # type: ignore[union-attr]
    assert model.rank([Ask(nobody, filters={"tags": "no such"})])[0].note == "nothing may be listed"


def test_an_item_that_nobody_used_is_found_by_text() -> None:
    """Rule: at 20,000 items, one that has no event, date, creator or tag is a candidate of whom its text is near, and is searched for."""
    made = simulated(20_000, 3, DIMS, most=16)
    model, taste = made.model, made.tastes[0]
    model.candidates.use(TextIndex(model.catalogue.space, model.catalogue.hashes))
    newest = model.catalogue.index[taste.recent[0]]
    model.catalogue.put(Item("fresh", "an unheard of xylophone"))
    model.catalogue.put_vector(item_key("fresh"), model.catalogue.space.vectors[newest].copy())
    model.catalogue_changed()
    recent = model.catalogue.known(taste.recent)
    assert model.catalogue.index[item_key("fresh")] in model.candidates.retrieval.pool(recent, taste.now).tolist()
    assert ids(model.rank([Ask(taste, text="xylophone")])[0])[0] == "fresh"


def test_another_process_makes_the_same_lists() -> None:
    """Rule: a model that reads the same state in another order, items, counts, neighbours and vectors, makes the same lists."""
    made = simulated(2_000, 12, DIMS, most=32)
    model, order = made.model, np.random.default_rng(3).permutation(2_000)
    other = Model(DIMS)
    for at in order.tolist():
        item = model.catalogue.items[at]
        assert item is not None
        other.catalogue.put(item)
    stats = model.stats
    for at in order[::-1].tolist():
        key = int(made.keys[at])
        if made.counts[at]:
            other.stats.put(counts_of(made, at))
            other.stats.put_neighbours(stats.publishable(key, stats.neighbours.of(at)))
    places = np.array([other.catalogue.index[int(key)] for key in made.keys])
    other.catalogue.space.put_many(places, model.catalogue.space.vectors[:2_000])
    for one in (model, other):
        one.whole = 100
        one.candidates.use(TextIndex(one.catalogue.space, one.catalogue.hashes))
    for taste in made.tastes:
        mine, others = model.rank([Ask(taste)])[0], other.rank([Ask(taste)])[0]
        assert ids(mine) == ids(others)
        assert [one.score for one in mine.items] == pytest.approx([one.score for one in others.items], abs=1e-5)


def counts_of(made: Simulated, at: int) -> Counts:
    """What was put of an item, by what the statistics say of it."""
    stats, days = made.model.stats, made.model.stats.decay.popularity_days
    time = int(stats.last_time[at])
    faded = [2.0 ** ((time - stats.reference) / (half * 86_400_000)) for half in days]
    popularity = tuple(float(stats.scaled[h, at] / faded[h]) for h in range(len(days)))
    return Counts(int(made.keys[at]), int(stats.count[at]), int(stats.first_time[at]), popularity, time)


def test_what_changes_is_followed_as_if_made_anew(world: Simulated) -> None:
    """Rule: after counts, entries and a moved scale, the candidates are those of channels made at that moment."""
    model, rng = world.model, np.random.default_rng(9)
    for step in range(6):
        world.used(rng.integers(0, 3_000, 40), step)
        for at in rng.integers(0, 3_000, 5).tolist():
            item = model.catalogue.items[at]
            if item is not None:
                model.catalogue.put(Item(item.item_id, item.title, tags=item.tags, available_from=NOW - at, creator=item.creator))
        anew = type(model.candidates)(model.catalogue, model.stats)
        anew.use(model.candidates.retrieval.text)
        for taste in world.tastes[:5]:
            recent = model.catalogue.known(taste.recent)
            assert np.array_equal(model.candidates.retrieval.pool(recent, NOW + 9), anew.retrieval.pool(recent, NOW + 9))


def test_examples_have_the_item_taken_first_and_others_that_may_be_listed(world: Simulated) -> None:
    """Rule: as in a small catalogue, the same event gives the same bytes, and what was seen or is not known gives none."""
    model, taste = world.model, world.tastes[2]
    place = Position("events", 1, 0, 5)
    open_ = np.flatnonzero(model.open_for(taste))
    key = int(world.keys[int(open_[7])])
    one, other = model.example(taste, key, place), model.example(taste, key, place)
    assert one is not None
    assert one == other
    matrix = one.matrix()
    assert matrix.shape[1] == len(NAMES) + 1
    assert matrix[0, -1] == 0.0
    assert np.isfinite(matrix).all()
    assert np.exp(matrix[1:, -1]).sum() == pytest.approx(len(open_) - 1, rel=0.2), "the negatives stand for all other open items"
    model.whole = len(model.catalogue)
    whole = model.example(taste, key, place)
    model.whole = 1_000
    assert whole is not None
    np.testing.assert_allclose(matrix[0], whole.matrix()[0], rtol=1e-3, atol=1e-4)
    assert model.example(taste, taste.seen[0], place) is None
    assert model.example(taste, 12345, place) is None


def test_nothing_is_compiled_twice(world: Simulated) -> None:
    """Rule: lists of candidates and of whole catalogues show the loops the same types: another compilation would stop all lists."""
    model, query = world.model, np.ones(DIMS, np.float32) / 4.0
    some = (world.ids[3], world.ids[9])
    for whole in (len(model.catalogue), 1_000):
        model.whole = whole
        for taste in (world.tastes[3], Taste((), (), (), NOW, 0, 0)):
            model.rank([Ask(taste), Ask(taste, reasons=False), Ask(taste, candidates=some), Ask(taste, candidates=())])
            model.rank([Ask(taste, text="item", query=query), Ask(taste, filters={"tags": "cluster 3"})])
            model.example(taste, int(world.keys[8]), Position("events", 1, 0, 5))
    compiled: list[Any] = [
        *(kernels.pick, kernels.choose, kernels.look_again, kernels.tell, kernels.personal),
        *(subset.neighbours_within, subset.terms_within, retrieval.add_neighbours, by_term),
    ]
    assert [len(loop.signatures) for loop in compiled] == [1] * len(compiled)
