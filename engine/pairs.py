"""Events as the owners of their items see them, many at a time: packed to be sent, and sorted by the row that they change.

Not the rows themselves (`engine.item`). Pairs are symmetric: both items count the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.catalogue import DAY_MS
from engine.errors import StateError
from engine.hashtable import AMOUNTS, Keys, Room, spread
from engine.user import SESSION_PAIRS

PAIR_TIME = 1_577_836_800_000
"""2020-01-01: pairs weigh 1 then, and 2^(days / half-life) later."""
REPORT = "stop who else writes to `_pairs`: only workers of one release may; then make the topic anew"


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

    def halves(self, times: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Half-lives from `PAIR_TIME` to some times (ms), lasting and of the season: a pair formed then weighs 2 to their power.

        >>> [x.tolist() for x in Decay(pair_days=10.0, season_days=5.0).halves(np.array([PAIR_TIME + 10 * DAY_MS]))]
        [[1.0], [2.0]]
        """
        days = (times - PAIR_TIME) / DAY_MS
        return days / self.pair_days, days / self.season_days


class Delta(NamedTuple):
    """One event. `offset`: its place in its source log; `time` in ms; `item` and `others` are hash64 of item ids, `others` those that its
    user used just before, newest first; `together`: so many of them are of its session.
    """

    offset: int
    time: int
    item: int
    others: tuple[int, ...]
    together: int = 0


class PairBatch(msgspec.Struct, array_like=True, frozen=True):
    """The deltas of some events of one source partition, as sent to a partition that owns one of their items: little-endian numbers.

    `offsets`, `times` int64, `items`, `others` uint64, `counts` (of others), `together` uint8.
    """

    source: str
    epoch: int
    partition: int
    offsets: bytes
    times: bytes
    items: bytes
    counts: bytes
    together: bytes
    others: bytes


class Deltas(NamedTuple):
    """The same as arrays; delta n's others are `others[starts[n]:starts[n + 1]]`."""

    offsets: NDArray[np.int64]
    times: NDArray[np.int64]
    items: Keys
    starts: NDArray[np.int64]
    together: NDArray[np.int64]
    others: Keys


class Updates(NamedTuple):
    """What some batches add to the rows of one owner, sorted by row. Row r's part begins at `starts[r]`, in order of arrival.

    `rows`: their items; `others` (U,) uint64; `amounts` (U, 5) float64: the step's factor, the half-lives, lasting and season, by which it
    weighs more than at `PAIR_TIME`, whether the two are of one session, and how soon the other came after; `batches`, `offsets` (U,) int64:
    whose delta it is. `sources`: the batches that have something for each row.
    """

    rows: list[int]
    starts: list[int]
    sources: list[list[int]]
    others: Keys
    amounts: NDArray[np.float64]
    batches: NDArray[np.int64]
    offsets: NDArray[np.int64]


def packed(deltas: Sequence[Delta]) -> Deltas:
    """As arrays."""
    offsets, times, items, others, together = zip(*deltas, strict=True) if deltas else ((),) * 5
    numbers = (np.array(offsets, np.int64), np.array(times, np.int64), np.array(items, np.uint64))
    flat = np.array([key for row in others for key in row], np.uint64)
    return Deltas(*numbers, _starts(np.array([len(row) for row in others], np.int64)), np.array(together, np.int64), flat)


def shares(deltas: Deltas, owners: int) -> Iterator[tuple[int, Deltas]]:
    """What each owner (hash64 mod `owners`) of one of the items has to know.

    >>> [(owner, found.offsets.tolist()) for owner, found in shares(packed([Delta(7, 0, 2, (5,)), Delta(8, 0, 4, ())]), 2)]
    [(0, [7, 8]), (1, [7])]
    """
    count, lengths = len(deltas.items), np.diff(deltas.starts)
    if not count:
        return
    delta_of = np.repeat(np.arange(count), lengths)
    targets = np.concatenate([deltas.items % np.uint64(owners), deltas.others % np.uint64(owners)]).astype(np.int64)
    wanted = np.unique(targets * count + np.concatenate([np.arange(count), delta_of]))
    owned = wanted // count
    for part in np.split(wanted, np.flatnonzero(np.diff(owned)) + 1):
        chosen = np.zeros(count, bool)
        chosen[part % count] = True
        numbers = (deltas.offsets[chosen], deltas.times[chosen], deltas.items[chosen])
        found = Deltas(*numbers, _starts(lengths[chosen]), deltas.together[chosen], deltas.others[chosen[delta_of]])
        yield int(part[0]) // count, found


def written(source: str, epoch: int, partition: int, deltas: Deltas) -> PairBatch:
    """As it is sent."""
    return PairBatch(
        source,
        epoch,
        partition,
        deltas.offsets.astype("<i8").tobytes(),
        deltas.times.astype("<i8").tobytes(),
        deltas.items.astype("<u8").tobytes(),
        np.diff(deltas.starts).astype("u1").tobytes(),
        deltas.together.astype("u1").tobytes(),
        deltas.others.astype("<u8").tobytes(),
    )


def read(batch: PairBatch) -> Deltas:
    """The arrays again.

    Raises:
        StateError: their lengths do not fit.
    """
    for raw in (batch.offsets, batch.times, batch.items, batch.others):
        if len(raw) % 8:
            raise StateError("pairs_damaged", f"{len(raw)} bytes", "whole numbers of 8 bytes", REPORT)
    offsets, times = (np.frombuffer(raw, "<i8") for raw in (batch.offsets, batch.times))
    items, others = (np.frombuffer(raw, "<u8") for raw in (batch.items, batch.others))
    counts, together = (np.frombuffer(raw, "u1").astype(np.int64) for raw in (batch.counts, batch.together))
    starts = _starts(counts)
    if len({len(offsets), len(times), len(items), len(counts), len(together)}) > 1 or starts[-1] != len(others):
        lengths = f"{len(offsets)} offsets, {len(items)} items, {len(others)} of {starts[-1]} others"
        raise StateError("pairs_damaged", lengths, "arrays that fit", REPORT)
    return Deltas(offsets, times, items, starts, together, others)


def updates_of(batches: Sequence[Deltas], steps: NDArray[np.float64], decay: Decay, *, owner: int, owners: int) -> Updates:
    """Sort what some batches add by the row that it changes, for the rows that `owner` owns; `steps`: see `rank_weights`."""
    most = 2 * sum(len(deltas.others) for deltas in batches)
    rows, others, amounts = np.empty(most, np.uint64), np.empty(most, np.uint64), np.empty((most, AMOUNTS))
    numbers, offsets = np.empty(most, np.int64), np.empty(most, np.int64)
    end = 0
    for number, deltas in enumerate(batches):
        room = Room(rows[end:], others[end:], amounts[end:], offsets[end:])
        count = spread(deltas, *decay.halves(deltas.times), steps, owner, owners, room)
        numbers[end : end + count] = number
        end += count
    order = np.argsort(rows[:end], kind="stable")
    rows, numbers = rows[order], numbers[order]
    new_row = rows[1:] != rows[:-1]
    changes = (new_row, new_row | (numbers[1:] != numbers[:-1]))
    first, part = (np.concatenate([[0], np.flatnonzero(change) + 1])[:end] for change in changes)
    starts, of = [*first.tolist(), end], numbers[part].tolist()
    cuts = np.searchsorted(part, starts).tolist()
    sources = [of[a:b] for a, b in pairwise(cuts)]
    return Updates(rows[first].tolist(), starts, sources, others[order], amounts[order], numbers, offsets[order])


def rank_weights(decay: Decay, window: int) -> NDArray[np.float64]:
    """The factor of each place back in the history, of a window and of the session if that is longer.

    >>> rank_weights(Decay(rank=0.5), 3).tolist()[:3]
    [1.0, 0.5, 0.25]
    """
    return decay.rank ** np.arange(max(window, SESSION_PAIRS), dtype=np.float64)


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
