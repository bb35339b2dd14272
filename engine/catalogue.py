"""All items a worker knows, as arrays by index: what may be listed, since when, the text vector, the creator.

An index is local to one process and never leaves it; outside, an item is its id, and between workers hash64 of the id.
Unknown items (events name them before the catalogue does) get an index too, and are listable once their entry arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.partition import item_key
from engine.records import Item

Floats = NDArray[np.float32]
DAY_MS = 86_400_000


class Catalogue:
    """Arrays of length `capacity`, of which the first `len(self)` are in use.

    `listable` (N,) bool: in the catalogue and not `available: false`; `since` (N,) int64 ms: `available_from`, 0 without one;
    `vectors` (N, D) float32:
    centred unit rows, zero where `has_vector` is False; `creators` (N,) int32: 0 for none.
    """

    def __init__(self, dims: int, capacity: int = 1_024) -> None:
        self.dims = dims
        self.index: dict[int, int] = {}
        self.hashes: list[int] = []
        self.items: list[Item | None] = []
        self.listable = np.zeros(capacity, bool)
        self.since = np.zeros(capacity, np.int64)
        self.vectors = np.zeros((capacity, dims), np.float32)
        self.has_vector = np.zeros(capacity, bool)
        self.creators = np.zeros(capacity, np.int32)
        self.days = np.zeros(capacity, np.float32)
        self._creator_codes: dict[str, int] = {"": 0}
        self._followers: list[Callable[[int], None]] = []

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def creator_count(self) -> int:
        """Creator codes in use, that for none included."""
        return len(self._creator_codes)

    @property
    def capacity(self) -> int:
        """Rows allocated."""
        return len(self.listable)

    def follow(self, grow: Callable[[int], None]) -> None:
        """Call `grow(capacity)` whenever the arrays grow, so that arrays kept elsewhere keep the same length."""
        self._followers.append(grow)
        grow(self.capacity)

    def place(self, key: int) -> int:
        """The index of the item with this hash64; a new one gets the next."""
        at = self.index.get(key)
        if at is None:
            at = self.index[key] = len(self.hashes)
            self.hashes.append(key)
            self.items.append(None)
            if at >= self.capacity:
                self._grow(2 * self.capacity)
        return at

    def put(self, item: Item) -> int:
        """Add or replace an entry."""
        at = self.place(item_key(item.item_id))
        self.items[at] = item
        self.listable[at] = item.available
        self.since[at] = item.available_from or 0
        self.creators[at] = self._creator_codes.setdefault(item.creator, len(self._creator_codes))
        date = item.published_at if item.published_at is not None else item.available_from
        self.days[at] = 0.0 if date is None else date / DAY_MS
        return at

    def remove(self, item_id: str) -> int | None:
        """Take an entry out; its index, vector and statistics stay, since histories may name it."""
        at = self.index.get(item_key(item_id))
        if at is not None:
            self.listable[at] = False
        return at

    def put_vector(self, key: int, vector: Floats) -> None:
        """Set the centred unit vector of an item."""
        at = self.place(key)
        self.vectors[at] = vector
        self.has_vector[at] = True

    def put_vectors(self, keys: Sequence[int], vectors: NDArray[np.floating]) -> None:
        """Set the vectors of many items at once, (n, D)."""
        at = [self.place(key) for key in keys]
        self.vectors[at] = vectors
        self.has_vector[at] = True

    def clear_vectors(self, dims: int) -> None:
        """Forget all vectors, for a generation with its own."""
        self.dims = dims
        self.vectors = np.zeros((self.capacity, dims), np.float32)
        self.has_vector[:] = False

    def places(self, keys: Iterable[int]) -> list[int]:
        """Indices of those of `keys` that are known."""
        index = self.index
        return [index[key] for key in keys if key in index]

    def item_id(self, at: int) -> str:
        """The id of a listable item."""
        item = self.items[at]
        if item is None:
            raise KeyError(at)
        return item.item_id

    def _grow(self, capacity: int) -> None:
        for name in ("listable", "since", "has_vector", "creators", "days"):
            old = getattr(self, name)
            new = np.zeros(capacity, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
        vectors = np.zeros((capacity, self.dims), np.float32)
        vectors[: len(self.vectors)] = self.vectors
        self.vectors = vectors
        for grow in self._followers:
            grow(capacity)
