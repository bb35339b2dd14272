"""What is remembered of one user, and how an event changes it. Not where it is kept: rows live in `streams.table`.

A row is a bounded value: the recent interactions in order of event time, which items were seen, which event ids came lately, and the
position in each source log up to which the row covers it. Applying the same records again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from engine.fatigue import Shown, show
from engine.partition import hash64, item_key
from engine.records import Event
from engine.rowcodec import RowCodec

SESSION_MS = 1_800_000  # a gap of 30 minutes ends a session that has no id
SESSION_PAIRS = 40
"""Items of its own session that an event is paired with at most, if these are more than the newest `pair_window`: what stands in one basket
belongs together whatever its order."""
EVENT_IDS_MOST = 4  # "the last 1,000 events or 7 days" (contract): both, but a robot's week is not kept
FORMAT = 1  # first byte of an encoded row; a release says in CHANGELOG.md which formats it reads

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "view": 1.0,
    "click": 1.0,
    "cart": 2.0,
    "purchase": 3.0,
    "like": 2.0,
    "dislike": -1.0,
    "rating": 1.0,
    "dwell": 0.5,
    "skip": -0.5,
    "impression": 0.0,
    "search": 0.0,
}


@dataclass(frozen=True)
class Limits:
    """Bounds of a row, and what the events' types weigh.

    Units: `history`, `seen` and `shown` (`engine.fatigue`; 0: none is kept) in items, `event_ids` in events, `event_id_age_ms` in
    milliseconds, `pair_window` in items.
    """

    history: int = 100
    seen: int = 4_000
    event_ids: int = 1_000
    event_id_age_ms: int = 7 * 86_400_000
    pair_window: int = 15
    low_rating: float = 3.5
    shown: int = 0
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))

    def weight(self, event: Event) -> float:
        """How much an event says for (above 0) or against (below 0) its item; a rating below `low_rating` speaks against it."""
        if event.type == "rating" and event.value is not None and event.value < self.low_rating:
            return -self.weights["rating"]
        return self.weights.get(event.type, 0.0)


class Position(NamedTuple):
    """A record's place in a source log: `epoch` names the log (32 bits of the topic's id), so that a topic made anew is another log."""

    source: str
    epoch: int
    partition: int
    offset: int


class Interaction(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One event on one item. `weight` as of `Limits.weights`; `time` in milliseconds since the epoch."""

    item_id: str
    time: int
    weight: float
    session: int = 0  # hash64 of the session id, 0 without one
    type: str = ""


class Verdict(Enum):
    """What became of a record that was offered to a row."""

    APPLIED = "applied"
    REDELIVERED = "redelivered"  # the same record again
    DUPLICATE = "duplicate"  # another record with an event id that came lately
    ERASED = "erased"  # older than the user's erasure


class Change(NamedTuple):
    """The outcome of `UserState.apply`. `others`: the items used just before, newest first, for co-visitation; `together`: so many of
    `others` belong to the event's own session.
    """

    verdict: Verdict
    weight: float = 0.0
    others: tuple[Interaction, ...] = ()
    together: int = 0


class UserState(msgspec.Struct, array_like=True):
    """A user's row. Mutable and owned by one worker; every change goes through its methods.

    `applied`: (source, partition) as "source/partition" -> [epoch, last offset]. `seen` and `event_ids`: hash64 -> event time in seconds,
    oldest entry first. `shown`: see `engine.fatigue.show`. `generation`: the one in force when the row last changed.
    """

    history: list[Interaction] = []
    seen: dict[int, int] = {}
    event_ids: dict[int, int] = {}
    applied: dict[str, tuple[int, int]] = {}
    events: int = 0
    first_time: int = 0
    last_time: int = 0
    generation: str = ""
    personalise: bool = True
    alias_of: str = ""
    erased_at: int = 0
    attributes: dict[str, Any] = {}
    shown: dict[int, Shown] = {}

    def covers(self, position: Position) -> bool:
        """Whether the record at `position` is already part of this row."""
        known = self.applied.get(f"{position.source}/{position.partition}")
        return known is not None and known[0] == position.epoch and position.offset <= known[1]

    def advance(self, position: Position) -> None:
        """Note that all records of this log up to `position` are part of this row."""
        self.applied[f"{position.source}/{position.partition}"] = (position.epoch, position.offset)

    def apply(self, event: Event, position: Position, limits: Limits, latest_ms: int) -> Change:
        """Apply one event of this user; times beyond `latest_ms` (wall clock plus tolerance) count as `latest_ms`."""
        if self.covers(position):
            return Change(Verdict.REDELIVERED)
        self.advance(position)
        time = min(event.timestamp, latest_ms)
        if time <= self.erased_at:
            return Change(Verdict.ERASED)
        if not self._remember(hash64(event.event_id), time, limits):
            return Change(Verdict.DUPLICATE)
        self.events += 1
        self.first_time = min(self.first_time, time) if self.first_time else time
        self.last_time = max(self.last_time, time)
        if event.type == "impression" and limits.shown:
            show(self.shown, [key for key in map(item_key, event.items) if key not in self.seen], time // 1000, limits.shown)
        if event.item_id is None:
            return Change(Verdict.APPLIED)
        weight = limits.weight(event)
        session = hash64(event.session_id) if event.session_id else 0
        at = self._insert(Interaction(event.item_id, time, weight, session, event.type), limits)
        others = self.before(at, event.item_id, max(limits.pair_window, SESSION_PAIRS)) if weight > 0 else ()
        self._see(event.item_id, time, limits)
        same = together(others, time, session)
        return Change(Verdict.APPLIED, weight, others[: max(limits.pair_window, same)], same)

    def before(self, at: int, item_id: str, window: int) -> tuple[Interaction, ...]:
        """Up to `window` liked interactions before place `at` of the history, newest first, each item once and never `item_id`."""
        found: dict[str, Interaction] = {}
        for i in range(at - 1, -1, -1):
            one = self.history[i]
            if one.weight > 0 and one.item_id != item_id and one.item_id not in found:
                found[one.item_id] = one
                if len(found) == window:
                    break
        return tuple(found.values())

    def erase(self, time: int) -> None:
        """Forget everything but the positions, and that events up to `time` (ms) are not to come back."""
        fresh = UserState(applied=self.applied, erased_at=max(time, self.erased_at))
        for name in self.__struct_fields__:
            setattr(self, name, getattr(fresh, name))

    def _remember(self, event_id: int, time: int, limits: Limits) -> bool:
        """Note an event id; False when it came within the window."""
        ids = self.event_ids
        if event_id in ids:
            return False
        ids[event_id] = time // 1000
        horizon = (self.last_time - limits.event_id_age_ms) // 1000
        while len(ids) > limits.event_ids:  # more are kept while they are young, up to EVENT_IDS_MOST times as many
            oldest = next(iter(ids))
            if ids[oldest] >= horizon and len(ids) <= EVENT_IDS_MOST * limits.event_ids:
                break
            del ids[oldest]
        return True

    def _insert(self, one: Interaction, limits: Limits) -> int:
        """Put an interaction in its place by time; late ones go before newer ones. Returns its place (0 when it is too old to be kept)."""
        history = self.history
        at = len(history)
        while at and history[at - 1].time > one.time:
            at -= 1
        history.insert(at, one)
        if len(history) > limits.history:
            del history[0]
            at = max(0, at - 1)
        return at

    def _see(self, item_id: str, time: int, limits: Limits) -> None:
        key, seen = item_key(item_id), self.seen
        seen.pop(key, None)
        seen[key] = time // 1000
        self.shown.pop(key, None)
        if len(seen) > limits.seen:
            del seen[next(iter(seen))]


def user_key(record_key: bytes) -> bytes:
    """The key of a user's row; the letter keeps it apart from a table's internal rows, whatever an id begins with.

    >>> user_key(b"u1")
    b'uu1'
    """
    return b"u" + record_key


_CODEC = RowCodec(UserState, FORMAT, "a user row")
encode_user = _CODEC.encode
decode_user = _CODEC.decode


def together(newest: Iterable[Interaction], time: int, session: int) -> int:
    """How many of these interactions, newest first, belong to the session (hash64, 0 without one) that goes on at `time` (ms).

    >>> together([Interaction("b", 1_700_000, 1.0), Interaction("a", 0, 1.0)], 1_900_000, 0)
    2
    >>> together([Interaction("b", 1_000, 1.0, 7), Interaction("a", 900, 1.0, 8)], 1_100, 7)
    1
    """
    count = 0
    for one in newest:
        if (one.session != session) if session else (time - one.time >= SESSION_MS):
            break
        time = one.time
        count += 1
    return count


def liked(history: Iterable[Interaction], most: int) -> list[Interaction]:
    """The newest `most` liked interactions, newest first, each item once; a later dislike takes an item out."""
    found: dict[str, Interaction | None] = {}
    kept = 0
    for one in reversed(list(history)):
        if one.item_id not in found:
            found[one.item_id] = one if one.weight > 0 else None
            kept += one.weight > 0
            if kept == most:
                break
    return [one for one in found.values() if one is not None]
