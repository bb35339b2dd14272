"""What is counted of items: once each, bounded, fading, and the same after a round trip. Not how it is sent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.catalogue import DAY_MS, Catalogue
from engine.errors import StateError
from engine.item import Decay, ItemState, PairBatch, PairDelta, apply_deltas, decode_item, encode_item, pair_scale, rank_weights
from engine.stats import ItemStats, NeighbourList, counts_of

DECAY = Decay(pairs=8)
STEPS = rank_weights(DECAY, 15)
START = 1_700_000_000_000

deltas = st.lists(
    st.tuples(st.integers(0, 400 * DAY_MS), st.integers(1, 12), st.lists(st.integers(1, 12), max_size=6, unique=True), st.integers(0, 6)),
    max_size=30,
)


def batch(rows: list[tuple[int, int, list[int], int]], first: int = 0) -> PairBatch:
    """Deltas at the offsets from `first` on."""
    made = tuple(
        PairDelta(first + n, START + time, 1.0, item, tuple(o for o in others if o != item), True, together)
        for n, (time, item, others, together) in enumerate(rows)
    )
    return PairBatch("events", 1, 0, made)


def applied(*batches: PairBatch, owners: int = 1) -> dict[int, ItemState]:
    """The rows after these batches were delivered in turn."""
    rows: dict[int, ItemState] = {}
    for one in batches:
        for owner in range(owners):
            apply_deltas(one, lambda key: rows.setdefault(key, ItemState()), STEPS, DECAY, owner=owner, owners=owners)
    return rows


@given(deltas, st.integers(0, 30))
def test_the_same_records_again_change_nothing(rows: list[tuple[int, int, list[int], int]], cut: int) -> None:
    """Rule: a delta counts once, delivered again whole or from any point on: the rows are the same bytes."""
    whole = batch(rows)
    again = PairBatch("events", 1, 0, whole.deltas[:cut])
    once, twice = applied(whole), applied(again, whole, whole, again)
    assert {k: encode_item(v) for k, v in once.items()} == {k: encode_item(v) for k, v in twice.items()}


@given(deltas, st.integers(1, 4))
def test_rows_do_not_depend_on_the_number_of_owners(rows: list[tuple[int, int, list[int], int]], owners: int) -> None:
    """Rule: which worker counts an item does not matter."""
    alone, shared = applied(batch(rows)), applied(batch(rows), owners=owners)
    assert {k: encode_item(v) for k, v in alone.items()} == {k: encode_item(v) for k, v in shared.items()}


@given(deltas)
def test_item_rows_survive_their_codec(rows: list[tuple[int, int, list[int], int]]) -> None:
    """Rule: a row that was written is the row that is read, bounded, finite, with the keys of both kinds of pairs in one order."""
    for row in applied(batch(rows)).values():
        assert decode_item(encode_item(row)) == row
        assert len(row.pairs) <= DECAY.bound
        assert set(row.session) <= set(row.pairs)
        assert all(
            map(math.isfinite, (row.mass, *(part for both in row.pairs.values() for part in (both.real, both.imag)), *row.popularity))
        )


def test_unknown_and_damaged_rows_are_said_to_be_so() -> None:
    """Rule: bytes of another format or damaged ones are an error with a remedy, not a row."""
    for raw in (b"", b"\xffabc", encode_item(ItemState())[:3]):
        with pytest.raises(StateError, match="rebuil"):
            decode_item(raw)


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


def test_old_pairs_fade_at_two_speeds() -> None:
    """Rule: after a half-life a new pair weighs twice an old one, for the season sooner than for all time."""
    later = pair_scale(START + 60 * DAY_MS, Decay(season_days=60.0))
    now = pair_scale(START, Decay(season_days=60.0))
    assert later.imag / now.imag == pytest.approx(2.0)
    assert later.real / now.real == pytest.approx(2.0 ** (60 / 3_650))


def test_neighbours_survive_publishing_and_keep_the_strongest() -> None:
    """Rule: what another worker reads of a list is what its owner chose: the strongest of all time and of the season."""
    catalogue = Catalogue(0)
    stats = ItemStats(catalogue, DECAY, most=5)
    row = ItemState()
    for other in range(1, 11):
        row.pair((other,), (float(other),), pair_scale(START, DECAY), DECAY)
    row.pair((1,), (0.5,), pair_scale(START + 1_000 * DAY_MS, DECAY), DECAY, 1)
    chosen = stats.choose(row.all_pairs(), START + 1_000 * DAY_MS)
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
