"""The leaders are those that sorting gives, whatever changed in which order; the newest are those that are out. Not what is counted."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.leaders import Leaders, Ordered, Places, largest

N = 60
HASHES = np.random.default_rng(0).permutation(1 << 16)[:N].astype(np.uint64)
changes = st.lists(st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, 9)), min_size=1, max_size=12), max_size=40)


def best(values: np.ndarray, most: int) -> list[int]:
    """By sorting: the largest above 0, equal ones by hash64."""
    return sorted(np.flatnonzero(values > 0).tolist(), key=lambda at: (-values[at], int(HASHES[at])))[:most]


@settings(max_examples=100, deadline=None)
@given(changes, st.integers(1, 6))
def test_leaders_are_exact_at_any_time(steps: list[list[tuple[int, int]]], most: int) -> None:
    """Rule: after any changes, up and down, the leaders are those that sorting all would give."""
    values = np.random.default_rng(1).integers(0, 9, N).astype(np.float64)
    leaders = Leaders(lambda items: values[items], lambda: np.arange(N), lambda: HASHES, most)
    for step in steps:
        for at, value in step:
            values[at] = value
        leaders.changed(np.unique([at for at, _ in step]))
        for count in (1, most):
            assert sorted(leaders.top(count).tolist()) == sorted(best(values, count))


@settings(max_examples=60, deadline=None)
@given(changes, st.integers(0, 9), st.integers(1, 6))
def test_the_newest_are_those_that_are_out(steps: list[list[tuple[int, int]]], now: int, most: int) -> None:
    """Rule: the latest times up to now, in whatever order entries came and moved, and whenever they were put in order."""
    times = np.random.default_rng(2).integers(0, 9, N)
    newest = Ordered(lambda items: times[items], lambda: np.arange(N), lambda: HASHES)
    for step in steps:
        for at, time in step:
            times[at] = time
        newest.changed(np.unique([at for at, _ in step]))
        assert sorted(newest.newest(now, most).tolist()) == sorted(best(np.where(times <= now, times, 0), most))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=N), st.integers(0, 70))
def test_the_largest_are_those_that_sorting_gives(values: list[int], most: int) -> None:
    """Rule: the largest values, equal ones by hash64, and no more than are wanted."""
    items: Places = np.arange(len(values))
    found = largest(items, np.array(values, np.float64), HASHES, most)
    assert sorted(found.tolist()) == sorted(sorted(items.tolist(), key=lambda at: (-values[at], int(HASHES[at])))[:most])
