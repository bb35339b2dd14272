"""Features: finite, of the order of 1, and what their names say. Not the weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.features import COLD, NAMES, PERSONAL, SITUATIONS, Taste, features_of, situations, taste_of
from engine.partition import item_key
from engine.records import Item
from engine.sharedfeatures import SHARED, Shared
from engine.user import UserState
from tests.little_shop import DAY, START, Shop

SHOP = Shop().live()
KEYS = [item_key(f"i{n}") for n in range(40)]

tastes = st.builds(
    lambda recent, now, last, events, together: Taste(
        tuple(KEYS[n] for n in recent), tuple(f"i{n}" for n in recent), (), now, last, events, together
    ),
    st.lists(st.integers(0, 39), max_size=45, unique=True),
    st.one_of(st.integers(0, 2**52), st.just(START)),
    st.integers(0, 2**52),
    st.integers(0, 1_000),
    st.integers(0, 50),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(tastes, min_size=1, max_size=4))
def test_features_are_finite_whatever_is_asked(found: list[Taste]) -> None:
    """Rule: unknown items, times long past or far ahead and histories of any length give finite numbers."""
    for taste in found:
        features = features_of(Shared(SHOP.model.catalogue, SHOP.model.stats), taste)
        assert np.isfinite(features.shared).all()
        assert np.isfinite(features.personal).all()
    where = situations(found)
    assert ((where >= 0) & (where < SITUATIONS)).all()


def test_every_feature_has_one_name_and_one_row() -> None:
    """Rule: names are distinct, and `named` and `rows` agree."""
    assert len(set(NAMES)) == len(NAMES) == len(SHARED) + len(PERSONAL) + len(COLD)
    assert PERSONAL[-len(COLD) :] == tuple(name.removesuffix("_cold") for name in COLD)
    features = features_of(Shared(SHOP.model.catalogue, SHOP.model.stats), SHOP.taste("u1"))
    items = np.array([3, 9, 11])
    rows = features.rows(items)
    for n, name in enumerate(NAMES):
        assert rows[:, n].tolist() == features.named(name)[items].tolist()
    weights = np.random.default_rng(0).normal(size=len(NAMES)).astype(np.float32)
    np.testing.assert_allclose(features.scores(weights)[items], rows @ weights, rtol=1e-4, atol=1e-5)


def test_creators_tags_and_dates_match() -> None:
    """Rule: what is by the same, filed under the same and from the same time has the highest of these features."""
    shop = Shop(0)
    for name, creator, tags, day in (
        ("a", "Ann", ("x", "y"), 0),
        ("b", "Ann", ("x", "y"), 1),
        ("c", "Bob", ("z",), 900),
        ("d", "", (), None),
    ):
        published = None if day is None else START + day * DAY
        shop.model.catalogue.put(Item(name, name, creator=creator, tags=tags, published_at=published))
    shop.event("u", "a", START + 1_000 * DAY)
    features = features_of(Shared(shop.model.catalogue, shop.model.stats), shop.taste("u"))
    for name in ("creator", "creator_last", "tags", "tags_last", "date", "date_last", "creator_cold", "tags_cold"):
        values = features.named(name).tolist()
        assert values[1] > values[2] >= values[3] == 0.0, name
    assert features.named("tags")[1] == pytest.approx(1.0)


def test_who_is_not_to_be_personalised_has_no_taste() -> None:
    """Rule: without consent only what may not be listed again is read."""
    row = SHOP.users["u2"]
    quiet = UserState(history=row.history, seen=row.seen, events=row.events, personalise=False)
    assert taste_of(quiet, START) == Taste((), (), tuple(row.seen), START, 0, 0)
    assert taste_of(None, START) == Taste((), (), (), START, 0, 0)


def test_a_long_session_is_kept_whole() -> None:
    """Rule: the items of the session that goes on are all in the taste, up to a bound; of older ones the newest."""
    shop = Shop()
    for n in range(30):
        shop.event("u", f"i{n}", START + n, session="basket")
    assert (len(shop.taste("u").recent), shop.taste("u").together) == (30, 30)
    shop.event("u", "i31", START + DAY, session="next")
    assert (len(shop.taste("u").recent), shop.taste("u").together) == (20, 1)
