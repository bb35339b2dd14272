"""Probabilities of listed items: always some, in the order of the shares, and honest once lists were learned. Not the quality of lists."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.assess import Listed, assess
from engine.calibration import EVERY, LISTED, STEEP, Calibration, log_shares
from engine.dataset import read
from engine.evaluate import Evaluation
from engine.metrics import expected_calibration_error
from engine.model import Ask
from engine.partition import item_key
from engine.user import Position
from engine.work import CANDIDATES
from tests.little_shop import Shop
from tests.test_evaluate import made_up_vectors, write

logs = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=LISTED).map(tuple)


@given(st.lists(st.tuples(logs, st.lists(st.integers(-2, 12), max_size=3)), max_size=8), logs)
def test_no_list_spoils_a_calibration(lists: list[tuple[tuple[float, ...], list[int]]], asked: tuple[float, ...]) -> None:
    """Rule: whatever is learned, numbers stay finite, and probabilities are within 0 and 1 and in the order of the shares."""
    one = Calibration()
    for shares, taken in lists:
        one.learn(shares, taken)
    assert one.finite()
    assert Calibration.unpacked(one.packed()).packed() == one.packed()
    known = sorted(share for share in asked if not math.isnan(share))
    found = one.probabilities(known)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()


def test_what_was_said_too_surely_is_said_less_surely() -> None:
    """Rule: where items are taken half as often as their shares say, probabilities come near how often they are, and stay there."""
    rng, one = np.random.default_rng(0), Calibration()
    said, raw, taken = [], [], []
    for n in range(3_000):
        shares = np.sort(rng.dirichlet(np.full(LISTED, 0.5)))[::-1] * 0.6
        hit = [at for at in range(LISTED) if rng.random() < shares[at] / 2]
        if n >= 1_000:
            said += one.probabilities(np.log(shares)).tolist()
            raw += shares.tolist()
            taken += [at in hit for at in range(LISTED)]
        one.learn(np.log(shares).tolist(), hit)
    before, after = (expected_calibration_error(np.array(some), np.array(taken)) for some in (raw, said))
    assert after < 0.4 * before
    assert STEEP[0] < one.slope < STEEP[1]


def test_shares_are_those_of_the_whole_catalogue() -> None:
    """Rule: shares of all that may be listed add up to one, and stand in the order of the list."""
    shop = Shop().live(60)
    taste = shop.taste("u1")
    items, found = shop.model.shares(taste)
    assert len(items) == int(shop.model.open_for(taste).sum()) <= CANDIDATES
    assert np.exp(found).sum() == pytest.approx(1.0)
    listed = shop.model.rank([Ask(taste, k=len(items), reasons=False)])[0].items
    names = [one.item_id for one in shop.model.catalogue.items if one is not None]
    assert [names[at] for at in items[:5]] == [one.item_id for one in listed[:5]]
    assert found[0] - found[4] == pytest.approx(listed[0].score - listed[4].score, abs=1e-4)


def test_what_is_not_scored_by_networks_counts_as_those_asked() -> None:
    """Rule: the others' part is their linear one, moved as networks move a few of them."""
    scores, rest = np.array([2.0, 1.0]), np.array([0.0, -1.0, -2.0])
    exact = scores - np.log(np.exp(scores).sum() + np.exp(rest + 0.5).sum())
    assert log_shares(scores, rest, rest[:2], np.full(2, 0.5)) == pytest.approx(exact)
    assert log_shares(scores, rest[:0], rest[:0], rest[:0]) == pytest.approx(scores - np.log(np.exp(scores).sum()))


def test_one_example_in_some_says_what_would_have_been_listed() -> None:
    """Rule: it tells the shares of the first items as they were before, and where the taken one stood among them."""
    shop = Shop().live(60)
    taste = shop.taste("u1")
    items, found = shop.model.shares(taste)
    first = shop.model.catalogue.items[items[2]]
    assert first is not None
    told = shop.model.example(taste, item_key(first.item_id), Position("events", 1, 0, EVERY))
    plain = shop.model.example(taste, item_key(first.item_id), Position("events", 1, 0, EVERY + 1))
    assert told is not None
    assert plain is not None
    assert (told.taken, plain.listed, plain.taken) == ((2,), (), ())
    assert told.listed == pytest.approx(found[:LISTED])


def test_an_evaluation_says_how_probable_what_it_lists_is(tmp_path: Path) -> None:
    """Rule: every listed item has a probability, in the order of the list, and calibration errs less than none."""
    dataset = read(write(tmp_path / "data"))
    errors = []
    for calibrated in (False, True):
        run = Evaluation(dataset, made_up_vectors(dataset), calibrated=calibrated)
        answers = list(run.answers("next"))
        assert all(len(answer.scores) == len(answer.items) for answer in answers)
        assert all(list(answer.scores) == sorted(answer.scores, reverse=True) for answer in answers)
        assert run.model.ranker.calibration.learned > 0
        lists = {answer.case.id: Listed(answer.items, answer.scores) for answer in answers}
        errors.append(assess(dataset, "next", lists).calibration)
    assert errors[1] <= errors[0]
