"""Shared features: what their names say, and kept in step with counts as if made anew each time. Not what they are weighed with."""

from __future__ import annotations

import numpy as np
import pytest

from engine.catalogue import DAY_MS
from engine.partition import item_key
from engine.ranker import Ranker
from engine.records import Item
from engine.sharedfeatures import FEW, MINUTE_MS, SELDOM, SHARED, Shared, some_of
from tests.little_shop import DAY, START, Shop


def test_as_counted_the_plain_way() -> None:
    """Rule: the rows are the formulas of the features' names, worked out with numpy from what is counted."""
    shop = Shop().live()
    stats, catalogue, now = shop.model.stats, shop.model.catalogue, START + 20 * DAY + 12_345
    common, n, minute = Shared(catalogue, stats).at(now), len(catalogue), now // MINUTE_MS * MINUTE_MS
    count, first, last, since = stats.count[:n], stats.first_time[:n], stats.last_time[:n], catalogue.since[:n]
    trending, popular = stats.popularity(minute)
    days, lasting = stats.decay.popularity_days
    used, dated = first > 0, since != 0
    age, release, idle = (
        np.maximum(0.0, (minute - times) / DAY_MS) for times in (np.where(used, first, np.maximum(since, stats.start)), since, last)
    )
    plain = {
        "trending": np.log1p(10 * trending) / 3,
        "popular": np.log1p(10 * popular) / 3,
        "known": np.log1p(count) / 3,
        "rising": np.log((trending + SELDOM) / (popular * days / lasting + SELDOM)) / 2,
        "new": np.exp(-age / 30),
        "recent": np.exp(-age / 365),
        "unused": 1 / (1 + count),
        "untried": ~used,
        "released": np.exp(-release / 30) * dated,
        "released_year": np.exp(-release / 365) * dated,
        "dated": dated,
        "used_week": np.exp(-idle / 7) * used,
        "used_season": np.exp(-idle / 60) * used,
    }
    assert tuple(plain) == SHARED
    assert 0 < used.sum() < n
    assert 0 < dated.sum() < n
    for row, (name, values) in enumerate(plain.items()):
        np.testing.assert_allclose(common.features[row], values, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(common.cold, 1 / (1 + count / FEW), rtol=1e-6)
    np.testing.assert_allclose(common.root, 1 / np.sqrt(count + FEW), rtol=1e-6)


@pytest.mark.parametrize("items", [6, 60])
def test_kept_in_step_with_counts_as_if_made_anew(items: int) -> None:
    """Rule: features and what they add are bit for bit those made anew, whatever changed in between: counts of few items or of most,
    entries, the minute, weights; and those of some items alone are the same.
    """
    rng, shop, ranker = np.random.default_rng(items), Shop(items), Ranker()
    model, now = shop.model, START
    kept = Shared(model.catalogue, model.stats)
    for step in range(120):
        for _ in range(int(rng.integers(4))):
            shop.event(f"u{rng.integers(5)}", f"i{rng.integers(items)}", now)
        match int(rng.integers(6)):
            case 0:
                now += int(rng.integers(2 * MINUTE_MS))
            case 1:
                model.catalogue.put(Item(f"i{rng.integers(items)}", "Changed", available_from=now - int(rng.integers(9 * DAY))))
            case 2:
                model.catalogue.put(Item(f"later{step}", "Later"))
            case 3:
                ranker = Ranker()
                ranker.own[:] = rng.normal(size=ranker.own.shape)
            case _:
                pass
        fresh = Shared(model.catalogue, model.stats).at(now)
        kept.at(now)
        for name in ("features", "cold", "root"):
            assert getattr(kept, name).tobytes() == getattr(fresh, name).tobytes(), (step, name)
        if rng.integers(2):
            assert [part.tobytes() for part in kept.weighted(ranker)] == [part.tobytes() for part in fresh.weighted(ranker)], step
        some = np.sort(rng.permutation(len(model.catalogue))[:5])
        assert some_of(model.catalogue, model.stats, now, some).features.tobytes() == fresh.features[:, some].tobytes()


def test_changes_that_nobody_asks_about_are_not_kept() -> None:
    """Rule: a large catalogue never asks for these features; what changed there must not pile up."""
    shop = Shop(40)
    kept = Shared(shop.model.catalogue, shop.model.stats)
    kept.at(START)
    for n in range(40):
        shop.event("u1", f"i{n}", START + n)
    assert kept.changed is None
    kept.at(START)
    shop.event("u2", "i1", START + 50)
    assert kept.changed == {shop.model.catalogue.index[item_key("i1")]}
