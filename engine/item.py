"""What is counted of one item by the worker that owns it: uses, decayed popularity, and the items used by the same people.

Not the catalogue entry (`engine.records.Item`), and not what every worker reads (`engine.stats`): that is made from this.

Co-visitation follows the item-to-item idea of Linden et al. (2003): an event on an item counts for the pairs it forms with the items the
same user used just before, less the further back they are. Old pairs fade by forward decay (Cormode et al., 2009): instead of shrinking all
counts, newer ones weigh more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.catalogue import DAY_MS
from engine.errors import StateError
from engine.hashtable import KINDS, PairTable
from engine.pairs import Decay, Delta, PairBatch, packed, rank_weights, read, updates_of, written
from engine.rowcodec import RowCodec

FORMAT = 4


@dataclass(slots=True)
class ItemState:
    """An item's row, owned by one worker. Times in ms; `popularity` is as of `popularity_time`.

    `applied`: "source/partition" -> (epoch, last offset), as in a user's row. `pairs`: what the item was used with, lasting, this season,
    in one session and soon after, on the scale of `pairs.PAIR_TIME`. `published_mass`: its mass when the neighbours were last published.
    """

    applied: dict[str, tuple[int, int]] = field(default_factory=dict)
    count: int = 0
    first_time: int = 0
    last_time: int = 0
    popularity: list[float] = field(default_factory=list)
    popularity_time: int = 0
    pairs: PairTable = field(default_factory=PairTable)
    published_mass: float = 0.0

    def use(self, time: int, decay: Decay) -> None:
        """Count one use of the item itself."""
        self.count += 1
        self.first_time = min(self.first_time, time) if self.first_time else time
        self.last_time = max(self.last_time, time)
        if not self.popularity:
            self.popularity, self.popularity_time = [0.0] * len(decay.popularity_days), time
        ahead = (time - self.popularity_time) / DAY_MS
        if ahead > 0:
            self.popularity = [p * 2.0 ** (-ahead / days) + 1.0 for p, days in zip(self.popularity, decay.popularity_days, strict=True)]
            self.popularity_time = time
        else:
            self.popularity = [p + 2.0 ** (ahead / days) for p, days in zip(self.popularity, decay.popularity_days, strict=True)]

    def worth_publishing(self, growth: float = 0.03) -> bool:
        """Whether the neighbours changed enough since they were last published."""
        return self.pairs.mass > self.published_mass * (1.0 + growth)


class _Source(NamedTuple):
    """Where the deltas of a batch stand in their log."""

    name: str
    epoch: int
    first: int
    last: int


class Changes:
    """What some batches of deltas change in the rows of the items that `owner` owns (hash64 mod `owners`), one row at a time.

    A row takes over all of it or nothing, so that others may go on between two rows.
    """

    def __init__(self, batches: Sequence[PairBatch], steps: NDArray[np.float64], decay: Decay, *, owner: int, owners: int) -> None:
        found = [read(batch) for batch in batches]
        self._decay = decay
        self._sources = [
            _Source(f"{batch.source}/{batch.partition}", batch.epoch, int(deltas.offsets.min()), int(deltas.offsets.max()))
            for batch, deltas in zip(batches, found, strict=True)
            if len(deltas.offsets)
        ]
        found = [deltas for deltas in found if len(deltas.offsets)]
        self._updates = updates = updates_of(found, steps, decay, owner=owner, owners=owners)
        spans = zip(updates.starts, updates.starts[1:], updates.sources, strict=False)
        self._spans = dict(zip(updates.rows, spans, strict=True))
        self._uses: dict[int, list[tuple[int, int, int]]] = {}
        for number, deltas in enumerate(found):
            own = deltas.items % np.uint64(owners) == owner
            rows = zip(deltas.items[own].tolist(), deltas.offsets[own].tolist(), deltas.times[own].tolist(), strict=True)
            for item, offset, time in rows:
                self._uses.setdefault(item, []).append((number, offset, time))
        self.items = list(dict.fromkeys([*self._uses, *self._spans]))
        """The rows that change."""

    def apply(self, item: int, row: ItemState) -> Touched:
        """Change the row of one of `items`; what it covers already is passed over."""
        covered = {}
        uses = self._uses.get(item, ())
        start, stop, numbers = self._spans.get(item, (0, 0, ()))
        for number in sorted({*numbers, *(use[0] for use in uses)}):  # in order: two may be of one source
            name, epoch, first, last = self._sources[number]
            known = row.applied.get(name)
            if known is not None and known[0] == epoch and known[1] >= first:
                covered[number] = known[1]
                last = max(last, known[1])  # a row never goes back
            row.applied[name] = (epoch, last)
        before = row.count
        for number, offset, time in uses:
            if offset > covered.get(number, -1):
                row.use(time, self._decay)
        others, amounts = self._updates.others[start:stop], self._updates.amounts[start:stop]
        if covered:
            last_known = np.array([covered.get(number, -1) for number in range(len(self._sources))])
            new = self._updates.offsets[start:stop] > last_known[self._updates.batches[start:stop]]
            others, amounts = others[new], amounts[new]
        if len(others):
            row.pairs.add(others, amounts, self._decay.bound, self._decay.pairs)
        return Touched(row.count > before, len(others) > 0)


class Touched(NamedTuple):
    """Whether an item was used itself, and whether it has new pairs."""

    used: bool
    paired: bool


def apply_deltas(
    batch: PairBatch, edit: Callable[[int], ItemState], steps: NDArray[np.float64], decay: Decay, *, owner: int, owners: int
) -> None:
    """Count a batch in all rows that it changes; `edit` gives the row of an item to change."""
    changes = Changes([batch], steps, decay, owner=owner, owners=owners)
    for item in changes.items:
        changes.apply(item, edit(item))


class _Row(msgspec.Struct, array_like=True):
    """A row as it is written; pairs as in `PairTable`: hashes uint64, weights (n, 4) float32, both little-endian, scale and mass."""

    applied: dict[str, tuple[int, int]]
    count: int
    first_time: int
    last_time: int
    popularity: list[float]
    popularity_time: int
    pairs: tuple[bytes, bytes, int, float]
    published_mass: float


_CODEC = RowCodec(_Row, FORMAT, "an item row")


def encode_item(row: ItemState) -> bytes:
    """The row as bytes; equal rows are the same bytes."""
    keys, weights = row.pairs.used()
    pairs = (keys.astype("<u8").tobytes(), weights.astype("<f4").tobytes(), row.pairs.halves, row.pairs.mass)
    applied, times = dict(sorted(row.applied.items())), (row.first_time, row.last_time)
    return _CODEC.encode(_Row(applied, row.count, *times, row.popularity, row.popularity_time, pairs, row.published_mass))


def decode_item(raw: bytes) -> ItemState:
    """The row again.

    Raises:
        StateError: the bytes are of an unknown format, or damaged.
    """
    row = _CODEC.decode(raw)
    raw_keys, raw_weights, halves, mass = row.pairs
    try:
        keys = np.frombuffer(raw_keys, "<u8")
        pairs = PairTable(keys, np.frombuffer(raw_weights, "<f4").reshape(len(keys), KINDS), halves, mass)
    except ValueError as problem:
        raise StateError("state_damaged", str(problem), "an item row", "remove the state folder: it is rebuilt") from problem
    times = (row.first_time, row.last_time)
    return ItemState(row.applied, row.count, *times, row.popularity, row.popularity_time, pairs, row.published_mass)


def warm_up() -> None:
    """Compile the loops that items are counted in; see `engine.model.warm_up`."""
    row = ItemState()
    batch = written("any", 0, 0, packed([Delta(0, 0, 1, (2,), 1)]))
    apply_deltas(batch, lambda _: row, rank_weights(Decay(), 1), Decay(), owner=0, owners=1)
    decode_item(encode_item(row))
