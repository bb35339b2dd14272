"""The nearest items by text in a large catalogue: an index over the vectors of one space (`engine.space`). Not what a list makes of them.

A graph (HNSW, Malkov & Yashunin 2020, from usearch) holds a copy of the vectors in 8-bit integers; vectors that came since it was built are
compared one by one. The graph is built by one thread, in the order of the items' hash64, from integers whose distances have no rounding:
two workers that build it from the same vectors have the same graph, on whatever machine. Only when very many came since do they go into
the graph, a few at a time, in the order in which they came; from then on two workers may miss different ones of the few that it misses.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnxruntime  # noqa: F401 - first: usearch 2.26 brings a libstdc++ of its own, and who loads it before any other crashes on the next
from numpy.typing import NDArray
from usearch.index import Index

from engine.leaders import Hashes, Places, largest
from engine.space import Floats, Space

LINKS, EXPANSION_ADD, EXPANSION = 16, 128, 256
"""Links of a vector, and how many it is compared with beside them while it is added or searched for; recall and times: `bench.ranking`."""
DEVIATIONS = 6.0
"""A component of a unit vector deviates from 0 by 1 / sqrt(D): this many deviations are the largest integer."""
MOST_APART = 4_096
"""Vectors outside the graph up to which all are compared one by one; beyond, they are moved into it until half are left."""
AT_ONCE = 32
"""Vectors moved between two lists."""


class TextIndex:
    """Follows a space: what is put there is found from then on. Items are catalogue indices."""

    def __init__(self, space: Space, hashes: Hashes | None = None) -> None:
        """Over all vectors that the space has: compared one by one, or where `hashes` (capacity,) are given in the graph at once, which
        takes minutes for a million; in any thread, while the space is not changed.
        """
        self._space = space
        self._graph = Index(
            ndim=space.dims, metric="l2sq", dtype="i8", connectivity=LINKS, expansion_add=EXPANSION_ADD, expansion_search=EXPANSION
        )
        self._apart: dict[int, int] = {}  # item -> its row of `_rows`; one that is replaced or taken out leaves an empty row
        self._rows, self._owner, self._used = np.zeros((64, space.dims), np.float32), np.full(64, -1), 0
        self._moving = False
        self.version = 0
        """Counts changes of what is found."""
        stored = np.flatnonzero(space.has_vector)
        if hashes is None:
            self.put_all(stored)
        else:
            ordered = stored[np.argsort(hashes[stored], kind="stable")]
            for start in range(0, len(ordered), MOST_APART):
                self._add(ordered[start : start + MOST_APART])
        space.follow(self.put_all)

    def __len__(self) -> int:
        return len(self._graph) + len(self._apart)

    @property
    def in_graph(self) -> int:
        """Vectors in the graph."""
        return len(self._graph)

    @property
    def graph_bytes(self) -> int:
        """Memory of the graph, as it says itself."""
        return int(self._graph.memory_usage)

    def put_all(self, items: Iterable[int]) -> None:
        """Take over the space's vectors of some items."""
        for at in map(int, items):
            self.drop(at)
            if self._used == len(self._owner):
                self._make_room()
            row = self._apart[at] = self._used
            self._rows[row], self._owner[row] = self._space.vectors[at], at
            self._used += 1

    def drop(self, at: int) -> None:
        """Take an item out."""
        self.version += 1
        row = self._apart.pop(at, -1)
        if row >= 0:
            self._owner[row] = -1
        elif at in self._graph:
            self._graph.remove(at)

    def settle(self) -> None:
        """Move some vectors into the graph where too many are outside; between two lists."""
        self._moving = len(self._apart) > (MOST_APART // 2 if self._moving else MOST_APART)
        if self._moving:
            self._add(np.fromiter(self._apart, np.int64, len(self._apart))[:AT_ONCE])

    def nearest(self, vector: Floats, most: int, hashes: Hashes, effort: int = EXPANSION) -> Places:
        """Up to `most` items whose vectors are nearest to the unit `vector` (D,), of equally near ones the first by `hashes` (capacity,);
        exact where none is in the graph. `effort`: items of the graph that are kept in view on the way, at least `most`.
        """
        owner = self._owner[: self._used]
        found, near = [owner[owner >= 0]], [(self._rows[: self._used] @ vector)[owner >= 0]]
        if len(self._graph):
            self._graph.expansion_search = effort  # type: ignore[misc] # its setter stands apart from its getter, which mypy does not find
            keys = self._graph.search(self._integers(vector), most, threads=1).keys.astype(np.int64)
            found.append(keys)
            near.append(self._space.vectors[keys] @ vector)
        return largest(np.concatenate(found), np.concatenate(near), hashes, most)

    def _add(self, items: Places) -> None:
        self.version += 1
        if len(items):
            self._graph.add(items.astype(np.uint64), self._integers(self._space.vectors[items]), threads=1)
        for at in items.tolist():
            row = self._apart.pop(at, -1)
            if row >= 0:
                self._owner[row] = -1
        if not self._apart:
            self._used = 0

    def _integers(self, vectors: Floats) -> NDArray[np.int8]:
        scale = np.float32(127.0 * np.sqrt(self._space.dims) / DEVIATIONS)
        whole: NDArray[np.int8] = np.clip(np.rint(vectors * scale), -127, 127).astype(np.int8)
        return whole

    def _make_room(self) -> None:
        """Close the gaps, and grow where there are few."""
        kept = np.flatnonzero(self._owner[: self._used] >= 0)
        room = max(64, 2 * len(kept))
        rows, owner = np.zeros((room, self._space.dims), np.float32), np.full(room, -1)
        rows[: len(kept)], owner[: len(kept)] = self._rows[kept], self._owner[kept]
        self._rows, self._owner, self._used = rows, owner, len(kept)
        self._apart = {at: row for row, at in enumerate(owner[: len(kept)].tolist())}
