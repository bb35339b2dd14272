"""The text vectors of all items in one generation's space. Not what the items are (`engine.catalogue`), nor how a vector is made.

A swap makes the space of the new generation beside the one in use, in a thread of its own, and puts it in its place between two lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import ArtefactError

Floats = NDArray[np.float32]
MANY = 500  # changed vectors that are still told one by one


class Space:
    """`vectors` (capacity, D) float32: centred unit rows by catalogue index, zero where `has_vector` (capacity,) is False."""

    def __init__(self, dims: int, capacity: int) -> None:
        self.dims = dims
        self.vectors = np.zeros((capacity, dims), np.float32)
        self.has_vector = np.zeros(capacity, bool)
        self._changed: dict[int, None] | None = None  # None: all
        self._followers: list[Callable[[Iterable[int]], None]] = []

    def follow(self, changed: Callable[[Iterable[int]], None]) -> None:
        """Call `changed(indices)` whenever vectors were set."""
        self._followers.append(changed)

    @classmethod
    def of(cls, name: str, vectors: NDArray[np.floating], places: NDArray[np.int64], capacity: int) -> Space:
        """The stored vectors (N, D) of the generation `name`; `places` (N,): the catalogue indices of its items. In any thread.

        Raises:
            ArtefactError: a vector is not finite.
        """
        made = cls(vectors.shape[1], capacity)
        rows = np.asarray(vectors, np.float32)
        if not np.isfinite(rows).all():
            raise ArtefactError("vectors_not_finite", name, "finite vectors", "export the generation again")
        made.put_many(places, rows)
        return made

    def put(self, at: int, vector: Floats) -> None:
        """Set the vector of the item with index `at`."""
        self.vectors[at] = vector
        self.has_vector[at] = True
        if self._changed is not None:
            self._changed[at] = None
        for changed in self._followers:
            changed((at,))

    def put_many(self, at: Sequence[int] | NDArray[np.int64], vectors: NDArray[np.floating]) -> None:
        """Set the vectors (n, D) of many items at once."""
        self.vectors[at] = vectors
        self.has_vector[at] = True
        self._changed = None
        for changed in self._followers:
            changed(np.asarray(at).tolist())

    def take_changed(self) -> list[int] | None:
        """Indices whose vectors were set since this was last asked; None when they were too many to tell. For one asker."""
        changed, self._changed = self._changed, {}
        return None if changed is None or len(changed) > MANY else list(changed)

    def grow(self, capacity: int) -> None:
        """Make room for so many items; never less."""
        if capacity <= len(self.vectors):
            return
        vectors, has_vector = np.zeros((capacity, self.dims), np.float32), np.zeros(capacity, bool)
        vectors[: len(self.vectors)], has_vector[: len(self.has_vector)] = self.vectors, self.has_vector
        self.vectors, self.has_vector = vectors, has_vector
