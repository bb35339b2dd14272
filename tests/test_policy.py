"""Rules and variety in a list: pins and caps hold, nothing is listed twice or that may not be, and every part of a score is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.diversity import Kinds, choose, room, warm_up
from engine.policy import DIVERSITY, RULE, Orders, Placed, Variety, arrange, fitting, kinds_for, odds, orders_of, shifted
from engine.records import Rule

N, D = 12, 4
MANY = settings(max_examples=300, deadline=None)
ANY = np.ones(N, bool)


def masks_of(rules: list[tuple[Rule, list[int]]]) -> Any:
    """What each rule matches, as a model would know it."""
    found = {}
    for rule, matched in rules:
        found[rule.rule_id] = np.zeros(N, bool)
        found[rule.rule_id][matched] = True
    return found.__getitem__


def ordered(*rules: tuple[Rule, list[int]]) -> Orders:
    """Rules with what they match, ready."""
    return orders_of([rule for rule, _ in rules], masks_of(list(rules)), N)


def kinds(seed: int = 0) -> Kinds:
    """Twelve items by four creators (0: none) in three categories, with vectors; the last has none."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(N, D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[N - 1] = 0.0
    owned = [sorted(set(rng.integers(0, 3, rng.integers(0, 3)).tolist())) for _ in range(N)]
    starts = np.concatenate([[0], np.cumsum([len(own) for own in owned])]).astype(np.int64)
    categories = np.array([code for own in owned for code in own], np.int32)
    creators = rng.integers(0, 4, N).astype(np.int32)
    return Kinds(vectors, creators, 0, starts, categories, 0, np.zeros((0, N), bool), np.zeros(0, np.int64))


def made(
    scores: list[float],
    k: int = 4,
    orders: Orders | None = None,
    variety: Variety | None = None,
    may: Any = ANY,
    items: list[int] | None = None,
    of: Kinds | None = None,
) -> list[Placed]:
    """A list of items 0, 1 ... (or others) with these scores."""
    orders, variety = orders or ordered(), variety or Variety()
    pool = np.array(range(len(scores)) if items is None else items, np.int64)
    return arrange(pool, np.array(scores, np.float64), may, k, orders, variety, kinds_for(of or kinds(), orders, variety))


def listed(found: list[Placed]) -> list[int]:
    """The items of a list."""
    return [one.item for one in found]


# -- examples


def test_boost_and_bury_change_the_odds() -> None:
    """Rule: a factor adds or takes off its logarithm, whatever the score's sign; several add up; each is a part with its rule's id."""
    orders = ordered(
        (Rule("up", "boost", {}, factor=3.0), [2]), (Rule("down", "bury", {}, factor=0.5), [0, 2]), (Rule("no", "boost", {}), [1])
    )
    found = made([-1.0, -1.2, -1.3], 3, orders)
    assert [(one.item, round(one.score, 4)) for one in found] == [
        (2, round(-1.3 + math.log(3) - math.log(2), 4)),
        (1, -1.2),
        (0, round(-1.0 - math.log(2), 4)),
    ]
    assert [(part.kind, part.rule_id, round(part.weight, 4)) for part in found[0].parts] == [
        (RULE, "down", -0.6931),
        (RULE, "up", 1.0986),
    ]
    assert shifted(orders, np.array([2, 1]), np.array([0.0, 0.0])).tolist() == pytest.approx([math.log(1.5), 0.0])
    assert odds("boost", 2.0) == -odds("bury", 2.0) == odds("boost", 0.5)


def test_a_pin_has_its_rank() -> None:
    """Rule: a pinned item stands at its rank with a score that fits there, told as the rule's part; the others keep their order."""
    found = made([4.0, 3.0, 2.0, 1.0], 4, ordered((Rule("p", "pin", {}, rank=1), [3])))
    assert [(one.item, one.score) for one in found] == [(0, 4.0), (3, 3.5), (1, 3.0), (2, 2.0)]
    assert (found[1].own, found[1].parts) == (1.0, ((RULE, 2.5, "p", -1),))
    first = made([4.0, 3.0], 2, ordered((Rule("p", "pin", {}, rank=0), [9])))
    assert [(one.item, one.score, one.own) for one in first] == [(9, 4.001, 0.0), (0, 4.0, 4.0)]
    stays = made([4.0, 3.0], 2, ordered((Rule("p", "pin", {}, rank=0), [0])))
    assert [(one.score, one.parts) for one in stays] == [(4.0, ((RULE, 0.0, "p", -1),)), (3.0, ())]


def test_which_item_is_pinned_and_where() -> None:
    """Rule: the best that may be shown; a taken rank leads to the next free one, else the last before; beyond the end is no place."""
    scores = [5.0, 4.0, 3.0, 2.0]
    may = ANY.copy()
    may[[2, 9]] = False
    assert listed(made(scores, 3, ordered((Rule("p", "pin", {}, rank=0), [2, 3, 9])), may=may)) == [3, 0, 1]
    assert listed(made(scores, 3, ordered((Rule("p", "pin", {}, rank=0), [9])), may=may)) == [0, 1, 3], "not shown: no pin"
    two = ordered((Rule("a", "pin", {}, rank=0), [3]), (Rule("b", "pin", {}, rank=0), [2]))
    assert listed(made(scores, 3, two)) == [3, 2, 0]
    last = ordered((Rule("a", "pin", {}, rank=2), [8]), (Rule("b", "pin", {}, rank=2), [9]))
    assert listed(made(scores, 3, last)) == [0, 9, 8]
    assert listed(made(scores, 3, ordered((Rule("p", "pin", {}, rank=3), [9])))) == [0, 1, 2]
    assert listed(made([1.0], 5, ordered((Rule("p", "pin", {}, rank=4), [9])))) == [0, 9], "candidates run out: it moves up"
    same = ordered((Rule("a", "pin", {}, rank=0), [3]), (Rule("b", "pin", {}, rank=1), [3]))
    assert listed(made(scores, 3, same)) == [3, 0, 1], "an item has one place"
    all_pinned = made([], 3, ordered(*((Rule(f"p{n}", "pin", {}, rank=n), [n]) for n in range(3))))
    assert listed(all_pinned) == [0, 1, 2]
    assert all_pinned[0].score > all_pinned[1].score > all_pinned[2].score


def test_caps() -> None:
    """Rule: at most so many of what a rule matches, of a creator, of a category; pinned ones count and go first."""
    scores = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    assert listed(made(scores, 4, ordered((Rule("c", "cap", {}, max=1), [0, 1, 2])))) == [0, 3, 4, 5]
    assert listed(made(scores, 4, ordered((Rule("c", "cap", {}, max=0), [0, 1, 2])))) == [3, 4, 5]
    pinned = ordered((Rule("c", "cap", {}, max=1), [0, 1, 2]), (Rule("p", "pin", {}, rank=3), [1]), (Rule("q", "pin", {}, rank=2), [2]))
    assert listed(made(scores, 4, pinned)) == [3, 4, 2, 1]
    of = kinds()._replace(creators=np.array([1, 1, 1, 2, 0, 0, *[3] * 6], np.int32))
    assert listed(made(scores, 4, variety=Variety(per_creator=1), of=of)) == [0, 3, 4, 5]
    of = of._replace(starts=np.array([0, 2, 3, 4, 4, *[4] * 9]), categories=np.array([0, 1, 1, 2], np.int32))
    assert listed(made(scores, 4, variety=Variety(per_category=1), of=of)) == [0, 2, 3, 4]


def test_diversity() -> None:
    """Rule: what is like an item of the list loses by it, and names it; items without a vector, or unlike all, lose nothing."""
    vectors = np.zeros((N, D), np.float32)
    vectors[0, 0] = vectors[1, 0] = vectors[2, 1] = 1.0
    vectors[3] = [-1.0, 0.0, 0.0, 0.0]
    of = kinds()._replace(vectors=vectors)
    found = made([3.0, 2.9, 2.0, 1.0, 0.5], 5, variety=Variety(strength=1.0), of=of)
    assert listed(found) == [0, 2, 1, 3, 4]
    assert [one.score for one in found] == pytest.approx([3.0, 2.0, 1.9, 1.0, 0.5])
    assert [one.parts for one in found] == [(), (), ((DIVERSITY, -1.0, "", 0),), (), ()]
    pinned = made([3.0, 2.9], 3, ordered((Rule("p", "pin", {}, rank=2), [1])), Variety(strength=1.0), of=of)
    assert [(one.item, [part.kind for part in one.parts]) for one in pinned] == [(0, [DIVERSITY]), (1, [RULE])], "pins are there first"


def test_arrays_that_are_too_short() -> None:
    """Rule: an item that came after the arrays were made is an error, not a look at somebody else's memory."""
    short = kinds()._replace(vectors=np.zeros((3, D), np.float32))
    with pytest.raises(IndexError):
        made([1.0, 2.0, 3.0, 4.0], of=short)
    warm_up()


# -- properties

SCORES = st.lists(st.floats(-20, 20), max_size=N).map(lambda found: sorted(found, reverse=True))
MATCHED = st.lists(st.integers(0, N - 1), max_size=N, unique=True)
RULES = st.lists(
    st.tuples(
        st.builds(
            Rule,
            rule_id=st.integers(0, 30).map(lambda n: f"r{n:02}"),
            action=st.sampled_from(["pin", "boost", "bury", "cap", "block"]),
            match=st.just({}),
            rank=st.integers(0, 8),
            factor=st.floats(1e-3, 1e3),
            max=st.integers(0, 4),
        ),
        MATCHED,
    ),
    max_size=6,
    unique_by=lambda drawn: drawn[0].rule_id,
)
VARIETY = st.builds(
    Variety, strength=st.one_of(st.just(0.0), st.floats(0, 5)), per_creator=st.integers(0, 3), per_category=st.integers(0, 3)
)
MAY = st.lists(st.booleans(), min_size=N, max_size=N).map(np.array)


@MANY
@given(SCORES, st.randoms(), RULES, VARIETY, MAY, st.integers(0, 8), st.integers(0, 5))
def test_what_always_holds(
    scores: list[float], random: Any, rules: list[tuple[Rule, list[int]]], variety: Variety, may: Any, k: int, seed: int
) -> None:
    """Rule: no item twice, none that may not be shown; pins stand; caps hold; parts add up to the score; the score orders the list."""
    items = random.sample(range(N), len(scores))
    orders, of = ordered(*rules), kinds(seed)
    found = made(scores, k, orders, variety, may, items, of)
    places = listed(found)
    assert len(set(places)) == len(places) <= k
    assert may[places].all() if places else True
    own = dict(zip(items, scores, strict=True))
    for one in found:
        assert one.own == own.get(one.item, 0.0)
        assert one.own + sum(part.weight for part in one.parts) == pytest.approx(one.score, abs=1e-9)
        assert math.isfinite(one.score)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    pinned = {one.item: part.rule_id for one in found for part in one.parts if part.rule_id and part.rule_id in pins_of(orders)}
    free = [pin for pin in orders.pins if pin.rank < k and may[pin.items].any()]
    if len(free) == 1 and free[0].rank < len(found):
        (pin,) = free
        assert places[pin.rank] in pin.items.tolist()
    assert len(pinned) == len(set(pinned.values())), "a pin has one item"
    for mask, most in zip(orders.masks, orders.most, strict=True):
        assert sum(mask[places]) <= max(most, sum(mask[list(pinned)]))
    counts = {creator: [of.creators[at] for at in places].count(creator) for creator in range(1, 4)}
    of_pins = {creator: [of.creators[at] for at in pinned].count(creator) for creator in range(1, 4)}
    assert not variety.per_creator or all(counts[c] <= max(variety.per_creator, of_pins[c]) for c in counts)
    for code in range(3):
        held = [at for at in places if code in of.categories[of.starts[at] : of.starts[at + 1]]]
        assert not variety.per_category or len(held) <= max(variety.per_category, len([at for at in held if at in pinned]))


def pins_of(orders: Orders) -> set[str]:
    """The ids of the pins."""
    return {pin.rule_id for pin in orders.pins}


@MANY
@given(SCORES, st.randoms(), MAY, st.integers(0, 8), RULES)
def test_nothing_asked_nothing_changed(scores: list[float], random: Any, may: Any, k: int, rules: list[tuple[Rule, list[int]]]) -> None:
    """Rule: without rules and variety the list is the pool's best; and rules that match nothing change nothing."""
    items = random.sample(range(N), len(scores))
    best = [(item, score, score, ()) for item, score in zip(items, scores, strict=True) if may[item]][:k]
    assert made(scores, k, may=may, items=items) == best
    assert made(scores, k, ordered(*((rule, []) for rule, _ in rules)), may=may, items=items) == best


@MANY
@given(SCORES, st.randoms(), MAY, st.floats(0, 5), st.integers(1, 8), st.integers(0, 3), st.integers(0, 20))
def test_only_what_is_needed_is_compared(
    scores: list[float], random: Any, may: Any, strength: float, k: int, per_creator: int, seed: int
) -> None:
    """Rule: the list is that of the plain greedy algorithm, which compares every candidate with every item of the list."""
    items, of = random.sample(range(N), len(scores)), kinds(seed)._replace(per_creator=per_creator)
    left, plain = [(item, score) for item, score in zip(items, scores, strict=True) if may[item]], list[tuple[int, float]]()
    while left and len(plain) < k:
        values = []
        for item, score in left:
            like = max([0.0, *(float(of.vectors[item] @ of.vectors[other]) for other, _ in plain)])
            values.append(score - strength * like)
        at = int(np.argmax(values))
        (item, _), value = left.pop(at), values[at]
        creators = [of.creators[other] for other, _ in plain]
        if not per_creator or not of.creators[item] or creators.count(of.creators[item]) < per_creator:
            plain.append((item, value))
    out = room(k)
    pool = np.array(items, np.int64)
    count = choose(pool, np.array(scores, np.float64), may[pool], np.full(k, -1), strength, of, out)
    assert count == len(plain)
    assert out.values[:count] == pytest.approx([value for _, value in plain], abs=1e-4)


@MANY
@given(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), max_size=8))
def test_fitting(drawn: list[tuple[float, bool]]) -> None:
    """Rule: scores that are not pinned stay, and all of them order the list, strictly where their neighbours leave room."""
    others = sorted((score for score, pinned in drawn if not pinned), reverse=True)
    scores = [score if pinned else others.pop(0) for score, pinned in drawn]
    found = fitting(scores, [pinned for _, pinned in drawn])
    assert found == sorted(found, reverse=True)
    assert [score for score, (_, pinned) in zip(found, drawn, strict=True) if not pinned] == [
        score for score, (_, pinned) in zip(scores, drawn, strict=True) if not pinned
    ]


def test_adversarial_scores() -> None:
    """Rule: what is not a number, or endless, is passed over; nothing listed is either."""
    found = made([math.inf, math.nan, 2.0, -math.inf], 4, ordered((Rule("p", "pin", {}, rank=1), [1])))
    assert [(one.item, one.own) for one in found] == [(2, 2.0), (1, 0.0)]
    assert all(math.isfinite(one.score) for one in found)
