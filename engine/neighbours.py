"""The neighbour lists of all items, one after the other in large arrays that compiled loops walk. What a list holds: `engine.item`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.hashtable import KINDS
from engine.space import Floats

ROOM = 16  # a list gets room for a multiple of so many, so that one that grows is seldom moved


class Neighbours(NamedTuple):
    """Neighbours of an item: indices (K,) and weights (4, K) as in `ItemState`, which are those of `time` (ms) and fade from it."""

    others: NDArray[np.int32]
    weights: Floats
    time: int


class NeighbourLists:
    """Item i's list is `others` and `weights` from `first[i]`, `length[i]` long, as of `time[i]`: (M,) int32, (M, 4) float32, (capacity,)
    int64. A list that outgrows its room moves to the end; when the end is reached, the holes are closed or the arrays grow.
    """

    def __init__(self) -> None:
        self.others = np.zeros(1 << 16, np.int32)
        self.weights = np.zeros((len(self.others), KINDS), np.float32)
        self.first, self.length, self.time, self._room = (np.zeros(0, np.int64) for _ in range(4))
        self._end = 0

    def grow(self, capacity: int) -> None:
        """Make room for the lists of so many items."""
        for name in ("first", "length", "time", "_room"):
            new = np.zeros(capacity, np.int64)
            new[: len(getattr(self, name))] = getattr(self, name)
            setattr(self, name, new)

    def put(self, at: int, found: Neighbours) -> None:
        """Set the list of an item."""
        count = len(found.others)
        if count > self._room[at]:
            self._move(at, -(-count // ROOM) * ROOM)
        first = self.first[at]
        self.others[first : first + count] = found.others
        self.weights[first : first + count] = found.weights.T
        self.length[at], self.time[at] = count, found.time

    def of(self, at: int) -> Neighbours:
        """A copy of the list of an item."""
        part = slice(self.first[at], self.first[at] + self.length[at])
        return Neighbours(self.others[part].copy(), np.ascontiguousarray(self.weights[part].T), int(self.time[at]))

    def _move(self, at: int, room: int) -> None:
        self.length[at] = self._room[at] = 0
        if self._end + room > len(self.others):
            self._close_holes(room)
        self.first[at], self._room[at] = self._end, room
        self._end += room

    def _close_holes(self, room: int) -> None:
        used = int(self._room.sum())
        size = max(len(self.others), 1 << (2 * (used + room)).bit_length())
        others, weights, end = np.zeros(size, np.int32), np.zeros((size, KINDS), np.float32), 0
        for at in np.flatnonzero(self._room).tolist():
            first, count = self.first[at], self.length[at]
            others[end : end + count] = self.others[first : first + count]
            weights[end : end + count] = self.weights[first : first + count]
            self.first[at] = end
            end += int(self._room[at])
        self.others, self.weights, self._end = others, weights, end
