"""Streams and catalogues as nobody wants them: times from the ends of the calendar, dates likewise, one item a hundred times, wild rules.

Lists stay finite, ordered, free of what was seen, and come out the same when the stream is played again.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.model import Ask, Ranking
from engine.network import ENOUGH
from engine.partition import item_key
from engine.policy import Variety
from engine.records import Item, Rule
from engine.rules import compile_rules
from engine.user import Position
from tests.little_shop import START, Shop

ENDS = (0, 1, 86_400_000, START - 1, START, START + 1, START + 10**12, (1 << 52) - 1)
"""Times (ms) from 1970 to the year 144683."""
times = st.one_of(st.sampled_from(ENDS), st.integers(0, (1 << 52) - 1))


class Step(NamedTuple):
    """One event."""

    user: str
    item: str
    time: int
    kind: str
    session: str | None


steps = st.lists(
    st.builds(
        Step,
        user=st.sampled_from(["ann", "bob"]),
        item=st.integers(0, 34).map(lambda n: f"i{n}"),  # the last five are unknown
        time=times,
        kind=st.sampled_from(["view", "click", "purchase", "dislike", "skip"]),
        session=st.sampled_from([None, "s"]),
    ),
    min_size=1,
    max_size=40,
)
dates = st.lists(st.one_of(st.none(), st.sampled_from([-(1 << 45), *ENDS])), min_size=30, max_size=30)
rules = st.lists(
    st.builds(
        Rule,
        rule_id=st.integers(0, 3).map(str),
        action=st.sampled_from(["pin", "boost", "bury", "cap"]),
        match=st.sampled_from([{}, {"tags": "cave"}, {"item_ids": ("i1", "i2")}]),
        rank=st.integers(0, 50),
        factor=st.sampled_from([1e-300, 1e-6, 1e6, 1e300]),
        max=st.integers(0, 3),
    ),
    max_size=3,
)


def played(
    story: list[Step], published: list[int | None], found: list[Rule], variety: Variety, *, times_over: int
) -> tuple[Shop, list[Ranking]]:
    """A shop after a story, whose ranker learned from it and whose networks are trusted whatever they say; and everybody's list."""
    shop = Shop()
    for n, date in enumerate(published):
        item = shop.model.catalogue.items[n]
        assert item is not None
        shop.model.catalogue.put(
            Item(item.item_id, item.title, tags=item.tags, creator=item.creator, published_at=date, available_from=date)
        )
    shop.model.catalogue_changed()
    shop.model.use_rules(compile_rules(found))
    shop.model.variety = variety
    for n, step in enumerate(story * times_over):
        example = shop.model.example(shop.taste(step.user, 0), item_key(step.item), Position("events", 1, 0, n))
        if example is not None:
            shop.model.ranker.learn(example)
        shop.event(*step)
    network = shop.model.ranker.network
    network.learned, network.edge = max(network.learned, ENOUGH), 1.0
    asks = [Ask(shop.taste(user, later), 12) for user in ("ann", "bob", "nobody") for later in (0, 1, 10**13)]
    return shop, shop.model.rank(asks)


UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)  # to make a story of hundreds of events smaller takes longer than to read it


@settings(max_examples=60, deadline=None, phases=UNSHRUNK, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(steps, dates, rules, st.sampled_from([Variety(), Variety(50.0, 1, 1)]), st.sampled_from([1, 1, 20]))
def test_nothing_is_nan_and_nothing_seen_returns(
    story: list[Step], published: list[int | None], found: list[Rule], variety: Variety, times_over: int
) -> None:
    """Rule: whatever comes, scores and reasons are finite, lists are ordered, and have nothing twice and nothing that was seen."""
    shop, rankings = played(story, published, found, variety, times_over=times_over)
    assert shop.model.ranker.finite()
    for user, ranking in zip(("ann",) * 3 + ("bob",) * 3 + ("nobody",) * 3, rankings, strict=True):
        scores = [one.score for one in ranking.items]
        assert all(map(math.isfinite, scores))
        assert scores == sorted(scores, reverse=True)
        assert all(math.isfinite(part.weight) for one in ranking.items for part in one.reasons)
        listed = [one.item_id for one in ranking.items]
        assert len(set(listed)) == len(listed)
        assert not {item_key(name) for name in listed} & set(shop.taste(user).seen)


@settings(max_examples=25, deadline=None, phases=UNSHRUNK, suppress_health_check=[HealthCheck.too_slow])
@given(steps, dates, rules)
def test_a_stream_played_again_gives_the_same_lists(story: list[Step], published: list[int | None], found: list[Rule]) -> None:
    """Rule: equal streams lead to equal lists, to the last bit."""
    one, other = (played(story, published, found, Variety(0.5), times_over=2)[1] for _ in range(2))
    assert one == other


def test_wild_events_are_in_the_story() -> None:
    """The stories above are as wild as they claim."""
    ends: Any = ENDS
    assert min(ends) == 0
    assert max(ends) > START + 10**12
