"""The text index: it finds what comparing with all finds, follows each change of a vector, and two are alike. Not its speed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from engine import textindex
from engine.space import Floats, Space
from engine.textindex import TextIndex

DIMS, N = 16, 3_000
HASHES = np.random.default_rng(7).permutation(1 << 20)[: 2 * N].astype(np.uint64)


def rows(count: int, seed: int) -> Floats:
    """Unit vectors."""
    made = np.random.default_rng(seed).normal(size=(count, DIMS)).astype(np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def space(count: int = N, seed: int = 0) -> Space:
    """A space full of vectors."""
    made = Space(DIMS, 2 * N)
    made.put_many(np.arange(count), rows(count, seed))
    return made


def exact(of: Space, query: Floats, most: int) -> list[int]:
    """By comparing with all."""
    cosines = np.where(of.has_vector, of.vectors @ query, -2.0)
    return sorted(np.argsort(-cosines, kind="stable")[:most].tolist())


def test_outside_the_graph_it_is_exact() -> None:
    """Rule: vectors that are compared one by one are found exactly."""
    one = space()
    index = TextIndex(one)
    for query in rows(20, 1):
        assert sorted(index.nearest(query, 10, HASHES).tolist()) == exact(one, query, 10)


def test_the_graph_misses_few() -> None:
    """Rule: of the ten nearest of random vectors nearly all are found."""
    one = space()
    index = TextIndex(one, HASHES)
    assert index.in_graph == len(index) == N
    shares = [len(set(index.nearest(query, 10, HASHES).tolist()) & set(exact(one, query, 10))) / 10 for query in rows(50, 1)]
    assert np.mean(shares) > 0.9


@pytest.mark.parametrize("built", [False, True])
def test_a_changed_vector_moves_at_once(built: bool) -> None:
    """Rule: an item is found by its vector of now and never by one that it had; one that was taken out is not found."""
    one = space()
    index = TextIndex(one, HASHES if built else None)
    old, new = one.vectors[5].copy(), rows(1, 99)[0]
    assert index.nearest(old, 1, HASHES).tolist() == [5]
    one.put(5, new)
    assert index.nearest(new, 1, HASHES).tolist() == [5]
    assert 5 not in index.nearest(old, 20, HASHES).tolist()
    one.put(N, old)
    assert index.nearest(old, 1, HASHES).tolist() == [N]
    index.drop(N)
    index.drop(7)
    assert N not in index.nearest(old, 20, HASHES).tolist()
    assert 7 not in index.nearest(one.vectors[7], 20, HASHES).tolist()
    assert len(index) == N - 1
    one.put_many([7, N], rows(2, 5))
    assert index.nearest(one.vectors[7], 1, HASHES).tolist() == [7]


def test_many_that_came_since_move_into_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: more than so many are not compared one by one for ever; a few at a time they are moved, and all are found meanwhile."""
    monkeypatch.setattr(textindex, "MOST_APART", 100)
    one = space(50)
    index = TextIndex(one)
    for at, row in enumerate(rows(200, 3)):
        one.put(50 + at, row)
    for _ in range(20):
        index.settle()
        assert len(index) == 250
        for at in (3, 60, 249):
            assert index.nearest(one.vectors[at], 1, HASHES).tolist() == [at]
    assert len(index) - index.in_graph <= 50


def test_two_that_read_the_same_are_alike() -> None:
    """Rule: another process, where items have other indices, finds the same items in a graph of the same vectors."""
    one, order = space(), np.random.default_rng(1).permutation(N)
    other = Space(DIMS, 2 * N)
    other.put_many(np.arange(N), one.vectors[order])
    left, right = TextIndex(one, HASHES), TextIndex(other, HASHES[order])
    for query in rows(50, 1):
        mine = set(HASHES[left.nearest(query, 10, HASHES)].tolist())
        assert mine == set(HASHES[order][right.nearest(query, 10, HASHES[order])].tolist())


@pytest.mark.parametrize("other", ["onnxruntime", "numba", "confluent_kafka", "rocksdict"])
def test_it_may_be_imported_first(other: str) -> None:
    """Rule: no other compiled library crashes after it (usearch 2.26 alone makes onnxruntime do so)."""
    subprocess.run([sys.executable, "-c", f"import engine.textindex, {other}"], check=True)
