"""Searches through the model: what the row adds, that it follows the catalogue, and its part in the reasons. Not how words are matched."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.features import Taste
from engine.known_item import FEWEST, LENGTHS, KnownItems
from engine.model import Ask, Model
from engine.partition import item_key
from engine.records import Item
from engine.search import Search
from tests.little_shop import DIMS, START, Shop

NOBODY = Taste((), (), (), START * 2, 0, 0)
NAMED = (("n0", "Brass lantern"), ("n1", "Brass kettle"), ("n2", "Copper kettle"), ("n3", "Silver spoon"))


def shop_with(names: tuple[tuple[str, str], ...] = NAMED) -> Shop:
    """A shop with a past, and a few items that have names."""
    shop = Shop().live()
    for item_id, title in names:
        shop.model.catalogue.put(Item(item_id, title))
    return shop


@pytest.fixture(scope="module")
def shop() -> Shop:
    """One that no test changes."""
    return shop_with()


def listed(model: Model, text: str, taste: Taste = NOBODY, k: int = 5) -> list[str]:
    """Ids of a search's list."""
    return [one.item_id for one in model.rank([Ask(taste, k, text=text)])[0].items]


def test_words_lead(shop: Shop) -> None:
    """Rule: what has all of a query's words comes first, for a user with a history too; for someone unknown then what has one of them."""
    for taste in (NOBODY, shop.taste("u1")):
        assert listed(shop.model, "brass ketle", taste)[0] == "n1"
    assert set(listed(shop.model, "brass ketle")[:3]) == {"n0", "n1", "n2"}


def test_it_follows_the_catalogue() -> None:
    """Rule: an item is found as soon as it is there, by its new name when it was renamed, and not once it was removed or is unavailable."""
    shop = shop_with()
    model = shop.model
    assert listed(model, "lantern")[0] == "n0"
    model.catalogue.put(Item("n4", "Paper lantern of paper"))
    model.catalogue.put(Item("n0", "Brass lamp"))
    assert listed(model, "lantern")[0] == "n4"
    assert listed(model, "lamp")[0] == "n0"
    model.catalogue.remove("n4")
    model.catalogue.put(Item("n0", "Brass lamp", available=False))
    assert {"n0", "n4"}.isdisjoint(listed(model, "paper lantern lamp", k=40))
    assert model.search.index.items == sum(item is not None for item in model.catalogue.items)


def test_the_order_of_loading_does_not_matter() -> None:
    """Rule: workers that read the catalogue in another order, with changes between, give the same list with the same scores."""
    one, other = Model(), Model()
    items = [Item(item_id, title) for item_id, title in NAMED]
    for item in items:
        one.catalogue.put(item)
    other.search.catch_up()
    for item in reversed(items):
        other.catalogue.put(Item(item.item_id, f"once {item.title}"))
    other.search.catch_up()
    other.catalogue.put(Item("n9", "Brass ghost"))
    for item in items:
        other.catalogue.put(item)
    other.catalogue.remove("n9")
    ask = Ask(NOBODY, text="brass kettle spon")
    assert one.rank([ask])[0].items == other.rank([ask])[0].items


def test_reasons_name_the_query_and_add_up(shop: Shop) -> None:
    """Rule: what fits a search says so, the parts of each score add up to it, and an item that does not fit has no such part."""
    vector = np.zeros(DIMS, np.float32)
    vector[0] = 1.0
    for ask in (
        Ask(shop.taste("u1"), 40, text="brass"),
        Ask(shop.taste("u1"), 40, text="brass", query=vector),
        Ask(NOBODY, 40, text="brass"),
    ):
        places = shop.model.rank([ask])[0].items
        for one in places:
            assert sum(reason.weight for reason in one.reasons) == pytest.approx(one.score, rel=0.01, abs=1e-4)
        told = {one.item_id: {reason.kind for reason in one.reasons} for one in places}
        assert "query" in told["n0"]
        assert ("query" in told["n2"]) == (ask.query is not None and bool(shop.model.search.row("brass", vector, known=True)[-2]))


def test_meaning_speaks_where_words_do_not(shop: Shop) -> None:
    """Rule: of a query whose words nothing has the row is the cosine's; the more an item covers the query, the less a cosine counts."""
    vectors, search = shop.model.catalogue.space.vectors[: len(shop.model.catalogue)], shop.model.search
    row = search.row("xylophone", vectors[1], known=True)
    assert np.allclose(row, search.mix.meaning * (vectors @ vectors[1]))
    assert row.argmax() == 1
    both, words = search.row("brass kettle", vectors[1], known=True), search.row("brass kettle", None, known=True)
    assert np.ptp(both - words) < 0.1 * np.ptp(row)


def test_someone_unknown_gets_what_fits() -> None:
    """Rule: without a history a search is in the order of its row; with one, taste moves what fits about as well."""
    shop = shop_with()
    query = "item 12 lamp cave sea"
    row = shop.model.search.row(query, None, known=False)
    catalogue = shop.model.catalogue
    order = [row[catalogue.index[item_key(item_id)]] for item_id in listed(shop.model, query, k=40)]
    assert all(one >= other - 6.0 for one, other in pairwise(order)), "6: what popularity adds at most"
    shop.model.search.mix = replace(shop.model.search.mix, words=1e-6)
    taste = shop.taste("u1")
    without = [one.item_id for one in shop.model.rank([Ask(taste, 40)])[0].items]
    assert listed(shop.model, query, taste, k=40) == without, "a search that counts nothing changes nothing"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["u1", "u3", "u10"]), st.sampled_from(["", "brass", "item 3", "🐉", "of"])), min_size=1, max_size=5)
)
def test_a_search_does_not_depend_on_its_batch(shop: Shop, wanted: list[tuple[str, str]]) -> None:
    """Rule: who else asks, for a list or with a search, changes no list."""
    now = START * 2
    asks = [Ask(replace(shop.taste(user), now=now), 7, text=text) for user, text in wanted]
    for alone, together in zip((shop.model.rank([ask])[0] for ask in asks), shop.model.rank(asks), strict=True):
        assert alone == together


@settings(max_examples=40, deadline=None)
@given(text=st.one_of(st.text(max_size=60), st.sampled_from(["🐉🐉🐉", "the of and", "x" * 10_000, "brass " * 2_000, "\x00"])))
def test_any_search_has_a_list(shop: Shop, text: str) -> None:
    """Rule: symbols, nothing but common words, 10 kB: a full list with finite scores."""
    for taste in (NOBODY, shop.taste("u1")):
        ranking = shop.model.rank([Ask(taste, 5, text=text)])[0]
        assert len(ranking.items) == 5
        assert all(np.isfinite(one.score) for one in ranking.items)


def test_candidates_are_reranked_by_a_search(shop: Shop) -> None:
    """Rule: a search among given candidates orders these, all of them."""
    ask = Ask(NOBODY, candidates=("n2", "i3", "n0", "lost"), text="lantern")
    found = [one.item_id for one in shop.model.rank([ask])[0].items]
    assert (found[0], len(found)) == ("n0", 4)


def test_an_empty_catalogue() -> None:
    """Rule: a search in nothing finds nothing, and says so."""
    model = Model()
    assert model.rank([Ask(NOBODY, text="brass")])[0].note == "the catalogue is empty"
    assert Search(model.catalogue).row("brass", None, known=True).shape == (0,)


def test_known_item_queries() -> None:
    """Rule: a query has so many words of the item's text, in order and some with an error; the same name gives the same one."""
    text = "a brass lantern hangs above the wooden table near the kitchen window"
    items = [Item(f"i{n}", "x", text if n == 3 else f"the {n}") for n in range(9)]
    exact, known = KnownItems(items, typos=0.0), KnownItems(items, typos=1.0)
    for length in LENGTHS:
        drawn = exact.query(3, length, "seed").split()
        assert len(drawn) == length
        assert drawn == sorted(drawn, key=text.split().index)
        wrong = known.query(3, length, "seed")
        assert wrong == known.query(3, length, "seed")
        assert all(word not in text.split() for word in wrong.split() if len(word) > FEWEST)
    assert KnownItems([Item("i0", "x")]).query(0, 3, "seed") == ""
