"""What is counted of one item by the worker that owns it: uses, decayed popularity, and the items used by the same people.

Not the catalogue entry (`engine.records.Item`), and not what every worker reads (`engine.stats`): that is made from this.

Co-visitation follows the item-to-item idea of Linden et al. (2003): an event on an item counts for the pairs it forms with the items the
same user used just before, less the further back they are. Old pairs fade by forward decay (Cormode et al., 2009): instead of shrinking all
counts, newer ones weigh more.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np

from engine.catalogue import DAY_MS
from engine.errors import StateError
from engine.rowcodec import RowCodec

FORMAT = 2
PAIR_TIME = 1_577_836_800_000
"""2020-01-01: pairs weigh 1 then, and 2^(years / half-life) later. Half-lives of 60 days or more keep a century within a double."""


@dataclass(frozen=True)
class Decay:
    """How counts fade. Half-lives in days; `rank` is the factor per step back in the history; `pairs` bounds what is kept per item.

    Pairs fade at two speeds: what belongs together for years, and what does this season.
    """

    popularity_days: tuple[float, float] = (14.0, 180.0)
    pair_days: float = 3_650.0
    season_days: float = 60.0
    rank: float = 0.85
    pairs: int = 600

    @property
    def bound(self) -> int:
        """Pairs at which a row is trimmed to `pairs`, so that it happens once in a while."""
        return self.pairs + self.pairs // 4


class Pairs(NamedTuple):
    """Weights of an item's pairs, as in `ItemState`."""

    pairs: dict[int, complex]
    session: dict[int, float]


class PairDelta(msgspec.Struct, array_like=True, frozen=True):
    """One event as the owners of its items see it. `offset`: the event's place in its source log; `time` in ms; `item` and `others` are
    hash64 of item ids, `others` newest first; `first`: the item was new to its user; `together`: so many of `others` are of its session.
    """

    offset: int
    time: int
    weight: float
    item: int
    others: tuple[int, ...]
    first: bool = True
    together: int = 0


class PairBatch(msgspec.Struct, array_like=True, frozen=True):
    """The deltas of a batch of events of one source partition, sent to every partition that owns one of their items."""

    source: str
    epoch: int
    partition: int
    deltas: tuple[PairDelta, ...]


@dataclass(slots=True)
class ItemState:
    """An item's row, owned by one worker. Times in ms; `popularity` is as of `popularity_time`.

    `applied`: "source/partition" -> (epoch, last offset), as in a user's row. `pairs`: hash64 of the other item -> two weights on the
    scales of `pair_scale`, the real part for uses by the same people, the imaginary part for the same with the season's half-life (one
    number for both: half the look-ups, and nothing for the garbage collector to walk). `session`: the same for uses in one session.
    `mass`: the sum of the real parts that were added, `published_mass` what it was when the neighbours were last published.
    """

    applied: dict[str, tuple[int, int]] = field(default_factory=dict)
    count: int = 0
    first_time: int = 0
    last_time: int = 0
    popularity: list[float] = field(default_factory=list)
    popularity_time: int = 0
    pairs: dict[int, complex] = field(default_factory=dict)
    session: dict[int, float] = field(default_factory=dict)
    mass: float = 0.0
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

    def pair(self, others: Sequence[int], steps: Sequence[float], scale: complex, decay: Decay, together: int = 0) -> None:
        """Add `steps` x `scale` to the pairs with `others`, of which the first `together` are of one session with the item."""
        pairs, total = self.pairs, 0.0
        for other, step in zip(others, steps, strict=False):
            weight = step * scale
            pairs[other] = pairs.get(other, 0j) + weight
            total += weight.real
        self.mass += total
        for other, step in zip(others[:together], steps, strict=False):
            self.session[other] = self.session.get(other, 0.0) + step * scale.real
        if len(pairs) > decay.bound:
            self.trim(decay)

    def trim(self, decay: Decay) -> None:
        """Keep the strongest pairs."""
        self.pairs = dict(heapq.nlargest(decay.pairs, self.pairs.items(), key=lambda pair: pair[1].real))
        self.session = {key: weight for key, weight in self.session.items() if key in self.pairs}

    def all_pairs(self) -> Pairs:
        """A copy of the pairs, for another thread."""
        return Pairs(dict(self.pairs), dict(self.session))

    def worth_publishing(self, growth: float = 0.03) -> bool:
        """Whether the neighbours changed enough since they were last published."""
        return self.mass > self.published_mass * (1.0 + growth)


class Touched(NamedTuple):
    """Rows that a batch of deltas changed: `used` were used themselves, `paired` have new pairs. By hash64."""

    used: set[int]
    paired: set[int]


def apply_deltas(
    batch: PairBatch, edit: Callable[[int], ItemState], steps: Sequence[float], decay: Decay, *, owner: int, owners: int
) -> Touched:
    """Count a batch of deltas in the rows of the items that `owner` owns (hash64 mod `owners`); what a row covers already is passed over.

    `edit` gives the row of an item to change; `steps`: see `rank_weights`. Pairs are symmetric: both items count the other.
    """
    source, epoch = f"{batch.source}/{batch.partition}", batch.epoch
    rows: dict[int, tuple[ItemState, int]] = {}  # with the last offset that each covered before
    used, paired, bound = set[int](), set[int](), decay.bound

    def fetch(key: int) -> tuple[ItemState, int]:
        row = edit(key)
        known = row.applied.get(source)
        found = rows[key] = (row, known[1] if known is not None and known[0] == epoch else -1)
        return found

    for delta in batch.deltas:
        item, offset, others, together = delta.item, delta.offset, delta.others, delta.together
        scale = pair_scale(delta.time, decay)
        if item % owners == owner:
            row, covered = rows.get(item) or fetch(item)
            if offset > covered:
                row.use(delta.time, decay)
                used.add(item)
                if others:
                    row.pair(others, steps, scale, decay, together)
                    paired.add(item)
        for n, (other, step) in enumerate(zip(others, steps, strict=False)):
            if other % owners == owner:
                row, covered = rows.get(other) or fetch(other)
                if offset > covered:
                    weight, pairs = step * scale, row.pairs
                    pairs[item] = pairs.get(item, 0j) + weight
                    row.mass += weight.real
                    if n < together:
                        row.session[item] = row.session.get(item, 0.0) + weight.real
                    if len(pairs) > bound:
                        row.trim(decay)
                    paired.add(other)
    if batch.deltas:
        position = (epoch, batch.deltas[-1].offset)
        for row, covered in rows.values():
            if position[1] > covered:
                row.applied[source] = position
    return Touched(used, paired)


def pair_scale(time: int, decay: Decay) -> complex:
    """What a pair formed at `time` (ms) weighs on the scales of `PAIR_TIME`, on which all pairs of all items are kept: lasting + season j.

    >>> pair_scale(PAIR_TIME + 10 * DAY_MS, Decay(pair_days=10.0, season_days=5.0))
    (2+4j)
    """
    days = (time - PAIR_TIME) / DAY_MS
    return complex(2.0 ** (days / decay.pair_days), 2.0 ** (days / decay.season_days))


def rank_weights(decay: Decay, window: int) -> tuple[float, ...]:
    """The factor of each place back in the history.

    >>> rank_weights(Decay(rank=0.5), 3)
    (1.0, 0.5, 0.25)
    """
    return tuple(decay.rank**r for r in range(window))


class _Row(msgspec.Struct, array_like=True):
    """A row as it is written: pairs as arrays of little-endian numbers, keys uint64 and weights complex128 or float64."""

    applied: dict[str, tuple[int, int]]
    count: int
    first_time: int
    last_time: int
    popularity: list[float]
    popularity_time: int
    pairs: tuple[bytes, bytes]
    session: tuple[bytes, bytes]
    mass: float
    published_mass: float


_CODEC = RowCodec(_Row, FORMAT, "an item row")


def encode_item(row: ItemState) -> bytes:
    """The row as bytes."""
    written = _Row(
        row.applied,
        row.count,
        row.first_time,
        row.last_time,
        row.popularity,
        row.popularity_time,
        _arrays(row.pairs, "<c16"),
        _arrays(row.session, "<f8"),
        row.mass,
        row.published_mass,
    )
    return _CODEC.encode(written)


def decode_item(raw: bytes) -> ItemState:
    """The row again.

    Raises:
        StateError: the bytes are of an unknown format, or damaged.
    """
    row = _CODEC.decode(raw)
    try:
        pairs, session = _dict(row.pairs, "<c16"), _dict(row.session, "<f8")
    except ValueError as problem:
        raise StateError("state_damaged", str(problem), "an item row", "remove the state folder: it is rebuilt") from problem
    return ItemState(
        row.applied,
        row.count,
        row.first_time,
        row.last_time,
        row.popularity,
        row.popularity_time,
        pairs,
        session,
        row.mass,
        row.published_mass,
    )


def _arrays(weights: Mapping[int, complex], kind: str) -> tuple[bytes, bytes]:
    n = len(weights)
    return np.fromiter(weights, "<u8", n).tobytes(), np.fromiter(weights.values(), kind, n).tobytes()


def _dict(arrays: tuple[bytes, bytes], kind: str) -> dict[int, Any]:
    keys, values = np.frombuffer(arrays[0], "<u8"), np.frombuffer(arrays[1], kind)
    return dict(zip(keys.tolist(), values.tolist(), strict=True))
