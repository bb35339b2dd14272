"""Reasons are the parts of the score: they add up, and taking away what is named changes the score by what was said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.features import NAMES, SITUATIONS, Taste
from engine.model import Ask
from engine.network import ENOUGH
from engine.ranker import Ranker
from tests.little_shop import DIMS, Shop

KINDS = {"popular", "new", "bias", "history", "often_together", "similar_text", "query"}
SHOP = Shop().live()


def some_ranker(rng: np.random.Generator, *, plain: bool = False) -> Ranker:
    """Any weights; `plain`: without networks."""
    ranker = Ranker(rng.normal(size=len(NAMES)), rng.normal(size=(SITUATIONS, len(NAMES))))
    network = ranker.network
    network.net.middle[:], network.net.scale[:] = rng.normal(size=len(network.net.middle)), rng.random(len(network.net.scale)) + 0.5
    network.net.last[:] = rng.normal(size=len(network.net.last))
    network.learned, network.edge = (0, 0.0) if plain else (ENOUGH, 0.1)
    return ranker


def without(taste: Taste, item_id: str) -> Taste:
    """The same user, who never took this item."""
    at = taste.ids.index(item_id)
    kept = [n for n in range(len(taste.ids)) if n != at]
    recent, ids = tuple(taste.recent[n] for n in kept), tuple(taste.ids[n] for n in kept)
    return replace(taste, recent=recent, ids=ids, together=taste.together - (at < taste.together))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([f"u{n}" for n in range(11)]), st.booleans())
def test_reasons_add_up_to_the_score(seed: int, user: str, searched: bool) -> None:
    """Rule: for any weights and any user, the parts of each listed item add up to the score that ordered the list, within 1 %."""
    shop, rng = SHOP, np.random.default_rng(seed)
    shop.model.ranker = some_ranker(rng)
    query = rng.normal(size=DIMS).astype(np.float32) if searched else None
    taste = shop.taste(user)
    told, plain = shop.model.rank([Ask(taste, 25, query=query), Ask(taste, 25, query=query, reasons=False)])
    for with_reasons, without in zip(told.items, plain.items, strict=True):
        total = sum(reason.weight for reason in with_reasons.reasons)
        assert total == pytest.approx(with_reasons.score, abs=2e-5)  # some parts, each told to six digits
        size = sum(abs(reason.weight) for reason in with_reasons.reasons)
        assert total == pytest.approx(with_reasons.score, abs=1e-4)
        assert abs(total - without.score) <= max(0.01 * abs(without.score), 1e-5 * size + 1e-4)
        weights = [abs(reason.weight) for reason in with_reasons.reasons]
        assert weights == sorted(weights, reverse=True)
        assert {reason.kind for reason in with_reasons.reasons} <= KINDS
        assert all(reason.weight for reason in with_reasons.reasons)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([f"u{n}" for n in range(11)]), st.booleans())
def test_leaving_a_named_item_out_changes_the_score_by_its_weight(seed: int, user: str, plain: bool) -> None:
    """Rule: for any weights, an item scored again for the same user without the named history item has lost the stated weight."""
    model, taste = SHOP.model, SHOP.taste(user)
    model.ranker = some_ranker(np.random.default_rng(seed), plain=plain)
    for one in model.rank([Ask(taste, 10)])[0].items:
        for reason in one.reasons:
            if reason.item_id is not None:
                (again,) = model.rank([Ask(without(taste, reason.item_id), candidates=(one.item_id,), reasons=False)])[0].items
                assert one.score - again.score == pytest.approx(reason.weight, abs=2e-4, rel=1e-4)


def test_what_is_left_without_a_history() -> None:
    """Rule: popularity, newness and bias are the whole score of a user in the same situation who has no history."""
    model, taste = SHOP.model, SHOP.taste("u3")
    model.ranker = some_ranker(np.random.default_rng(5))
    nobody = replace(taste, recent=(), ids=(), together=0)
    for one in model.rank([Ask(taste, 10)])[0].items:
        (alone,) = model.rank([Ask(nobody, candidates=(one.item_id,))])[0].items
        assert not {reason.kind for reason in alone.reasons} & {"history", "often_together", "similar_text"}
        score = sum(reason.weight for reason in one.reasons if reason.kind in ("popular", "new", "bias"))
        assert score == pytest.approx(alone.score, abs=1e-4)


def test_named_items_are_the_users_own() -> None:
    """Rule: a reason names an item that the user took, never one that others did."""
    shop = Shop().live()
    for user in shop.users:
        taste = shop.taste(user)
        for one in shop.model.rank([Ask(taste, 20)])[0].items:
            assert {reason.item_id for reason in one.reasons} <= {None, *taste.ids}


def test_a_text_reason_is_what_the_text_adds() -> None:
    """Rule: with only the text's weight the whole score is history: the named items' weights and what they are together."""
    shop = Shop().live()
    shop.model.ranker.common[:] = 0.0
    shop.model.ranker.common[NAMES.index("text")] = 2.0
    ranking = shop.model.rank([Ask(shop.taste("u3"), 5)])[0]
    for one in ranking.items:
        assert {reason.kind for reason in one.reasons} <= {"similar_text", "often_together", "history"}
        assert sum(reason.weight for reason in one.reasons) == pytest.approx(one.score, abs=1e-5)


def test_a_draft_filled_twice_says_the_same() -> None:
    """Rule: filling in again starts anew; more parts than there is room for would be written beyond the arrays."""
    draft = next(SHOP.model.drafts([Ask(SHOP.taste("u1"))]))
    told = []
    for _ in range(3):
        draft.fill()
        told.append(SHOP.model.rankings(draft))
    assert told[0] == told[1] == told[2]
    assert all(item.reasons for item in told[0][0].items)
