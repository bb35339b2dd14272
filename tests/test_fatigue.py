"""Fatigue: what counts as shown, that it is bounded, and that a list's scores and reasons say what it takes away. Off by default."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fatigue import AGAIN_S, FIRST, HALF_LIFE_S, KEPT, show, weariness
from engine.features import taste_of
from engine.model import Ask
from engine.partition import item_key
from engine.records import Event
from engine.user import Limits, Position, UserState, decode_user, encode_user
from tests.little_shop import START, Shop

LIMITS = Limits(shown=KEPT)
LATEST = 1 << 53


def told(state: UserState, n: int, at_s: int, *, limits: Limits = LIMITS, **fields: object) -> None:
    """The n-th event of a user, at a time in seconds."""
    event = Event(f"e{n}", str(fields.pop("type", "impression")), "u", at_s * 1000, **fields)  # type: ignore[arg-type]
    state.apply(event, Position("events", 1, 0, n), limits, LATEST)


def test_only_impressions_count_and_a_session_counts_once() -> None:
    """Rule: an item is shown once in half an hour, from the top of what was shown; taking it ends it; nothing is kept by default."""
    state, plain = UserState(), UserState()
    day = 86_400
    for n, at in enumerate((day, day + 60, day + AGAIN_S, 3 * day)):
        for one, limits in ((state, LIMITS), (plain, Limits())):
            told(one, n, at, limits=limits, items=("a", "b", *(f"x{m}" for m in range(FIRST))))
    assert state.shown[item_key("a")] == state.shown[item_key("b")] == (3, 3 * day)
    assert len(state.shown) == FIRST
    assert not plain.shown
    told(state, 10, 3 * day + 5, type="click", item_id="a")
    told(state, 11, 4 * day, items=("a", "b"))
    assert item_key("a") not in state.shown
    assert state.shown[item_key("b")] == (4, 4 * day)
    assert decode_user(encode_user(state)) == state
    state.erase(5 * day * 1000)
    assert not state.shown


@given(st.lists(st.tuples(st.lists(st.integers(0, 300), max_size=30), st.integers(0, 10**7)), max_size=40))
def test_it_is_bounded(impressions: list[tuple[list[int], int]]) -> None:
    """Rule: whatever is shown, in whatever order it comes, so many items are kept, and what they weigh is finite and not below 0."""
    noted: dict[int, tuple[int, int]] = {}
    for keys, at in impressions:
        show(noted, keys, at)
    assert len(noted) <= KEPT
    assert all(much >= 0 for _, much in weariness(noted, 10**7))
    assert all(much < 60 for _, much in weariness(noted, 0))


def test_once_costs_nothing_and_time_heals() -> None:
    """Rule: a first showing is free, each further one says less than the one before, and half of it is gone after a week."""
    assert not list(weariness({1: (1, 0)}, 0))
    much = [next(weariness({1: (n, 0)}, 0))[1] for n in (2, 3, 4)]
    assert much[0] < much[1] < much[2]
    assert much[1] - much[0] > much[2] - much[1]
    assert next(weariness({1: (4, 0)}, HALF_LIFE_S))[1] == pytest.approx(much[2] / 2)


def test_what_was_shown_in_vain_comes_lower_and_says_so() -> None:
    """Rule: its score is lower by strength times weight, told as a reason with which the parts still add up; searches and others' lists
    are as they were; without a strength nothing changes.
    """
    shop = Shop().live(60)
    taste = shop.taste("u1")
    before = shop.model.rank([Ask(taste)])[0]
    first = before.items[0]
    weary = replace(taste, weary=((item_key(first.item_id), 2.0), (item_key("never heard of"), 9.0)))
    assert shop.model.rank([Ask(weary)])[0] == before
    shop.model.fatigue = 1.5
    assert shop.model.rank([Ask(taste)])[0] == before
    assert shop.model.rank([Ask(weary, text="number")]) == shop.model.rank([Ask(taste, text="number")])
    for ask in (Ask(weary, k=30), Ask(weary, candidates=(first.item_id,))):
        (found,) = [one for one in shop.model.rank([ask])[0].items if one.item_id == first.item_id]
        assert found.score == pytest.approx(first.score - 3.0, abs=1e-4)
        assert {reason.kind: reason.weight for reason in found.reasons}["shown"] == pytest.approx(-3.0)
        assert sum(reason.weight for reason in found.reasons) == pytest.approx(found.score, abs=1e-4)
    both = shop.model.rank([Ask(taste), Ask(weary, k=30), Ask(taste)])
    assert both[0] == both[2] == before


def test_a_taste_knows_what_its_user_is_weary_of() -> None:
    """Rule: what a row says was shown reaches the list, unless its user does not want to be personalised."""
    state = UserState(personalise=True, shown={7: (2, START // 1000), 8: (1, START // 1000)})
    assert [key for key, _ in taste_of(state, START).weary] == [7]
    state.personalise = False
    assert not taste_of(state, START).weary
