"""Tables over 64-bit hashes (`engine.partition.hash64`) as arrays that compiled loops read: the places of items, the weights of pairs.

Open addressing with linear probing (Knuth, The Art of Computer Programming 3, 6.4): `keys` (room,) uint64, room a power of two, 0 where
nothing stands. The hashes are uniform already, so their lowest bits say where to look first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.jit import kernel

Keys = NDArray[np.uint64]
Array = Any  # numba knows the type from the argument; mypy would need it in every expression

NOTHING = np.uint64(0)
LEAST = 16  # room at least
FULL = 0.75  # share of the room in use from which on looking takes long
AHEAD = 60.0  # half-lives that a pair may be ahead of the scale of its table; a float32 has room for 127

LASTING, SEASON, SESSION, LATER = 0, 1, 2, 3  # columns of a pair's weights
KINDS = 4
STEP, AGES, HALVES, WITHIN, NEXT = 0, 1, 2, 3, 4  # columns of what is added to a pair, see `engine.pairs.Updates`
AMOUNTS = 5
MOST_GROWN = 90.0  # half-lives, centuries, by which a pair counts more than at the beginning at most: sums stay within a float32
SOON = (1.0, 0.5, 0.25)  # what an item that comes next, or one or two later, adds to LATER of the one before


@kernel
def find(keys: Array, key: Array) -> np.int64:
    """Where `key` stands, or the free place where it belongs."""
    last = np.int64(len(keys) - 1)
    at = np.int64(key & np.uint64(last))
    while keys[at] != key and keys[at] != NOTHING:
        at = (at + 1) & last
    return at


@kernel
def place_all(keys: Array, values: Array, new: Array, new_values: Array) -> None:
    """Set the values of keys that are not there yet; there is room for them."""
    for n in range(len(new)):
        if new[n] != NOTHING:
            at = find(keys, new[n])
            keys[at] = new[n]
            values[at] = new_values[n]


@kernel
def look_up(keys: Array, values: Array, wanted: Array, out: Array) -> None:
    """The value of each of `wanted`, -1 without one."""
    for n in range(len(wanted)):
        at = find(keys, wanted[n])
        out[n] = values[at] if keys[at] == wanted[n] and wanted[n] != NOTHING else -1


class Room(NamedTuple):
    """Where `spread` writes to, for `add`: `rows`, `others` (U,) uint64, `amounts` (U, 5) float64, `offsets` (U,) int64."""

    rows: Array
    others: Array
    amounts: Array
    offsets: Array


@kernel
def spread(deltas: Any, lasting: Array, season: Array, steps: Array, owner: int, owners: int, out: Room) -> int:
    """Write what some deltas (`engine.pairs.Deltas`) add to the rows of `owner` to `out`; gives how much.

    An event adds to its own item's row first, then to each of the others': one order for all who replay it.
    """
    count, n = 0, np.uint64(owners)
    for d in range(len(deltas.items)):
        item, first = deltas.items[d], deltas.starts[d]
        own = item % n == owner
        for place in range(min(deltas.starts[d + 1] - first, len(steps))):
            other = deltas.others[first + place]
            for side in range(2):
                if own if side == 0 else other % n == owner:
                    out.rows[count], out.others[count] = (item, other) if side == 0 else (other, item)
                    amount = out.amounts[count]
                    amount[STEP], amount[AGES], amount[HALVES] = steps[place], lasting[d], season[d]
                    amount[WITHIN] = 1.0 if place < deltas.together[d] else 0.0
                    amount[NEXT] = SOON[place] if side == 1 and place < len(SOON) else 0.0
                    out.offsets[count] = deltas.offsets[d]
                    count += 1
    return count


@kernel
def add(
    keys: Array, weights: Array, length: int, halves: int, mass: float, others: Array, amounts: Array, bound: int, kept: int
) -> tuple[int, int, float]:
    """Add `amounts` (n, 5) to the pairs with `others` (n,), in order; gives the table's length, scale and mass from now on.

    `weights` (room, 4) float32: lasting, season, session, and how often the other came soon after; the season's are divided by 2^`halves`,
    which keeps them within a float32 for ever. More than `bound` pairs are trimmed to `kept`.
    """
    for n in range(len(others)):
        if others[n] == NOTHING:
            continue
        if length == 0:
            halves = int(np.floor(amounts[n, HALVES]))
        if amounts[n, HALVES] - halves > AHEAD:
            ahead = int(np.floor(amounts[n, HALVES])) - halves
            factor = np.float32(2.0 ** max(-1_000, -ahead))  # a power of two: nothing is rounded
            for old in range(len(keys)):
                weights[old, SEASON] *= factor
            halves += ahead
        at = find(keys, others[n])
        if keys[at] == NOTHING:
            keys[at] = others[n]
            weights[at] = np.float32(0.0)
            length += 1
        grown = 2.0 ** min(MOST_GROWN, max(-1_000.0, amounts[n, AGES]))
        weight = amounts[n, STEP] * grown
        mass += weight
        weights[at, LASTING] += np.float32(weight)
        weights[at, SEASON] += np.float32(amounts[n, STEP] * 2.0 ** max(-1_000.0, amounts[n, HALVES] - halves))
        if amounts[n, WITHIN] > 0.0:
            weights[at, SESSION] += np.float32(grown)
        weights[at, LATER] += np.float32(amounts[n, NEXT] * grown)
        if length > bound:
            length = trim(keys, weights, kept)
    return length, halves, mass


@kernel
def trim(keys: Array, weights: Array, kept: int) -> int:
    """Keep the `kept` pairs that weigh most, one at least; of equal ones those with the smaller hash, so that the order of arrival does not
    matter. Gives how many are left.
    """
    used = np.flatnonzero(keys != NOTHING)
    old, old_weights = keys[used], weights[used]
    if kept < 1 or len(old) <= kept:
        return len(old)
    least = np.sort(old_weights[:, LASTING])[len(old) - kept]
    above = 0
    for n in range(len(old)):
        above += old_weights[n, LASTING] > least
    equal = np.sort(old[old_weights[:, LASTING] == least])
    last = equal[kept - above - 1]
    keys[:] = NOTHING
    for n in range(len(old)):
        if old_weights[n, LASTING] > least or (old_weights[n, LASTING] == least and old[n] <= last):
            at = find(keys, old[n])
            keys[at] = old[n]
            weights[at] = old_weights[n]
    return kept


def room_for(count: int) -> int:
    """The room of a table for so many keys.

    >>> room_for(0), room_for(12), room_for(13)
    (16, 16, 32)
    """
    return max(LEAST, 1 << int(np.ceil(count / FULL) - 1).bit_length())


class Places:
    """hash64 -> index, for many at a time."""

    def __init__(self) -> None:
        self._keys = np.zeros(LEAST, np.uint64)
        self._values = np.zeros(LEAST, np.int64)
        self._count = 0

    def put(self, key: int, place: int) -> None:
        """Add a key that is not there yet."""
        self._count += 1
        if room_for(self._count) > len(self._keys):
            old, old_values = self._keys, self._values
            self._keys, self._values = np.zeros(2 * len(old), np.uint64), np.zeros(2 * len(old), np.int64)
            place_all(self._keys, self._values, old, old_values)
        place_all(self._keys, self._values, np.array([key], np.uint64), np.array([place]))

    def of(self, keys: Keys) -> NDArray[np.int64]:
        """(n,) the index of each key, -1 for one that is not there."""
        out = np.empty(len(keys), np.int64)
        look_up(self._keys, self._values, keys if keys.flags.writeable else keys.copy(), out)  # one type for the loops
        return out


class PairTable:
    """The pairs of one item: `keys` (room,) uint64 of the other items, `weights` (room, 4) float32 as in `add`; `mass`: the sum of all
    lasting weights ever added.
    """

    __slots__ = ("halves", "keys", "length", "mass", "weights")

    def __init__(self, keys: Keys | None = None, weights: NDArray[np.float32] | None = None, halves: int = 0, mass: float = 0.0) -> None:
        """Of keys that differ, and their weights (n, 4); both are copied."""
        count = 0 if keys is None else len(keys)
        self.length, self.halves, self.mass = count, halves, mass
        self.keys = np.zeros(room_for(count), np.uint64)
        self.weights = np.zeros((len(self.keys), KINDS), np.float32)
        if keys is not None and weights is not None:
            place_all(self.keys, self.weights, keys.copy(), weights.copy())  # copies can be written to: one type for the loops

    def add(self, others: Keys, amounts: NDArray[np.float64], bound: int, kept: int) -> None:
        """See `add` above; `others` may name an item more than once."""
        most = min(self.length + len(others), bound + 1)
        if most > FULL * len(self.keys):
            old, old_weights = self.keys, self.weights
            self.keys = np.zeros(room_for(most), np.uint64)
            self.weights = np.zeros((len(self.keys), KINDS), np.float32)
            place_all(self.keys, self.weights, old, old_weights)
        self.length, self.halves, self.mass = add(
            self.keys, self.weights, self.length, self.halves, self.mass, others, amounts, bound, kept
        )

    def used(self) -> tuple[Keys, NDArray[np.float32]]:
        """The keys (n,) in order, and their weights (n, 4)."""
        used = np.flatnonzero(self.keys)
        used = used[np.argsort(self.keys[used])]
        return self.keys[used], self.weights[used]

    def __len__(self) -> int:
        return self.length

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PairTable):
            return NotImplemented
        (keys, weights), (its_keys, its_weights) = self.used(), other.used()
        same = np.array_equal(keys, its_keys) and np.array_equal(weights, its_weights)
        return same and (self.halves, self.mass) == (other.halves, other.mass)

    __hash__ = None  # type: ignore[assignment]  # it changes
