"""Rules: a person's decision holds for exactly the items, surfaces, users and times that it names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.records import Conditions, Item, Rule
from engine.rules import Match, compile_rules, item_field, matches

UNHURRIED = settings(deadline=None)
ZORK = Item(
    "i1",
    "Zork",
    categories=("adventure", "classic"),
    tags=("cave",),
    creator="Infocom",
    price=3.0,
    domain="games",
    language="en",
    attributes={"size": 1, "solo": True, "moods": ["dark", "dry"], "language": "z-code", "nothing": None, "deep": {"a": 1}},
)


@pytest.mark.parametrize(
    "conditions,expected",
    [
        ({}, True),
        ({"item_ids": ("i1", "i2")}, True),
        ({"item_ids": "i1"}, True),
        ({"item_ids": ("i2",)}, False),
        ({"item_ids": ()}, False),
        ({"item_id": "i1"}, True),
        ({"item_ids": ("i1",), "tags": "sea"}, False),
        ({"categories": "classic"}, True),
        ({"categories": ("sport", "adventure")}, True),
        ({"categories": "class"}, False),
        ({"category": "classic"}, True),
        ({"tag": "cave"}, True),
        ({"tags": ()}, False),
        ({"creator": "Infocom"}, True),
        ({"creator": "infocom"}, False),
        ({"price": 3}, True),
        ({"price": 3.01}, False),
        ({"price": "3"}, False),
        ({"available": True}, True),
        ({"available": 1}, False),
        ({"domain": "games", "language": "en"}, True),
        ({"domain": "games", "language": "fr"}, False),
        ({"attributes.language": "z-code"}, True),
        ({"language": "z-code"}, False),
        ({"size": 1}, True),
        ({"size": True}, False),
        ({"solo": True}, True),
        ({"solo": 1}, False),
        ({"moods": ("bright", "dry")}, True),
        ({"attributes.moods": "dark"}, True),
        ({"nothing": "x"}, False),
        ({"deep": "a"}, False),
        ({"attributes": "x"}, False),
        ({"vectors": "x"}, False),
        ({"unheard_of": "x"}, False),
    ],
)
def test_conditions_match_as_the_contract_says(conditions: Conditions, expected: bool) -> None:
    """Every field must have one of its values; fields of the item come before attributes; true is not 1, text is not part of text."""
    assert matches(Match.of(conditions), ZORK) is expected


def test_an_attribute_named_like_a_singular_wins() -> None:
    """`category` means the categories only where there is no attribute of that name."""
    item = Item("i1", "t", categories=("a",), attributes={"category": "b"})
    assert (item_field(item, "category"), item_field(item, "categories")) == ("b", ("a",))


def rule(rule_id: str, action: Any = "block", match: Conditions | None = None, **more: Any) -> Rule:
    """Make a rule about the classics."""
    return Rule(rule_id, action, match or {"categories": "classic"}, **more)


def test_a_block_holds_on_its_surfaces_only() -> None:
    """No surfaces: everywhere; surfaces: there and nowhere else."""
    everywhere = compile_rules([rule("r1")])
    assert everywhere.blocked(ZORK, "home", {}, 0)
    assert everywhere.blocked(ZORK, "cart", {}, 0)
    home = compile_rules([rule("r1", surfaces=("home",)), rule("r2", match={"tags": "sea"})])
    assert home.blocked(ZORK, "home", {}, 0)
    assert not home.blocked(ZORK, "cart", {}, 0)
    assert [r.rule_id for r in home.active("home", {}, 0)] == ["r1", "r2"]
    assert [r.rule_id for r in home.active("cart", {}, 0)] == ["r2"]


def test_a_filter_lets_only_its_items_pass() -> None:
    """An item must match every filter in force; where none is, all pass."""
    rules = compile_rules([rule("r1", "filter", surfaces=("home",)), rule("r2", "filter", {"language": ("en", "fr")})])
    german = Item("i2", "t", categories=("classic",), language="de")
    modern = Item("i3", "t", language="fr")
    assert [rules.blocked(item, "home", {}, 0) for item in (ZORK, german, modern)] == [False, True, True]
    assert [rules.blocked(item, "cart", {}, 0) for item in (ZORK, german, modern)] == [False, True, False]


@pytest.mark.parametrize("action", ["pin", "boost", "bury", "cap"])
def test_other_actions_block_nothing(action: str) -> None:
    """Only block and filter keep an item out."""
    rules = compile_rules([rule("r1", action)])
    assert not rules.blocked(ZORK, "home", {}, 0)
    assert len(rules.active("home", {}, 0)) == 1


@pytest.mark.parametrize(
    "users,attributes,expected",
    [
        ({"plan": "free"}, {"plan": "free"}, True),
        ({"plan": ("free", "trial")}, {"plan": "trial"}, True),
        ({"plan": "free"}, {"plan": "paid"}, False),
        ({"plan": "free"}, {}, False),
        ({"plan": "free", "age": 12}, {"plan": "free", "age": 12.0}, True),
        ({"plan": "free", "age": 12}, {"plan": "free"}, False),
        ({"groups": "kids"}, {"groups": ["kids", "de"]}, True),
        ({"minor": True}, {"minor": 1}, False),
        ({}, {}, True),
    ],
)
def test_a_rule_holds_for_its_users_only(users: Conditions, attributes: dict[str, Any], expected: bool) -> None:
    """Every attribute named must have one of its values; a user without it is not meant."""
    assert compile_rules([rule("r1", users=users)]).blocked(ZORK, "home", attributes, 0) is expected


def test_a_rule_holds_from_its_start_until_before_its_end() -> None:
    """The window is half open, so that of two rules in a row exactly one holds; open ends never change."""
    rules = compile_rules([rule("r1", starts_at=100, ends_at=200), rule("r2", starts_at=200), rule("r3", ends_at=-5), rule("r4")])
    active = {now: [r.rule_id for r in rules.active("home", {}, now)] for now in (-6, -5, 99, 100, 199, 200)}
    assert active == {-6: ["r3", "r4"], -5: ["r4"], 99: ["r4"], 100: ["r1", "r4"], 199: ["r1", "r4"], 200: ["r2", "r4"]}
    assert [rules.next_change_ms(now) for now in (-6, -5, 99, 100, 199, 200)] == [-5, 100, 100, 200, 200, None]


def test_the_newest_version_of_a_rule_counts() -> None:
    """Of rules with one id the last one holds, as on a compacted topic; an empty set blocks nothing."""
    rules = compile_rules([rule("r1"), rule("r1", match={"tags": "sea"})])
    assert len(rules) == 1
    assert not rules.blocked(ZORK, "home", {}, 0)
    assert not compile_rules([]).blocked(ZORK, "home", {}, 0)
    assert compile_rules([]).next_change_ms(0) is None


WORDS = st.sampled_from(["a", "b", "c"])
SOME = st.lists(WORDS, max_size=3).map(tuple)
ITEMS = st.builds(Item, item_id=WORDS, title=WORDS, categories=SOME, tags=SOME, language=WORDS)
VALUES = st.one_of(WORDS, SOME)
CONDITIONS = st.dictionaries(st.sampled_from(["item_ids", "categories", "tags", "language", "x"]), VALUES, max_size=3)
TIMES = st.one_of(st.none(), st.integers(0, 20))
RULES = st.lists(
    st.builds(
        Rule,
        rule_id=st.text("abcdef", min_size=1, max_size=2),
        action=st.sampled_from(["block", "filter", "pin"]),
        match=CONDITIONS,
        surfaces=st.lists(st.sampled_from(["home", "cart"]), max_size=2).map(tuple),
        users=st.dictionaries(WORDS, VALUES, max_size=1),
        starts_at=TIMES,
        ends_at=TIMES,
    ),
    max_size=6,
    unique_by=lambda made: made.rule_id,
)


@UNHURRIED
@given(RULES, ITEMS, st.sampled_from(["home", "cart", "search"]), st.dictionaries(WORDS, WORDS), st.integers(-1, 21), st.randoms())
def test_masks_by_rule_say_what_blocked_says(
    rules: list[Rule], item: Item, surface: str, attributes: dict[str, str], now_ms: int, random: Any
) -> None:
    """`active`, `match_of` and `matches` give the answer of `blocked`, and the order in which rules came changes nothing."""
    compiled = compile_rules(rules)
    active = compiled.active(surface, attributes, now_ms)
    hits = [(r.action, matches(compiled.match_of(r.rule_id), item)) for r in active]
    assert compiled.blocked(item, surface, attributes, now_ms) == any(hit in (("block", True), ("filter", False)) for hit in hits)
    shuffled = list(rules)
    random.shuffle(shuffled)
    assert compile_rules(shuffled).active(surface, attributes, now_ms) == active


@UNHURRIED
@given(RULES, st.integers(-1, 21), st.dictionaries(WORDS, WORDS))
def test_nothing_changes_before_the_next_change(rules: list[Rule], now_ms: int, attributes: dict[str, str]) -> None:
    """The active rules stay the same until `next_change_ms`: what was made of them may be kept until then."""
    compiled = compile_rules(rules)
    upcoming = compiled.next_change_ms(now_ms)
    for later in range(now_ms, 22 if upcoming is None else upcoming):
        assert compiled.active("home", attributes, later) == compiled.active("home", attributes, now_ms)
