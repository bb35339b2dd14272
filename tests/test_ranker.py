"""The ranker learns what is taken, survives its codec, and is never spoiled by one example."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.errors import StateError
from engine.features import CONTEXT, NAMES, SITUATIONS
from engine.learning import FIRST, learns_from
from engine.network import HIGH, LOW, MEMBERS, SCALED, Network, forward
from engine.ranker import Example, Ranker, RankerState, pack_ranker, unpack_ranker

F = len(NAMES)
anything = arrays(np.float32, (5, F + 1), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))


def example(rows: np.ndarray, situation: int, weight: float = 1.0) -> Example:
    """An example of these rows, (1 + negatives, F + 1)."""
    return Example("events", 1, 0, 0, situation, rows.astype("<f4").tobytes(), "", (0.1,) * CONTEXT, weight)


@settings(deadline=None)  # the first example waits for the compiler
@given(st.lists(st.tuples(anything, st.integers(0, SITUATIONS - 1)), max_size=5))
def test_no_example_makes_a_weight_that_is_not_finite(examples: list[tuple[np.ndarray, int]]) -> None:
    """Rule: whatever the features, weights stay finite, and the same examples give the same weights."""
    one, other = Ranker(), Ranker()
    for features, situation in examples:
        one.learn(example(features, situation))
        other.learn(example(features, situation))
    assert one.finite()
    assert pack_ranker(one, {}) == pack_ranker(other, {})


def test_a_ranker_learns_what_is_taken() -> None:
    """Rule: a feature that the items taken have and the others lack gets a weight, in this situation more than in others."""
    rng, ranker = np.random.default_rng(0), Ranker()
    before = ranker.weights()[2, 4]
    for _ in range(200):
        x = np.zeros((9, F + 1), np.float32)
        x[:, 4] = rng.random(9)
        x[0, 4] += 0.5
        ranker.learn(example(x, 2))
    assert ranker.weights()[2, 4] > ranker.weights()[0, 4] > before
    assert ranker.version == 200


def test_a_negative_counts_for_as_many_items_as_it_stands_for() -> None:
    """Rule: ten like rows with weight 1 teach the same as one row that stands for ten."""
    many, one = Ranker(), Ranker()
    x = np.zeros((11, F + 1), np.float32)
    x[0, 3] = 1.0
    many.learn(example(x, 0))
    short = x[:2].copy()
    short[1, -1] = np.log(10.0)
    one.learn(example(short, 0))
    assert many.weights() == pytest.approx(one.weights(), rel=1e-6)


def test_rankers_survive_their_codec() -> None:
    """Rule: a ranker read back goes on as the one that was written."""
    ranker = Ranker(generation="g-000001")
    one = example(np.random.default_rng(0).random((6, F + 1)), 1)
    ranker.learn(msgspec.structs.replace(one, listed=(-1.0, -2.0), taken=(1,)))
    assert ranker.calibration.learned == 1
    read, applied = unpack_ranker(pack_ranker(ranker, {"events/0": (1, 7)}))
    assert applied == {"events/0": (1, 7)}
    assert pack_ranker(read, applied) == pack_ranker(ranker, applied)


def test_weights_that_went_bad_are_refused() -> None:
    """Rule: other features, other formats, damage and weights that are not finite are errors, never served."""
    good = pack_ranker(Ranker(), {})
    state = msgspec.msgpack.decode(good, type=RankerState)
    bad = Ranker()
    bad.common[0] = np.nan
    unsure = Ranker()
    unsure.calibration.offset = np.nan
    older = msgspec.msgpack.encode(msgspec.structs.replace(state, format=0))
    other = msgspec.msgpack.encode(msgspec.structs.replace(state, names=("a",)))
    for raw in (pack_ranker(bad, {}), pack_ranker(unsure, {}), older, other, good[:-9], b""):
        with pytest.raises(StateError, match="learn anew"):
            unpack_ranker(raw)


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**9))
def test_what_is_learned_from_is_a_rule_of_the_event(key: int, events: int) -> None:
    """Rule: all of the first events are examples; an event that is one late in the stream would have been one earlier by the same rule."""
    assert learns_from(key, events) == learns_from(key, events)
    if events < 2 * FIRST:
        assert learns_from(key, events)


def test_an_example_that_fits_no_ranker() -> None:
    """Rule: an example without rows, or of a situation that there is not, says so instead of being learned."""
    row = np.zeros((1, F + 1), "<f4").tobytes()
    for situation, features in ((SITUATIONS, row), (-1, row), (0, b"")):
        with pytest.raises(ValueError, match="situation"):
            Example("events", 1, 0, 0, situation, features, "", (0.0,) * CONTEXT).matrix()


def test_weights_of_another_shape_are_refused() -> None:
    """Rule: arrays that are too short, or no whole numbers of bytes, are damaged state."""
    state = msgspec.msgpack.decode(pack_ranker(Ranker(), {}), type=RankerState)
    for common in (state.arrays[0][:8], state.arrays[0][:5], b""):
        with pytest.raises(StateError) as caught:
            unpack_ranker(msgspec.msgpack.encode(msgspec.structs.replace(state, arrays=(common, *state.arrays[1:]))))
        assert caught.value.code == "state_damaged"


def surprising(rng: np.random.Generator, n: int) -> Example:
    """What is taken is what two features are alike in: nothing linear tells it."""
    x = rng.normal(size=(n, F + 1)).astype(np.float32)
    x[:, -1] = 0.0
    x[0, 3] = x[0, 4] * 0.9 + 0.1 * x[0, 3]
    return example(x, 0)


def test_networks_learn_what_no_linear_score_can() -> None:
    """Rule: they are trusted once they do better than the linear score on examples not yet learned, and then put the item taken higher."""
    rng, ranker = np.random.default_rng(0), Ranker()
    for _ in range(1_500):
        ranker.learn(surprising(rng, 12))
    assert ranker.network.trusted
    better = []
    for _ in range(200):
        one = surprising(rng, 12)
        x = one.matrix()[:, :-1]
        linear = x @ ranker.weights()[0]
        whole = linear + ranker.network.added(x, one.context, 0)
        better.append(int((linear > linear[0]).sum()) - int((whole > whole[0]).sum()))
    assert np.mean(better) > 0.5


def test_networks_that_do_worse_are_not_used() -> None:
    """Rule: networks whose edge is gone add nothing, and are used again when they have it back."""
    rng, ranker = np.random.default_rng(1), Ranker()
    for _ in range(800):
        ranker.learn(surprising(rng, 12))
    x = surprising(rng, 12).matrix()[:, :-1]
    assert ranker.network.added(x, (0.1,) * CONTEXT, 0).any()
    ranker.network.edge = -0.01
    assert not ranker.network.added(x, (0.1,) * CONTEXT, 0).any()


def test_a_network_adds_nothing_before_it_has_learned() -> None:
    """Rule: the first lists of an installation are those of the linear weights."""
    fresh = Network.new()
    assert not fresh.trusted
    assert not fresh.net.last.any()
    assert len(fresh.net.last) % MEMBERS == 0


def test_an_example_of_more_weight_teaches_more() -> None:
    """Rule: an example of weight 0 teaches nothing, one of weight 2 as two of weight 1 would, before rates are adapted."""
    x = np.random.default_rng(0).random((6, F + 1)).astype(np.float32)
    nothing, one, two = Ranker(), Ranker(), Ranker()
    for ranker, weight in ((nothing, 0.0), (one, 1.0), (two, 2.0)):
        ranker.learn(example(x, 1, weight))
    assert np.array_equal(nothing.weights(), Ranker().weights())
    assert (two.common_squares - 0.01) == pytest.approx(4 * (one.common_squares - 0.01))


def test_short_rows_worked_out_together_are_as_each_alone() -> None:
    """Rule: what networks add is the plain formula, and to a row bit for bit the same whoever is beside it."""
    rng, network = np.random.default_rng(3), Network.new()
    net = network.net._replace(
        last=rng.normal(size=len(network.net.last)).astype(np.float32),
        middle=rng.normal(size=SCALED).astype(np.float32),
        scale=rng.uniform(0.5, 2.0, SCALED).astype(np.float32),
    )
    counts = np.array([10, 0, 300, 7, 511, 1, 600, 3])
    x = rng.normal(size=(len(counts), len(NAMES), 600)).astype(np.float32)
    context, situation = rng.normal(size=(len(counts), CONTEXT)).astype(np.float32), rng.integers(SITUATIONS, size=len(counts))
    together = np.full((len(counts), 600), np.nan, np.float32)
    forward(net, counts, x, context, situation, together)
    for r, count in enumerate(counts.tolist()):
        one = slice(r, r + 1)
        alone = np.full((1, 600), np.nan, np.float32)
        forward(net, counts[one], x[one], context[one], situation[one], alone)
        assert together[r].tobytes() == alone[0].tobytes()
        assert np.isnan(together[r, count:]).all()
        known = np.concatenate([x[r, :, :count], np.repeat(context[r][:, None], count, 1)])
        z = np.concatenate([np.clip((known - net.middle[:, None]) * net.scale[:, None], LOW, HIGH), np.zeros((SITUATIONS, count))])
        z[SCALED + situation[r]] = 1.0
        plain = net.last @ np.maximum(net.first.T @ z + net.bias[:, None], 0.0) / MEMBERS
        np.testing.assert_allclose(together[r, :count], plain, rtol=1e-3, atol=1e-3)
