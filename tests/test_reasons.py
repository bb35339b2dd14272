"""Reasons are the parts of the score: they add up, and taking away what is named changes the score by what was said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.features import NAMES, SITUATIONS
from engine.model import Ask
from engine.ranker import Ranker
from tests.little_shop import DIMS, Shop

KINDS = {
    *("popular", "new", "often_together", "similar_text", "same_creator", "similar_tags", "similar_date", "similar_popularity", "query"),
}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([f"u{n}" for n in range(11)]), st.booleans())
def test_reasons_add_up_to_the_score(seed: int, user: str, searched: bool) -> None:
    """Rule: for any weights and any user, the parts of each listed item add up to the score that ordered the list, within 1 %."""
    shop, rng = SHOP, np.random.default_rng(seed)
    shop.model.ranker = Ranker(rng.normal(size=len(NAMES)), rng.normal(size=(SITUATIONS, len(NAMES))))
    query = rng.normal(size=DIMS).astype(np.float32) if searched else None
    taste = shop.taste(user)
    told, plain = shop.model.rank([Ask(taste, 25, query=query), Ask(taste, 25, query=query, reasons=False)])
    for with_reasons, without in zip(told.items, plain.items, strict=True):
        total = sum(reason.weight for reason in with_reasons.reasons)
        assert total == pytest.approx(with_reasons.score, abs=2e-5)  # some 40 parts, each told to six digits
        size = sum(abs(reason.weight) for reason in with_reasons.reasons)
        assert total == pytest.approx(with_reasons.score, abs=1e-4)
        assert abs(total - without.score) <= max(0.01 * abs(without.score), 1e-5 * size + 1e-4)
        weights = [abs(reason.weight) for reason in with_reasons.reasons]
        assert weights == sorted(weights, reverse=True)
        assert {reason.kind for reason in with_reasons.reasons} <= KINDS
        assert all(reason.weight for reason in with_reasons.reasons)


SHOP = Shop().live()


def test_named_items_are_the_users_own() -> None:
    """Rule: a reason names an item that the user took, never one that others did."""
    shop = Shop().live()
    for user in shop.users:
        taste = shop.taste(user)
        for one in shop.model.rank([Ask(taste, 20)])[0].items:
            assert {reason.item_id for reason in one.reasons} <= {None, *taste.ids}


def test_a_text_reason_is_what_the_text_adds() -> None:
    """Rule: with only the text's weight, the reasons named for history items are the whole score."""
    shop = Shop().live()
    shop.model.ranker.common[:] = 0.0
    shop.model.ranker.common[NAMES.index("text")] = 2.0
    ranking = shop.model.rank([Ask(shop.taste("u3"), 5)])[0]
    for one in ranking.items:
        assert {reason.kind for reason in one.reasons} == {"similar_text"}
        assert sum(reason.weight for reason in one.reasons) == pytest.approx(one.score)
