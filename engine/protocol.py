"""Test-then-train over a recorded stream: which rows, in which order, asked about when. It ranks nothing and computes no figures.

A stream is the rows that count, in time order; rows of equal time stand in an order drawn by hash, since the file's order is an artefact.
Two tables of cases:

next      asked before an event whose user has earlier events and whose item is new to that user; everything earlier is learned.
session   asked when a user's session starts, about one of its new items drawn by hash; only sessions that ended before are learned.

With `repeats` an item need not be new to the user, and the user's own earlier items are candidates too.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.dataset import Dataset, Row

Table = Literal["next", "session"]
TABLES: tuple[Table, ...] = ("next", "session")
GAP_S = 1800.0
"""Half an hour without an event ends a session that has no id."""
WARM = 0.3
"""Share of the stream before the first case: below it nothing has been learned that a list could show."""
WANTED = 6000
LIKED = 3.5
"""A rating below it is no sign of interest: the row is dropped."""


@dataclass(frozen=True, slots=True)
class Case:
    """A list to make for `user` at `time` (s), and the item (index) that the user then took; `earlier` counts the user's learned events."""

    id: str
    time: float
    user: str
    target: int
    earlier: int


@dataclass(frozen=True, slots=True)
class Learn:
    """Learn these rows, in this order."""

    events: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Ask:
    """Make a list for this case, before its target is known."""

    case: Case


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By time, then by the hash that draws among rows of equal time, then by place in the file (for repeats of one row)."""
    return sorted(rows, key=lambda r: (r.time, r.tie, r.row))


def stream(dataset: Dataset) -> list[Row]:
    """The rows that the protocol counts, in its order: of an item of the catalogue, and not rated below 3.5 (nor "nan")."""
    return in_order(r for r in dataset.rows if r.item >= 0 and (r.rating is None or r.rating >= LIKED))


def open_items(available_from: npt.NDArray[np.float64], used: npt.NDArray[np.bool_], time: float) -> npt.NDArray[np.bool_]:
    """(I,) bool: what may be listed at `time`: items that have had an event, and those available by then.

    `available_from` is (I,) seconds, -inf for an item without a date. The user's own earlier items are to be taken out by the caller.

    >>> open_items(np.array([-np.inf, 5.0, 50.0, 60.0]), np.array([False, False, True, False]), 10.0).tolist()
    [True, True, True, False]
    """
    return used | (available_from <= time)


def sessions(events: Iterable[Row]) -> list[list[Row]]:
    """The stream cut into sessions, in the order of their first rows: by session id, else by a gap of half an hour."""
    found: list[list[Row]] = []
    latest: dict[str, list[Row]] = {}  # per user
    for event in events:
        current = latest.get(event.user)
        if current is None or not _continues(current[-1], event):
            current = latest[event.user] = []
            found.append(current)
        current.append(event)
    return found


def _continues(last: Row, event: Row) -> bool:
    return event.session == last.session if event.session else event.time - last.time < GAP_S


def chosen(steps: Sequence[Sequence[Row]], start: float, wanted: int, *, repeats: bool = False) -> frozenset[int]:
    """Indexes of the steps to ask about: about `wanted`, evenly, of those from `start` on whose known user meets something new, or with
    `repeats` anything.
    """
    seen: defaultdict[str, set[int]] = defaultdict(set)
    eligible = []
    for n, step in enumerate(steps):
        own = seen[step[0].user]
        if own and step[0].time >= start and (repeats or any(e.item not in own for e in step)):
            eligible.append(n)
        own.update(e.item for e in step)
    stride = max(1, len(eligible) // wanted)
    return frozenset(eligible[stride - 1 :: stride])


def operations(
    events: Sequence[Row], table: Table, wanted: int = WANTED, start: float | None = None, *, repeats: bool = False
) -> Iterator[Learn | Ask]:
    """What a recommender must do, in order, on a `stream`; about `wanted` cases, or all with `wanted=len(events)`.

    `start`: the time (s) from which on cases are asked; None: after the first WARM of the stream. `repeats`: also about items that the
    user had before.

    Raises:
        ValueError: `table` is no table, or `wanted` is below 1.
    """
    if table not in TABLES or wanted < 1:
        raise ValueError(f"found table {table!r} and {wanted} cases, expected one of {TABLES} and at least 1")
    if not events:
        return
    alone = table == "next"
    steps = [[e] for e in events] if alone else sessions(events)
    asked = chosen(steps, events[int(len(events) * WARM)].time if start is None else start, wanted, repeats=repeats)
    known = _Known(repeats)
    open_sessions: list[tuple[float, bytes, int]] = []  # a heap of (end in s, tie of the last row, step)
    for n, step in enumerate(steps):
        while open_sessions and open_sessions[0][0] < step[0].time:
            yield known.learn(steps[heapq.heappop(open_sessions)[2]])
        if n in asked and (case := known.case(table, step)):
            yield Ask(case)
        if alone:
            yield known.learn(step)
        else:
            heapq.heappush(open_sessions, (step[-1].time, step[-1].tie, n))


class _Known:
    """What has been learned of each user when a case is asked: less than what has happened, while sessions are open."""

    def __init__(self, repeats: bool) -> None:
        self.repeats = repeats
        self.items: defaultdict[str, set[int]] = defaultdict(set)
        self.counts: Counter[str] = Counter()

    def learn(self, step: Sequence[Row]) -> Learn:
        for event in step:
            self.items[event.user].add(event.item)
            self.counts[event.user] += 1
        return Learn(step)

    def case(self, table: Table, step: Sequence[Row]) -> Case | None:
        first = step[0]
        own = self.items.get(first.user)
        new = [e for e in step if self.repeats or e.item not in own] if own else []
        if not new:
            return None
        target = min(new, key=lambda e: (e.tie, e.row))
        return Case(f"{table}:{first.row}", first.time, first.user, target.item, self.counts[first.user])


def cases_of(events: Sequence[Row], table: Table, wanted: int = WANTED, *, repeats: bool = False) -> tuple[list[Case], Collection[str]]:
    """All cases of a table, and the ids of those whose item nobody had used when they were asked."""
    used: set[int] = set()
    cases: list[Case] = []
    unused: set[str] = set()
    for step in operations(events, table, wanted, repeats=repeats):
        if isinstance(step, Learn):
            used.update(e.item for e in step.events)
        else:
            cases.append(step.case)
            if step.case.target not in used:
                unused.add(step.case.id)
    return cases, unused
