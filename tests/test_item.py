"""What is counted of items: once each, bounded, fading, and the same after a round trip. Not how it is sent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalogue import DAY_MS, Catalogue
from engine.errors import StateError
from engine.hashtable import LASTING, LATER, SEASON, SESSION, SOON
from engine.item import Changes, ItemState, apply_deltas, decode_item, encode_item
from engine.pairs import Decay, Delta, PairBatch, packed, rank_weights, shares, written
from engine.stats import ItemStats, NeighbourList, counts_of

DECAY = Decay(pairs=8)
STEPS = rank_weights(DECAY, 15)
START = 1_700_000_000_000
START_AGE = float(DECAY.halves(np.array([START]))[0][0])
UNHURRIED = settings(deadline=None)  # loops are compiled at the first call

deltas = st.lists(
    st.tuples(st.integers(0, 400 * DAY_MS), st.integers(1, 12), st.lists(st.integers(1, 12), max_size=6, unique=True), st.integers(0, 6)),
    max_size=30,
)


def batch(rows: list[tuple[int, int, list[int], int]], first: int = 0, cut: int | None = None) -> PairBatch:
    """Deltas at the offsets from `first` on; the first `cut` of them."""
    made = [
        Delta(first + n, START + time, item, tuple(o for o in others if o != item), together)
        for n, (time, item, others, together) in enumerate(rows)
    ]
    return written("events", 1, 0, packed(made[:cut]))


def applied(*batches: PairBatch, owners: int = 1) -> dict[int, ItemState]:
    """The rows after these batches were delivered in turn."""
    rows: dict[int, ItemState] = {}
    for one in batches:
        for owner in range(owners):
            apply_deltas(one, lambda key: rows.setdefault(key, ItemState()), STEPS, DECAY, owner=owner, owners=owners)
    return rows


@UNHURRIED
@given(deltas, st.integers(0, 30))
def test_the_same_records_again_change_nothing(rows: list[tuple[int, int, list[int], int]], cut: int) -> None:
    """Rule: a delta counts once, delivered again whole or from any point on: the rows are the same bytes."""
    whole = batch(rows)
    again = batch(rows, cut=cut)
    once, twice = applied(whole), applied(again, whole, whole, again)
    assert {k: encode_item(v) for k, v in once.items()} == {k: encode_item(v) for k, v in twice.items()}


@UNHURRIED
@given(deltas, st.integers(1, 4))
def test_rows_do_not_depend_on_the_number_of_owners(rows: list[tuple[int, int, list[int], int]], owners: int) -> None:
    """Rule: which worker counts an item does not matter."""
    alone, shared = applied(batch(rows)), applied(batch(rows), owners=owners)
    assert {k: encode_item(v) for k, v in alone.items()} == {k: encode_item(v) for k, v in shared.items()}


@UNHURRIED
@given(deltas, st.integers(0, 30), st.integers(1, 4))
def test_batches_add_up_however_they_are_cut_and_shared_out(rows: list[tuple[int, int, list[int], int]], cut: int, owners: int) -> None:
    """Rule: two batches applied at once, or each owner's share alone, give the same bytes as one batch after the other."""
    halves = batch(rows[:cut]), batch(rows[cut:], first=cut)
    at_once, shared = dict[int, ItemState](), dict[int, ItemState]()
    for owner in range(owners):
        changes = Changes(halves, STEPS, DECAY, owner=owner, owners=owners)
        for item in changes.items:
            changes.apply(item, at_once.setdefault(item, ItemState()))
    whole = packed([Delta(n, START + t, item, tuple(o for o in others if o != item), w) for n, (t, item, others, w) in enumerate(rows)])
    for owner, part in shares(whole, owners):
        sent = written("events", 1, 0, part)
        apply_deltas(sent, lambda key: shared.setdefault(key, ItemState()), STEPS, DECAY, owner=owner, owners=owners)
    expected = applied(*halves)
    for found in (at_once, shared):
        assert found.keys() == expected.keys()
        for item, row in found.items():
            row.applied = expected[item].applied  # which says the last offset of the batch, however it was cut
            assert encode_item(row) == encode_item(expected[item])


def test_many_batches_of_one_source_at_once_all_count() -> None:
    """Rule: however many records of one source come together, and whichever of them concern a row, each counts once."""
    batches = [batch([(0, 2 if n in (1, 8) else 1, [3], 0)], first=n) for n in range(16)]
    rows: dict[int, ItemState] = {}
    for _ in range(2):
        changes = Changes(batches, STEPS, DECAY, owner=0, owners=1)
        for item in changes.items:
            changes.apply(item, rows.setdefault(item, ItemState()))
    assert {item: row.count for item, row in rows.items()} == {1: 14, 2: 2, 3: 0}
    assert rows[3].pairs.used()[1][:, LASTING].tolist() == pytest.approx([14 * 2 ** (START_AGE), 2 * 2 ** (START_AGE)], rel=1e-5)


@UNHURRIED
@given(deltas)
def test_pairs_add_up_as_counted_the_plain_way(rows: list[tuple[int, int, list[int], int]]) -> None:
    """Rule: a pair's weights are sums over its events, of the step's factor and 2^(age / half-life); both items count the other."""
    decay = Decay()
    found: dict[int, ItemState] = {}
    apply_deltas(batch(rows), lambda key: found.setdefault(key, ItemState()), STEPS, decay, owner=0, owners=1)
    expected: dict[tuple[int, int], list[float]] = {}
    for time, item, others, together in rows:
        lasting, season = (float(h[0]) for h in decay.halves(np.array([START + time])))
        for place, other in enumerate(o for o in others if o != item):
            step = 0.85**place
            for pair in ((item, other), (other, item)):
                sums = expected.setdefault(pair, [0.0, 0.0, 0.0, 0.0])
                sums[LASTING] += step * 2.0**lasting
                sums[SEASON] += step * 2.0**season
                sums[SESSION] += 2.0**lasting if place < together else 0.0
                if pair[1] == item and place < len(SOON):
                    sums[LATER] += SOON[place] * 2.0**lasting
    keys = {(item, int(other)) for item, row in found.items() for other in row.pairs.used()[0]}
    assert keys == set(expected)
    for item, row in found.items():
        others_of, weights = row.pairs.used()
        for other, weight in zip(others_of.tolist(), weights.astype(float) * [1.0, 2.0**row.pairs.halves, 1.0, 1.0], strict=True):
            assert weight.tolist() == pytest.approx(expected[item, other], rel=1e-5)


@UNHURRIED
@given(deltas)
def test_item_rows_survive_their_codec(rows: list[tuple[int, int, list[int], int]]) -> None:
    """Rule: a row that was written is the row that is read, bounded and finite."""
    for row in applied(batch(rows)).values():
        assert decode_item(encode_item(row)) == row
        assert len(row.pairs) == len(row.pairs.used()[0]) <= DECAY.bound
        assert np.isfinite(row.pairs.weights).all()
        assert all(map(math.isfinite, (row.pairs.mass, *row.popularity)))


def test_a_century_of_pairs_stays_finite_and_the_newest_weigh_most() -> None:
    """Rule: the season's weights move with the time: those of decades ago fade to nothing, none overflows."""
    row = ItemState()
    rows = [(year * 365 * DAY_MS, 1, [year + 2], 0) for year in range(100)]
    apply_deltas(batch(rows), lambda key: row if key == 1 else ItemState(), STEPS, Decay(), owner=0, owners=1)
    keys, weights = row.pairs.used()
    assert keys.tolist() == list(range(2, 102))
    assert np.isfinite(weights).all()
    assert (np.diff(weights[-9:, SEASON]) > 0).all(), "of the last ten years each weighs more than the one before"
    assert weights[0, SEASON] == 0.0
    assert weights[0, LASTING] > 0.0


def test_of_equal_pairs_those_kept_do_not_depend_on_their_order() -> None:
    """Rule: a row over its bound keeps the strongest, of equal ones those with the smaller hash."""
    orders = [list(range(1, 13)), list(range(12, 0, -1))]
    kept = []
    for others in orders:
        row = ItemState()
        rows = [(0, 77, [other], 0) for other in others]
        apply_deltas(batch(rows), lambda key, row=row: row if key == 77 else ItemState(), STEPS, DECAY, owner=0, owners=1)  # type: ignore[misc]
        kept.append(set(row.pairs.used()[0].tolist()))
    assert len(kept[0]) == DECAY.pairs + 1
    assert set(range(1, 8)) <= kept[0]


def test_unknown_and_damaged_rows_are_said_to_be_so() -> None:
    """Rule: bytes of another format or damaged ones are an error with a remedy, not a row."""
    for raw in (b"", b"\xffabc", encode_item(ItemState())[:3]):
        with pytest.raises(StateError, match="rebuil"):
            decode_item(raw)


@UNHURRIED
@given(st.lists(st.integers(-3_000 * DAY_MS, 30_000 * DAY_MS), min_size=1, max_size=20))
def test_popularity_does_not_depend_on_the_order_of_events(times: list[int]) -> None:
    """Rule: late events count as they would have in time."""
    one, other = ItemState(), ItemState()
    for time in times:
        one.use(START + time, DECAY)
    for time in sorted(times):
        other.use(START + time, DECAY)
    assert one.popularity == pytest.approx(other.popularity)
    assert (one.first_time, one.last_time, one.count) == (other.first_time, other.last_time, other.count)


def test_neighbours_survive_publishing_and_keep_the_strongest() -> None:
    """Rule: what another worker reads of a list is what its owner chose: the strongest of all time and of the season."""
    catalogue = Catalogue(0)
    stats = ItemStats(catalogue, DECAY, most=5)
    row = ItemState()
    rows = [(0, 77, [other], 0) for other in range(1, 11) for _ in range(other)]
    rows.append((1_000 * DAY_MS, 77, [1], 1))
    decay = Decay(pairs=12)
    apply_deltas(batch(rows), lambda key: row if key == 77 else ItemState(), STEPS, decay, owner=0, owners=1)
    chosen = stats.choose(row.pairs, START + 1_000 * DAY_MS)
    keys = {catalogue.hashes[at] for at in chosen.others.tolist()}
    assert {8, 9, 10} <= keys
    assert 1 in keys, "the only one of this season"
    record = stats.publishable(77, chosen)
    stats.put_neighbours(NeighbourList(*(getattr(record, name) for name in record.__struct_fields__)))
    read = stats.neighbours.of(catalogue.place(77))
    assert read.others.tolist() == chosen.others.tolist()
    assert read.weights.tolist() == chosen.weights.tolist()


def test_counts_carry_what_the_features_read() -> None:
    """Rule: published counts give the popularity that the row has."""
    row = ItemState()
    row.use(START, DECAY)
    row.use(START + 14 * DAY_MS, DECAY)
    stats = ItemStats(Catalogue(0), DECAY)
    stats.put(counts_of(5, row))
    fast, slow = stats.popularity(START + 14 * DAY_MS)[:, 0]
    assert fast == pytest.approx(1.5)
    assert slow == pytest.approx(1.0 + 2.0 ** (-14 / 180))
