"""All items a worker knows, as arrays by index: what may be listed, since when, the text vector, the creator.

An index is local to one process and never leaves it; outside, an item is its id, and between workers hash64 of the id.
Unknown items (events name them before the catalogue does) get an index too, and are listable once their entry arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.hashtable import Places
from engine.jit import kernel
from engine.partition import item_key
from engine.records import Item
from engine.space import Floats, Space
from engine.words import words

DAY_MS = 86_400_000
FRESH = 20_000  # the terms are worked out anew after one change, and in larger catalogues after one in so many items


class Terms(NamedTuple):
    """Terms of all items, both ways, weighted by rarity (tf-idf, Spärck Jones 1972).

    `codes` (E,) int32: the terms of item 0, then of item 1 ..., item i's from `starts[i]` to `starts[i + 1]`; `items` (E,) int32: the items
    of term 0, then of term 1 ..., term t's from `first[t]` to `first[t + 1]`. `rarity` (T,): log(1 + N / items with it). `scale` (N,):
    1 / length of an item's row of rarities, 0 without terms.
    """

    codes: NDArray[np.int32]
    starts: NDArray[np.int64]
    items: NDArray[np.int32]
    first: NDArray[np.int64]
    rarity: NDArray[np.float64]
    scale: Floats


class TermIndex:
    """Which terms each item has, as they come and change."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._of: list[tuple[int, ...]] = []
        self._made: Terms | None = None
        self._changed = 0

    def add(self) -> None:
        """Make room for the next item."""
        self._of.append(())

    def put(self, at: int, names: Iterable[str]) -> None:
        """Say what the terms of an item are."""
        self._of[at] = tuple(self._codes.setdefault(name, len(self._codes)) for name in dict.fromkeys(names))
        self._changed += 1

    def of(self, at: int) -> tuple[int, ...]:
        """Codes of the terms of an item."""
        return self._of[at]

    def code(self, name: str) -> int:
        """The code of a term, -1 for one that there is not."""
        return self._codes.get(name, -1)

    def terms(self) -> Terms:
        """As arrays. Items that came since they were last worked out have none yet."""
        known = self._made
        if known is None or self._changed * FRESH > len(known.scale):
            known = self._made = terms_of(self._of, len(self._codes))
            self._changed = 0
        return known


class Catalogue:
    """Arrays of length `capacity`, of which the first `len(self)` are in use.

    `hashes` (N,) uint64: hash64 of the ids; `listable` (N,) bool: in the catalogue and not `available: false`; `since` (N,) int64 ms:
    `available_from`, 0 without one;
    `creators` (N,) int32: 0 for none; `days` (N,) float32: the date of publication, else of availability, in days since the epoch, 0 for
    none. `space`: the text vectors, by the same index; `filed`: categories and tags; `categories`: these alone; `titled`: words of the
    titles. `version` counts changes of entries.
    """

    def __init__(self, dims: int, capacity: int = 1_024) -> None:
        self.index: dict[int, int] = {}
        self.places = Places()  # the same, for many at a time
        self.items: list[Item | None] = []
        self.hashes = np.zeros(capacity, np.uint64)
        self.listable = np.zeros(capacity, bool)
        self.since = np.zeros(capacity, np.int64)
        self.space = Space(dims, capacity)
        self.creators = np.zeros(capacity, np.int32)
        self.days = np.zeros(capacity, np.float32)
        self.version = 0
        self._creator_codes: dict[str, int] = {"": 0}
        self.filed, self.categories, self.titled = TermIndex(), TermIndex(), TermIndex()
        self.own_named: set[int] = set()
        """Items with an attribute `category` or `tag`, which rules look at in place of the lists (`rules.item_field`)."""
        self._indexes = (self.filed, self.categories, self.titled)
        self._followers: list[Callable[[int], None]] = []
        self._watchers: list[Callable[[int, Item | None], None]] = []

    def __len__(self) -> int:
        return len(self.items)

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

    def watch(self, changed: Callable[[int, Item | None], None]) -> None:
        """Call `changed(place, entry before)` whenever an entry was added, replaced or removed."""
        self._watchers.append(changed)

    def place(self, key: int) -> int:
        """The index of the item with this hash64; a new one gets the next."""
        at = self.index.get(key)
        if at is None:
            at = self.index[key] = len(self.items)
            self.places.put(key, at)
            self.items.append(None)
            for index in self._indexes:
                index.add()
            if at >= self.capacity:
                self._grow(2 * self.capacity)
            self.hashes[at] = key
        return at

    def put(self, item: Item) -> int:
        """Add or replace an entry."""
        at = self.place(item_key(item.item_id))
        before, self.items[at] = self.items[at], item
        self.listable[at] = item.available
        self.since[at] = item.available_from or 0
        if item.attributes.keys() & {"category", "tag"}:
            self.own_named.add(at)
        else:
            self.own_named.discard(at)
        self.creators[at] = self._creator_codes.setdefault(item.creator, len(self._creator_codes))
        self.filed.put(at, map(str.lower, (*item.categories, *item.tags)))
        self.categories.put(at, map(str.lower, item.categories))
        self.titled.put(at, words(item.title))
        self.version += 1
        date = item.published_at if item.published_at is not None else item.available_from
        self.days[at] = 0.0 if date is None else date / DAY_MS
        for changed in self._watchers:
            changed(at, before)
        return at

    def remove(self, item_id: str) -> int | None:
        """Take an entry out; its index, vector and statistics stay, since histories may name it."""
        at = self.index.get(item_key(item_id))
        if at is not None:
            self.listable[at] = False
            before, self.items[at] = self.items[at], None
            for index in self._indexes:
                index.put(at, ())
            self.version += 1
            for changed in self._watchers:
                changed(at, before)
        return at

    def put_vector(self, key: int, vector: Floats) -> None:
        """Set the centred unit vector of an item."""
        at = self.place(key)
        self.space.put(at, vector)

    def places_of(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Indices of items, (N,); those that are not known get one."""
        found = self.places.of(keys)
        for at in np.flatnonzero(found < 0).tolist():
            found[at] = self.place(int(keys[at]))
        return found

    def known(self, keys: Collection[int]) -> NDArray[np.int64]:
        """Indices of those of `keys` that are known."""
        found = self.places.of(np.fromiter(keys, np.uint64, len(keys)))
        return found[found >= 0]

    def creator_code(self, name: str) -> int:
        """The code of a creator, -1 for one that there is not."""
        return self._creator_codes.get(name, -1)

    def item_id(self, at: int) -> str:
        """The id of a listable item."""
        item = self.items[at]
        if item is None:
            raise KeyError(at)
        return item.item_id

    def _grow(self, capacity: int) -> None:
        for name in ("hashes", "listable", "since", "creators", "days"):
            old = getattr(self, name)
            new = np.zeros(capacity, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
        self.space.grow(capacity)
        for grow in self._followers:
            grow(capacity)


def terms_of(listed: Sequence[Sequence[int]], terms: int) -> Terms:
    """Both ways of the lists of term codes of items.

    >>> terms_of([(0, 1), (1,)], 2).items.tolist()
    [0, 0, 1]
    """
    lengths = np.fromiter(map(len, listed), np.int64, len(listed))
    codes = np.fromiter(chain.from_iterable(listed), np.int32, int(lengths.sum()))
    owners = np.repeat(np.arange(len(listed), dtype=np.int32), lengths)
    held = np.bincount(codes, minlength=terms)
    rarity = np.log1p(len(listed) / np.maximum(held, 1))
    squares = np.bincount(owners, rarity[codes] ** 2, len(listed))
    scale = np.divide(1.0, np.sqrt(squares), out=np.zeros(len(listed)), where=squares > 0)
    starts, first = (np.concatenate([[0], np.cumsum(counts)]) for counts in (lengths, held))
    return Terms(codes, starts, by_term(codes, owners, first[:-1].copy()), first, rarity, scale.astype(np.float32))


@kernel
def by_term(codes: Any, owners: Any, free: Any) -> Any:
    """(E,) int32: the `owners` of `codes` (E,) in the order of the codes. `free` (T,): where the next owner of each term goes."""
    out = np.empty(len(codes), np.int32)
    for entry in range(len(codes)):
        out[free[codes[entry]]] = owners[entry]
        free[codes[entry]] += 1
    return out
