"""Who may serve: intervals, reasons, and that what is worse does not pass. Not how generations are made."""

from __future__ import annotations

import numpy as np
import pytest

from engine.manifest import Compared
from engine.pooling import centre_rows
from engine.space import Floats
from engine.user import Limits
from export.gate import FEWEST, FEWEST_USERS, LIST, ONE_IN, TEXT, Judged, compared, evenly, judge, reasons_against
from tests.training_shop import FAMILIES, SIZE, shop

SURE = Compared(500, 0.10, 0.20, 0.08, 0.12, users=60)


def test_the_interval_is_that_of_users_not_of_cases() -> None:
    """Rule: a hundred cases of one user say no more than one: the interval is as wide as with one case a user."""
    rng = np.random.default_rng(1)
    gains = rng.random(40)
    alone = compared([f"u{n}" for n in range(40)], np.zeros(40), gains)
    often = compared([f"u{n}" for n in range(40) for _ in range(100)], np.zeros(4_000), np.repeat(gains, 100))
    assert (alone.low, alone.high) == pytest.approx((often.low, often.high), abs=2e-4)
    assert alone.low < gains.mean() < alone.high


def test_the_interval_holds_what_it_says() -> None:
    """Rule: of many intervals 95 % hold the true difference, give or take what chance does to 200 of them."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        one = compared([f"u{n}" for n in range(80)], np.zeros(80), rng.normal(0.1, 0.3, 80))
        inside += one.low <= 0.1 <= one.high
    assert 180 <= inside <= 199


@pytest.mark.parametrize(
    "text, served, word",
    [
        (Compared(FEWEST - 1, 0.1, 0.9, 0.7, 0.9, users=60), SURE, "cases to compare on"),
        (Compared(500, 0.1, 0.9, 0.7, 0.9, users=FEWEST_USERS - 1), SURE, "29 users to compare on, 30 needed"),
        (Compared(500, 0.1, 0.11, -0.001, 0.02, users=60), SURE, "not better for certain"),
        (Compared(500, 0.1, 0.1, float("nan"), float("nan"), users=60), SURE, "not better for certain"),
        (SURE, Compared(500, 0.1, 0.09, -0.02, 0.001, users=60), "more than 5% worse"),
    ],
)
def test_reasons(text: Compared, served: Compared, word: str) -> None:
    """Rule: too few cases, a gain that may be chance, and lists that may be worse are each refused, and named."""
    assert any(word in reason for reason in reasons_against({TEXT: text, LIST: served}))


@pytest.mark.parametrize("counts", [[400, 90, *[3] * 60], [1_000, *[1] * 99], [5] * 40, [7] * 30])
def test_no_user_outweighs_the_others(counts: list[int]) -> None:
    """Rule: of no user more than one in ten of the cases counts, and no case is left out that need not be; the same ones each time."""
    users = np.repeat([f"u{n}" for n in range(len(counts))], counts).tolist()
    kept = evenly(users)
    _, found = np.unique(np.array(users)[kept], return_counts=True)
    assert len(found) == len(counts)
    assert found.max() * ONE_IN <= len(kept)
    one_more = found.max() + 1
    assert len(kept) == len(users) or one_more * ONE_IN > np.minimum(counts, one_more).sum()
    np.testing.assert_array_equal(kept, evenly(users))


@pytest.mark.parametrize("count", [0, 1, FEWEST_USERS - 1])
def test_with_few_users_nothing_passes(count: int) -> None:
    """Rule: however sure the figures of a handful of users look, they are no verdict on everybody's lists."""
    users = [f"u{n}" for n in range(count) for _ in range(200)]
    assert len(evenly(users)) == len(users)
    figures = compared(users, np.zeros(len(users)), np.ones(len(users)))
    assert figures.users == count
    assert any("users to compare on" in reason for reason in reasons_against({TEXT: figures, LIST: figures}))


def test_what_is_no_better_seldom_passes() -> None:
    """Rule: with the fewest users and cases that a verdict takes, candidates without a true gain pass as often as the interval says."""
    rng = np.random.default_rng(5)
    passed = 0
    for _ in range(200):
        own = np.repeat(np.arange(FEWEST_USERS), 10)
        gains = rng.normal(0, 0.05, FEWEST_USERS)[own] + rng.normal(0, 0.25, len(own))
        figures = compared([f"u{n}" for n in own], np.full(len(own), 0.1), 0.1 + gains)
        passed += not reasons_against({TEXT: figures, LIST: SURE})
    assert passed <= 12


def test_text_that_knows_families_beats_text_that_does_not_and_never_the_other_way() -> None:
    """Rule: on the same events the better vectors pass against the worse, and the worse are refused against the better."""
    data = shop(3_000)
    rng = np.random.default_rng(3)
    worse = centre_rows(rng.normal(size=(FAMILIES * SIZE, 24)), None)
    better = centre_rows(np.repeat(rng.normal(size=(FAMILIES, 24)), SIZE, axis=0) + 0.3 * worse, None)
    start = round(data.rows[2_000].time * 1000)
    limits = Limits()

    def verdict(active: Floats, candidate: Floats) -> Judged:
        return judge(data, active, candidate, against="g-000001", start_ms=start, ranker=None, limits=limits, watch=lambda *_: None)

    passed, refused = verdict(worse, better), verdict(better, worse)
    assert passed.gate.passed, passed.gate
    assert passed.gate.lists[TEXT].low > 0
    assert not refused.gate.passed
    assert refused.gate.reasons
    assert passed.ranker.version > 0, "the weights have learned the events"


def test_against_itself_a_generation_does_not_pass() -> None:
    """Rule: what is not better is not put in the place of what serves."""
    data = shop(1_500)
    vectors = centre_rows(np.random.default_rng(4).normal(size=(FAMILIES * SIZE, 24)), None)
    start = round(data.rows[1_000].time * 1000)
    found = judge(data, vectors, vectors, against="g-000001", start_ms=start, ranker=None, limits=Limits(), watch=lambda *_: None)
    assert not found.gate.passed
    assert found.gate.lists[TEXT].low == found.gate.lists[TEXT].high == 0
