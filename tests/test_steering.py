"""Rules and variety in lists as models make them, where all items are looked at and where candidates are. Rules alone: test_policy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.model import MOST_ORDERS, Ask, Model
from engine.partition import item_key
from engine.policy import Variety
from engine.records import Item, Rule
from engine.rules import compile_rules
from engine.user import Position
from tests.little_shop import DAY, DIMS, Shop

MANY = 900


def large(*, whole: int = 10_000) -> Model:
    """900 items with vectors, one in nine of category `rare`, the others `common`; nobody has used one."""
    model = Model(DIMS, whole=whole)
    vectors = np.random.default_rng(0).normal(size=(MANY, DIMS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for n in range(MANY):
        kind = "rare" if n % 9 == 0 else "common"
        model.catalogue.put(Item(f"i{n}", f"Item {n}", categories=(kind,), creator=f"c{n % 200}"))
        model.catalogue.put_vector(item_key(f"i{n}"), vectors[n])
    model.catalogue_changed()
    return model


def listed(model: Model, shop: Shop, *rules: Rule, user: str = "u1", k: int = 10, candidates: tuple[str, ...] | None = None) -> list[str]:
    """A list under some rules."""
    model.use_rules(compile_rules(rules))
    return [one.item_id for one in model.rank([Ask(shop.taste(user), k, candidates=candidates)])[0].items]


@pytest.mark.parametrize("whole", [10_000, 100])
def test_pins_and_boosts_fetch_what_no_list_would_have(whole: int) -> None:
    """Rule: an item pinned, or boosted enough, is in the list wherever it stood before, in a large catalogue too."""
    model, shop = large(whole=whole), Shop().live(40)
    plain = listed(model, shop, k=200)
    last = next(f"i{n}" for n in range(MANY) if f"i{n}" not in plain and item_key(f"i{n}") not in shop.taste("u1").seen)
    assert listed(model, shop, Rule("p", "pin", {"item_ids": (last,)}, rank=3))[3] == last
    assert listed(model, shop, Rule("b", "boost", {"item_ids": (last,)}, factor=1e6))[0] == last


def test_a_cap_leaves_no_hole() -> None:
    """Rule: where a cap leaves out most of the strongest items, others come from further down."""
    model, shop = large(), Shop().live(40)
    favoured = Rule("b", "boost", {"categories": "common"}, factor=1e6)
    kinds = ["rare" if int(name[1:]) % 9 == 0 else "common" for name in listed(model, shop, favoured)]
    assert kinds == ["common"] * 10
    capped = listed(model, shop, favoured, Rule("c", "cap", {"categories": "common"}, max=2))
    assert [int(name[1:]) % 9 == 0 for name in capped] == [False] * 2 + [True] * 8


@pytest.mark.parametrize("whole", [10_000, 100])
def test_given_candidates_come_back_all_whatever_they_have_in_common(whole: int) -> None:
    """Rule: limits of variety leave no given candidate out; a cap, which somebody wrote, does."""
    model, shop = large(whole=whole), Shop().live(40)
    model.variety = Variety(0.5, 1, 1)
    names = tuple(f"i{n}" for n in range(100, 130))
    assert set(listed(model, shop, k=5, candidates=names)) == set(names)
    assert len(listed(model, shop, Rule("c", "cap", {"categories": "common"}, max=2), candidates=names)) < len(names)


@pytest.mark.parametrize("whole", [10_000, 100])
def test_nothing_is_listed_where_nothing_is_asked_for(whole: int) -> None:
    """Rule: no place, no pin."""
    assert listed(large(whole=whole), Shop().live(40), Rule("p", "pin", {}, rank=0), k=0) == []


def test_an_attribute_of_a_lists_name_is_filtered_by() -> None:
    """Rule: `category` means the attribute of that name where an item has one, also where candidates are looked up by an index."""
    for whole in (10_000, 100):
        model, shop = large(whole=whole), Shop().live(40)
        model.catalogue.put(Item("i5", "Item 5", attributes={"category": "shoes"}))
        model.catalogue_changed()
        assert listed(model, shop, Rule("f", "filter", {"category": "shoes"})) == ["i5"]


def test_orders_of_many_audiences_are_bounded() -> None:
    """Rule: what is remembered of rules stays small however many sets of them are in force for somebody."""
    shop = Shop().live(40)
    shop.model.use_rules(compile_rules([Rule(f"r{n}", "boost", {"tags": "cave"}, factor=2.0, users={f"a{n}": True}) for n in range(8)]))
    taste = shop.taste("u1")
    for mask in range(256):
        attributes = tuple((f"a{n}", bool(mask >> n & 1)) for n in range(8))
        found = shop.model.rank([Ask(taste, 5, attributes=attributes)])[0]
        told = sum(part.weight for one in found.items[:1] for part in one.reasons if part.kind == "rule")
        assert told in (0.0, pytest.approx(mask.bit_count() * math.log(2.0), abs=1e-4))
    assert len(shop.model._orders) <= MOST_ORDERS  # noqa: SLF001 - nothing else says it


def test_examples_do_not_depend_on_their_batch() -> None:
    """Rule: an example is a function of its user, its time and what all read; who else is taught does not matter."""
    shop = Shop().live()
    place = Position("events", 1, 0, 5)
    tastes = [shop.taste(user, later) for user in ("u1", "u2", "u3") for later in (0, DAY, 9 * DAY)]
    first = [int(np.flatnonzero(shop.model.open_for(taste))[0]) for taste in tastes]
    lessons = [(taste, [int(shop.model.catalogue.hashes[at])], [place]) for taste, at in zip(tastes, first, strict=True)]
    together = shop.model.examples_of(lessons)
    assert together == [shop.model.examples(*lesson) for lesson in lessons]
    assert all(together)


def test_shares_are_given_of_every_item_asked_for() -> None:
    """Rule: however many items tie, each that is listed has its share of what the user takes next."""
    model, shop = large(), Shop().live(40)
    taste = shop.taste("u1")
    items, logs = model.shares(taste, range(MANY))
    assert set(items.tolist()) == set(np.flatnonzero(model.open_for(taste)).tolist())
    assert np.isclose(np.exp(logs).sum(), 1.0)
    assert MANY - 1 in model.shares(taste, [MANY - 1])[0].tolist()
