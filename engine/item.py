"""What is counted of one item by the worker that owns it: uses, decayed popularity, and the items used by the same people.

Not the catalogue entry (`engine.records.Item`), and not what every worker reads (`engine.stats`): that is made from this.

Co-visitation follows the item-to-item idea of Linden et al. (2003): an event on an item counts for the pairs it forms with the items the same
user used just before, less the further back they are. Old pairs fade by forward decay (Cormode et al., 2009): instead of shrinking all
counts, newer ones weigh more, and the scale is moved now and then.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import msgspec

from engine.catalogue import DAY_MS
from engine.errors import StateError

FORMAT = 1


@dataclass(frozen=True)
class Decay:
    """How counts fade. Half-lives in days; `rank` is the factor per step back in the user's history; `pairs` bounds the pairs kept per item."""

    popularity_days: tuple[float, float] = (14.0, 180.0)
    pair_days: float = 3_650.0
    rank: float = 0.85
    pairs: int = 1_000


class PairDelta(msgspec.Struct, array_like=True, frozen=True):
    """One event as the owners of its items see it. `offset`: the event's place in its source log; `time` in ms; `item` and `others` are
    hash64 of item ids, `others` newest first; `first`: the item was new to its user.
    """

    offset: int
    time: int
    weight: float
    item: int
    others: tuple[int, ...]
    first: bool = True


class PairBatch(msgspec.Struct, array_like=True, frozen=True):
    """The deltas of a batch of events of one source partition, sent to every partition that owns one of their items."""

    source: str
    epoch: int
    partition: int
    deltas: tuple[PairDelta, ...]


class ItemState(msgspec.Struct, array_like=True):
    """An item's row, owned by one worker.

    `applied`: "source/partition" -> (epoch, last offset), as in a user's row. `pairs`: hash64 of the other item -> weight on the scale of
    `pair_time`. `popularity` is as of `popularity_time`. Times in ms.
    """

    applied: dict[str, tuple[int, int]] = {}
    count: int = 0
    first_time: int = 0
    last_time: int = 0
    popularity: list[float] = []
    popularity_time: int = 0
    pairs: dict[int, float] = {}
    pair_time: int = 0
    mass: float = 0.0  # sum of what was added to pairs, on the scale of pair_time
    published_mass: float = 0.0  # mass when its neighbours were last published

    def takes(self, source: str, epoch: int, offset: int) -> bool:
        """Whether the event at `offset` is new to this row; if so it is noted as applied. `source` is "source/partition"."""
        known = self.applied.get(source)
        if known is not None and known[0] == epoch and offset <= known[1]:
            return False
        self.applied[source] = (epoch, offset)
        return True

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

    def pair_scale(self, time: int, decay: Decay) -> float:
        """What a count of 1 at `time` weighs on the scale of `pair_time`; moves the scale when it grew by 2^20."""
        if not self.pair_time:
            self.pair_time = time
        halves = (time - self.pair_time) / (decay.pair_days * DAY_MS)
        if halves > 20.0:
            shrink = 2.0**-halves
            self.pairs = {k: kept for k, v in self.pairs.items() if (kept := v * shrink) > 1e-9}
            self.mass *= shrink
            self.published_mass *= shrink
            self.pair_time, halves = time, 0.0
        return float(2.0 ** max(halves, -60.0))

    def pair(self, others: tuple[int, ...], weights: tuple[float, ...], scale: float, decay: Decay) -> None:
        """Add `weights` x `scale` to the pairs with `others`."""
        pairs = self.pairs
        for other, weight in zip(others, weights, strict=False):
            gain = weight * scale
            pairs[other] = pairs.get(other, 0.0) + gain
            self.mass += gain
        if len(pairs) > decay.pairs + decay.pairs // 4:
            self.pairs = dict(heapq.nlargest(decay.pairs, pairs.items(), key=lambda entry: entry[1]))

    def worth_publishing(self, growth: float = 0.03) -> bool:
        """Whether the neighbours changed enough since they were last published."""
        return self.mass > self.published_mass * (1.0 + growth)


def rank_weights(decay: Decay, window: int) -> tuple[float, ...]:
    """The factor of each place back in the history.

    >>> rank_weights(Decay(rank=0.5), 3)
    (1.0, 0.5, 0.25)
    """
    return tuple(decay.rank**r for r in range(window))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ItemState)
_PREFIX = bytes([FORMAT])


def encode_item(state: ItemState) -> bytes:
    """A row as bytes: one byte of format, then MessagePack."""
    return _PREFIX + _encoder.encode(state)


def decode_item(raw: bytes) -> ItemState:
    """The row again.

    Raises:
        StateError: the bytes are of an unknown format, or damaged.
    """
    if raw[:1] != _PREFIX:
        found = f"format {raw[0]}" if raw else "nothing"
        raise StateError(
            "state_format", found=found, expected=f"format {FORMAT}", remedy="rebuild the state from the log in a new state folder"
        )
    try:
        return _decoder.decode(memoryview(raw)[1:])
    except msgspec.DecodeError as problem:
        raise StateError(
            "state_damaged", found=str(problem), expected="an item row", remedy="remove the state folder: it is rebuilt"
        ) from problem
