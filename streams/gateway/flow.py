"""How much comes in and goes out, and how soon lists follow events, from the records' own times. Not a worker's measurement.

A list names the last event it covers. Its freshness here is the list's record time less that event's: from when a producer handed the
event to Kafka to when a worker handed the list to it, by the clocks of the two machines. Ways to and from a browser are not in it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import msgspec

SERIES_S = 60
MEAN_S = 10
"""Seconds that a rate is the mean of."""
EVENTS = 50_000
"""Events whose record time is held for lists to come, 200 bytes each: at 1,000 events/s, a list may be 50 s late."""
LISTS = 2_000
WINDOW_MS = 60_000
"""How far back freshness is told: a minute, as the rates, and no more than the last 2,000 lists."""
BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000)


class Figures(msgspec.Struct, frozen=True):
    """``per_s``: mean of the last ten seconds; ``series``: records in each of the last sixty, oldest first."""

    per_s: float
    series: list[int]


class Bucket(msgspec.Struct, frozen=True):
    """Lists no older than ``le_ms`` (none: without bound) and older than the bucket before."""

    le_ms: int | None
    lists: int


class Freshness(msgspec.Struct, frozen=True):
    """From an event's record time to its list's, over the lists of the last minute, at most 2,000."""

    lists: int
    p50_ms: float | None
    p99_ms: float | None
    buckets: list[Bucket]


class Rate:
    """Records per second of record time.

    >>> rate = Rate()
    >>> for at_ms in (1_000, 1_500, 2_999): rate.add(at_ms)
    >>> rate.figures(4_000).series[-3:]
    [2, 1, 0]
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, at_ms: int) -> None:
        """Count a record."""
        second = at_ms // 1000
        self._counts[second] = self._counts.get(second, 0) + 1
        if len(self._counts) > 4 * SERIES_S:
            newest = max(self._counts)
            self._counts = {s: n for s, n in self._counts.items() if s > newest - 2 * SERIES_S}

    def figures(self, now_ms: int) -> Figures:
        """What came in the last whole seconds before now."""
        now = now_ms // 1000
        series = [self._counts.get(second, 0) for second in range(now - SERIES_S, now)]
        return Figures(sum(series[-MEAN_S:]) / MEAN_S, series)


class _Joined(NamedTuple):
    at_ms: int
    fresh_ms: int


class Flow:
    """Rates of events and lists, and freshness."""

    def __init__(self) -> None:
        self.events, self.lists = Rate(), Rate()
        self._events: dict[tuple[int, int], int] = {}  # place -> record time
        self._early: dict[tuple[int, int], int] = {}  # lists read before their events: two threads read
        self._joined: deque[_Joined] = deque(maxlen=LISTS)

    def event(self, place: tuple[int, int], at_ms: int) -> None:
        """An event was read."""
        self.events.add(at_ms)
        listed = self._early.pop(place, None)
        if listed is not None:
            self._joined.append(_Joined(listed, listed - at_ms))
            return
        self._events[place] = at_ms
        if len(self._events) > EVENTS:
            del self._events[next(iter(self._events))]

    def listed(self, place: tuple[int, int] | None, at_ms: int) -> None:
        """A list was read. `place`: the last event it covers, where an event led to it; only its first list counts."""
        self.lists.add(at_ms)
        if place is None:
            return
        event = self._events.pop(place, None)
        if event is not None:
            self._joined.append(_Joined(at_ms, at_ms - event))
            return
        self._early.setdefault(place, at_ms)
        if len(self._early) > LISTS:
            del self._early[next(iter(self._early))]

    def freshness(self, now_ms: int) -> Freshness:
        """The figures as of now."""
        fresh = sorted(max(0, one.fresh_ms) for one in self._joined if one.at_ms > now_ms - WINDOW_MS)
        buckets, done = [], 0
        for bound in BOUNDS_MS:
            upto = sum(ms <= bound for ms in fresh)
            buckets.append(Bucket(bound, upto - done))
            done = upto
        buckets.append(Bucket(None, len(fresh) - done))
        return Freshness(len(fresh), _quantile(fresh, 0.5), _quantile(fresh, 0.99), buckets)


def _quantile(ordered: list[int], q: float) -> float | None:
    return float(ordered[min(len(ordered) - 1, int(q * len(ordered)))]) if ordered else None
