"""The events that a cycle learns from, as arrays: cleaned, cut into what is trained on and what is held out. Not where they come from.

No id of a user is kept, only its hash. Memory is bounded by the number of events that are read: 37 bytes each, and as much again while they
are cleaned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.dataset import Dataset, Row, tie_of
from engine.partition import hash64
from engine.records import Event, Item

DAY_MS = 86_400_000
CHUNK = 10_000
MINUTE_MS = 60_000
LOW_RATING = 3.5
"""A rating below it says nothing for an item (the protocol's limit)."""
TYPES = (np.uint64, np.int32, np.int64, np.uint64, np.uint64, np.uint8)
"""Of the arrays of a slice."""
FOREVER = np.iinfo(np.int64).max


class People(NamedTuple):
    """What users want of us. Users are hash64: of the `silent` nothing is learned; `alias`: this one is that one; `erased`: when, ms: what
    they did until then is forgotten.
    """

    silent: frozenset[int] = frozenset()
    alias: Mapping[int, int] = {}
    erased: Mapping[int, int] = {}

    def of(self, user: int) -> int:
        """Whose event it is."""
        seen = {user}
        while (other := self.alias.get(user)) is not None and other not in seen:
            user = other
            seen.add(user)
        return user

    def allow(self, events: Slice) -> NDArray[np.bool_]:
        """(E,) which events that were collected before may still be learned from. What an alias says holds for the user it is as well: the
        events do not tell any more under which of the two names they came.
        """
        until: dict[int, int] = {}
        for user in (*self.erased, *self.silent):
            for one in (user, self.of(user)):
                until[one] = max(until.get(one, -1), FOREVER if user in self.silent else self.erased[user])
        users, own = np.unique(events.users, return_inverse=True)
        last = np.array([max(until.get(user, -1), until.get(self.of(user), -1)) for user in users.tolist()], np.int64)
        return np.asarray(events.times > last[own], bool)

    def keep_silent(self, user: int, time: int) -> bool:
        """Whether an event of this user at this time (ms) is not to be learned from."""
        return user in self.silent or time <= self.erased.get(user, -1)


class Dropped(msgspec.Struct, frozen=True):
    """Events that were not learned from, by why. `missing`: offsets at which no record came: the broker had deleted it before it was read,
    or it is the mark of a transaction.
    """

    unreadable: int = 0
    without_interest: int = 0
    unknown_item: int = 0
    silent_user: int = 0
    duplicate: int = 0
    robot: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Slice:
    """Events in order of time, all arrays (E,): `users`, `sessions` (0: none), `ids` uint64 hashes, `items` int32 index into the catalogue,
    `times` int64 ms, `kinds` uint8 index into `names`.
    """

    users: NDArray[np.uint64]
    items: NDArray[np.int32]
    times: NDArray[np.int64]
    sessions: NDArray[np.uint64]
    ids: NDArray[np.uint64]
    kinds: NDArray[np.uint8]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.times)

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Slice:
        """Some of the events."""
        return Slice(
            self.users[which], self.items[which], self.times[which], self.sessions[which], self.ids[which], self.kinds[which], self.names
        )

    def before(self, time: int) -> Slice:
        """The events before `time` (ms)."""
        return self.take(self.times < time)


@dataclass
class Collector:
    """Gathers events one by one into chunks of arrays. `weights`: event type -> weight; `index`: item id -> place in the catalogue."""

    weights: Mapping[str, float]
    index: Mapping[str, int]
    people: People = field(default_factory=People)

    def __post_init__(self) -> None:
        self._names = tuple(sorted(self.weights))
        self._kind = {name: n for n, name in enumerate(self._names)}
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._parts: list[list[NDArray[Any]]] = [[np.zeros(0, kind) for kind in TYPES]]
        self._counts = dict.fromkeys(Dropped.__struct_fields__, 0)

    def drop(self, why: str, count: int = 1) -> None:
        """Count events that can't be learned from."""
        self._counts[why] += count

    def add(self, event: Event) -> None:
        """Take an event in, if it says something for an item that is known."""
        low = event.type == "rating" and event.value is not None and not event.value >= LOW_RATING  # NaN too
        if event.item_id is None or self.weights.get(event.type, 0.0) <= 0 or low:
            return self.drop("without_interest")
        at = self.index.get(event.item_id)
        if at is None:
            return self.drop("unknown_item")
        own = hash64(event.user_id)
        user = self.people.of(own)
        if self.people.keep_silent(own, event.timestamp) or self.people.keep_silent(user, event.timestamp):
            return self.drop("silent_user")
        session = hash64(event.session_id) if event.session_id else 0
        self._rows.append((user, at, event.timestamp, session, hash64(event.event_id), self._kind[event.type]))
        if len(self._rows) == CHUNK:
            self._pack()
        return None

    def finish(self, robot_events_per_day: int) -> tuple[Slice, Dropped]:
        """Everything gathered, cleaned and in order of time."""
        self._pack()
        users, items, times, sessions, ids, kinds = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        self._parts.clear()
        all_ = Slice(users, items, times, sessions, ids, kinds, self._names)
        all_ = all_.take(np.lexsort((all_.ids, all_.times)))
        alone = all_.take(first_of(all_))
        self._counts["duplicate"] += len(all_) - len(alone)
        human = alone.take(~robots(alone, robot_events_per_day))
        self._counts["robot"] += len(alone) - len(human)
        return human, Dropped(**self._counts)

    def _pack(self) -> None:
        if self._rows:
            columns = list(zip(*self._rows, strict=True))
            self._parts.append([np.array(column, kind) for column, kind in zip(columns, TYPES, strict=True)])
            self._rows.clear()


def first_of(events: Slice) -> NDArray[np.bool_]:
    """(E,) which events are no duplicates: neither the same event again, nor a user's same item again within one session or minute."""
    keep = np.ones(len(events), bool)
    place = np.where(events.sessions > 0, events.sessions, (events.times // MINUTE_MS).astype(np.uint64))
    for columns in ((events.users, events.ids), (events.users, events.items.astype(np.uint64), place)):
        order = np.lexsort((np.arange(len(events)), *columns))
        same = np.ones(max(0, len(events) - 1), bool)
        for column in columns:
            ordered = column[order]
            same &= ordered[1:] == ordered[:-1]
        keep[order[1:][same]] = False
    return keep


def robots(events: Slice, most_per_day: int) -> NDArray[np.bool_]:
    """(E,) the events of users who made more than so many on one day: no person does, and one robot can outweigh a thousand people."""
    users, own = np.unique(events.users, return_inverse=True)
    days = events.times // DAY_MS
    _, place, counts = np.unique(np.stack([own, days]), axis=1, return_inverse=True, return_counts=True)
    over = np.zeros(len(users), bool)
    over[own[counts[place.reshape(-1)] > most_per_day]] = True
    return over[own]


def cut(events: Slice, held_out: float) -> int:
    """The time (ms) from which on events are held out: the newest share of them."""
    return int(events.times[min(len(events) - 1, int(len(events) * (1 - held_out)))]) if len(events) else 0


def windows(events: Slice, length: int, most_per_user: int, seed: int) -> list[NDArray[np.int32]]:
    """What users took one after the other, in and across sessions: pieces of up to `length` different items, each begun by the last of the
    one before, in a random order. Of a user the newest `most_per_user` items count.

    >>> events = Slice(*(np.array([1, 1, 1]) for _ in range(2)), np.array([1, 2, 3]), *(np.zeros(3, int) for _ in range(3)), ("click",))
    >>> windows(events, 4, 100, 0)
    []
    """
    rng = np.random.default_rng(seed)
    order = np.lexsort((np.arange(len(events)), events.users))
    ends = np.flatnonzero(np.diff(events.users[order])) + 1
    found: list[NDArray[np.int32]] = []
    for part in np.split(order, ends) if len(order) else ():
        items = events.items[part]
        _, first = np.unique(items, return_index=True)
        taken = items[np.sort(first)][-most_per_user:]
        start = int(rng.integers(0, length - 1)) if len(taken) > length else 0
        begins = range(start - (length - 1), len(taken) - 1, length - 1) if start else range(0, len(taken) - 1, length - 1)
        pieces = (taken[max(0, at) : at + length] for at in begins)
        found += [piece for piece in pieces if len(piece) > 1]
    return [found[n] for n in rng.permutation(len(found))]


def dataset_of(events: Slice, items: Sequence[Item], name: str) -> Dataset:
    """The events as a recorded data set, for test-then-train; users are named by their hashes."""
    names: dict[int, str] = {}
    rows = []
    columns = (events.users, events.items, events.times, events.sessions, events.kinds)
    for n, (user, item, time, session, kind) in enumerate(zip(*(one.tolist() for one in columns), strict=True)):
        who = names.setdefault(user, f"{user:016x}")
        item_id, seconds = items[item].item_id, time / 1000
        rows.append(
            Row(n, seconds, who, item, f"{session:x}" if session else "", tie_of(str(time), who, item_id), events.names[kind], item_id)
        )
    since = tuple(None if one.available_from is None else one.available_from / 1000 for one in items)
    return Dataset(name, {}, tuple(items), since, {one.item_id: n for n, one in enumerate(items)}, tuple(rows))
