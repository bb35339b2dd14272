"""What is counted of one item by the worker that owns it: uses, decayed popularity, and the items used by the same people.

Not the catalogue entry (`engine.records.Item`), and not what every worker reads (`engine.stats`): that is made from this.

Co-visitation follows the item-to-item idea of Linden et al. (2003): an event on an item counts for the pairs it forms with the items the
same user used just before, less the further back they are. Old pairs fade by forward decay (Cormode et al., 2009): instead of shrinking all
counts, newer ones weigh more.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import msgspec

from engine.catalogue import DAY_MS
from engine.rowcodec import RowCodec

FORMAT = 1
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


class Scale(NamedTuple):
    """What one more use weighs in a pair's weights, the lasting ones and the season's."""

    slow: float
    fast: float


class Pairs(NamedTuple):
    """Weights of an item's pairs, as in `ItemState`."""

    pairs: dict[int, float]
    season: dict[int, float]
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


class ItemState(msgspec.Struct, array_like=True):
    """An item's row, owned by one worker.

    `applied`: "source/partition" -> (epoch, last offset), as in a user's row. `pairs`, `season`, `session`: hash64 of the other item ->
    weight on the scales of `pair_scale`: uses by the same people, the same with the season's half-life, uses in one session. The first two
    have the same keys in the same order. `popularity` is as of `popularity_time`. Times in ms.
    """

    applied: dict[str, tuple[int, int]] = {}
    count: int = 0
    first_time: int = 0
    last_time: int = 0
    popularity: list[float] = []
    popularity_time: int = 0
    # three dictionaries of plain numbers: a list per pair would be one more object per pair for the garbage collector to walk
    pairs: dict[int, float] = {}
    season: dict[int, float] = {}
    session: dict[int, float] = {}
    mass: float = 0.0  # sum of the first weights that were added to pairs
    published_mass: float = 0.0  # mass when its neighbours were last published

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

    def pair(self, others: Sequence[int], steps: Sequence[float], scale: Scale, decay: Decay, together: int = 0) -> None:
        """Add `steps` x `scale` to the pairs with `others`, of which the first `together` are of one session with the item."""
        slow, fast = scale
        for n, (other, step) in enumerate(zip(others, steps, strict=False)):
            self.add(other, step * slow, step * fast, slow if n < together else 0.0)
        if len(self.pairs) > decay.bound:
            self.trim(decay)

    def add(self, other: int, lasting: float, season: float, session: float) -> None:
        """Add to the weights of one pair."""
        pairs = self.pairs
        self.mass += lasting
        if other in pairs:
            pairs[other] += lasting
            self.season[other] += season
        else:
            pairs[other] = lasting
            self.season[other] = season
        if session:
            self.session[other] = self.session.get(other, 0.0) + session

    def trim(self, decay: Decay) -> None:
        """Keep the strongest pairs."""
        self.pairs = dict(heapq.nlargest(decay.pairs, self.pairs.items(), key=itemgetter(1)))
        self.season = {key: self.season[key] for key in self.pairs}
        self.session = {key: weight for key, weight in self.session.items() if key in self.pairs}

    def all_pairs(self) -> Pairs:
        """A copy of the pairs, for another thread."""
        return Pairs(dict(self.pairs), dict(self.season), dict(self.session))

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
        item, offset, others = delta.item, delta.offset, delta.others
        scale = pair_scale(delta.time, decay)
        slow, fast = scale
        if item % owners == owner:
            row, covered = rows.get(item) or fetch(item)
            if offset > covered:
                row.use(delta.time, decay)
                used.add(item)
                if others:
                    row.pair(others, steps, scale, decay, delta.together)
                    paired.add(item)
        for n, (other, step) in enumerate(zip(others, steps, strict=False)):
            if other % owners == owner:
                row, covered = rows.get(other) or fetch(other)
                if offset > covered:
                    row.add(item, step * slow, step * fast, slow if n < delta.together else 0.0)
                    if len(row.pairs) > bound:
                        row.trim(decay)
                    paired.add(other)
    if batch.deltas:
        position = (epoch, batch.deltas[-1].offset)
        for row, covered in rows.values():
            if position[1] > covered:
                row.applied[source] = position
    return Touched(used, paired)


def pair_scale(time: int, decay: Decay) -> Scale:
    """What a pair formed at `time` (ms) weighs on the scales of `PAIR_TIME`, on which all pairs of all items are kept.

    >>> pair_scale(PAIR_TIME + 10 * DAY_MS, Decay(pair_days=10.0, season_days=5.0))
    Scale(slow=2.0, fast=4.0)
    """
    days = (time - PAIR_TIME) / DAY_MS
    return Scale(2.0 ** (days / decay.pair_days), 2.0 ** (days / decay.season_days))


def rank_weights(decay: Decay, window: int) -> tuple[float, ...]:
    """The factor of each place back in the history.

    >>> rank_weights(Decay(rank=0.5), 3)
    (1.0, 0.5, 0.25)
    """
    return tuple(decay.rank**r for r in range(window))


_CODEC = RowCodec(ItemState, FORMAT, "an item row")
encode_item = _CODEC.encode
decode_item = _CODEC.decode
