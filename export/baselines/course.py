"""A baseline's way through the protocol: fitted on what was learned, every 5 % of the stream, and asked with the newest histories.

Nothing looks ahead: a fit sees the events learned before it, and a list what `engine.protocol` allows when it is asked for.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.dataset import Dataset, Row
from engine.figures import gain
from engine.protocol import WANTED, Ask, Case, Learn, Table, open_items, operations, sessions, stream
from engine.space import Floats
from export.baselines.log import DEPTH, Asked, Baseline, Ints, Log, Past

EVERY = 0.05
"""Share of the stream between two fits, if nothing else is wanted."""
BATCH = 256
"""Lists made at a time."""
LISTED = 100
"""Length of a list."""
TIE = 1e-6
"""What popularity adds, as a share of the largest score: it orders items of equal score, and next to nothing else."""
Watch = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Watch nothing."""
    del done, total


@dataclass(frozen=True, slots=True)
class Course:
    """One table's steps over a stream, laid out once for all methods. `available` (I,) s; `users`, `sessions`: user or row -> code;
    `relevant`: case -> items that a list would be right with (in table `session` all that was new in the session); `refit`: events
    between two fits.
    """

    table: Table
    steps: tuple[Learn | Ask, ...]
    events: tuple[Row, ...]
    available: NDArray[np.float64]
    users: Mapping[str, int]
    sessions: Mapping[int, int]
    relevant: Mapping[str, frozenset[int]]
    refit: int
    repeats: bool

    @property
    def cases(self) -> list[Case]:
        """All cases, in order."""
        return [step.case for step in self.steps if isinstance(step, Ask)]

    def first_fit(self) -> int:
        """Events that have been learned when the first list is asked for."""
        learned = 0
        for step in self.steps:
            if isinstance(step, Ask):
                break
            learned += len(step.events)
        return learned

    def unlearned(self) -> float:
        """The share of cases about an item that nobody had used when the last fit was due: no baseline can list it."""
        learned, fitted, found = 0, -1, []
        used: set[int] = set()
        known: set[int] = set()
        for step in self.steps:
            if isinstance(step, Learn):
                used.update(event.item for event in step.events)
                learned += len(step.events)
                continue
            if learned // self.refit != fitted:
                fitted, known = learned // self.refit, set(used)
            found.append(step.case.target not in known)
        return sum(found) / len(found) if found else 0.0

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        table: Table,
        *,
        wanted: int = WANTED,
        repeats: bool = False,
        share: float = 1.0,
        first: float | None = None,
        every: float = EVERY,
    ) -> Course:
        """Lay out a table. `share`: only the first part of the stream's events; `first`: share of the stream before the first case, None:
        the protocol's; `every`: share of the stream between two fits.
        """
        whole = stream(dataset)
        events = whole[: int(len(whole) * share)]
        start = None if first is None or not whole else whole[int(len(whole) * first)].time
        cut = sessions(events)
        step_of = {step[0].row: step for step in cut}
        steps = tuple(operations(events, table, wanted, start, repeats=repeats))
        own: defaultdict[str, set[int]] = defaultdict(set)
        relevant = {}
        for step in steps:
            if isinstance(step, Learn):
                for event in step.events:
                    own[event.user].add(event.item)
            elif table == "next":
                relevant[step.case.id] = frozenset([step.case.target])
            else:
                rows = step_of[int(step.case.id.partition(":")[2])]
                relevant[step.case.id] = frozenset(e.item for e in rows if repeats or e.item not in own[step.case.user])
        users: dict[str, int] = {}
        for event in events:
            users.setdefault(event.user, len(users))
        return cls(
            table,
            steps,
            tuple(events),
            np.array([-np.inf if since is None else since for since in dataset.available_from]),
            users,
            {event.row: number for number, step in enumerate(cut) for event in step},
            relevant,
            max(1, int(len(whole) * every)),
            repeats,
        )


@dataclass
class Ran:
    """Lists by case, best first, and what they took: CPU seconds of all fits, and of all lists."""

    lists: dict[str, Ints] = field(default_factory=dict)
    fits: int = 0
    fit_s: float = 0.0
    list_s: float = 0.0

    @property
    def ms_per_list(self) -> float:
        """CPU time, in batches."""
        return 1000 * self.list_s / len(self.lists) if self.lists else 0.0


@dataclass(frozen=True, slots=True)
class _Pending:
    case: Case
    history: Sequence[Past]
    open_: NDArray[np.bool_]


def run(baseline: Baseline, course: Course, watch: Watch = silent) -> Ran:
    """Go through a course: fit, list, learn."""
    size, total = len(course.available), len(course.events)
    users, items, codes = (np.zeros(total, np.int64) for _ in range(3))
    times = np.zeros(total)
    histories: defaultdict[str, list[Past]] = defaultdict(list)
    own: defaultdict[str, set[int]] = defaultdict(set)
    used = np.zeros(size, bool)
    popular = np.zeros(size, np.float32)
    ran, pending, learned, fitted = Ran(), list[_Pending](), 0, -1
    for step in course.steps:
        if isinstance(step, Learn):
            for event in step.events:
                past = Past(event.item, course.sessions[event.row], event.time)
                users[learned], items[learned], codes[learned] = course.users[event.user], past.item, past.session
                times[learned] = past.time
                histories[event.user].append(past)
                own[event.user].add(event.item)
                used[event.item] = True
                learned += 1
            continue
        if learned // course.refit != fitted:
            _flush(baseline, pending, popular, ran)
            fitted = learned // course.refit
            log = Log(users[:learned], items[:learned], codes[:learned], times[:learned], size)
            began = time.process_time()
            baseline.fit(log)
            ran.fit_s += time.process_time() - began
            ran.fits += 1
            counts = log.counts()
            popular = (np.log1p(counts) / max(1.0, float(np.log1p(counts.max())))).astype(np.float32)
            watch(learned, total)
        case = step.case
        open_ = open_items(course.available, used, case.time)
        if not course.repeats:
            open_[list(own[case.user])] = False
        pending.append(_Pending(case, histories[case.user][-DEPTH:], open_))
        if len(pending) == BATCH:
            _flush(baseline, pending, popular, ran)
            watch(learned, total)
    _flush(baseline, pending, popular, ran)
    watch(total, total)
    return ran


def _flush(baseline: Baseline, pending: list[_Pending], popular: Floats, ran: Ran) -> None:
    """Make the lists that were asked for since the last fit."""
    if not pending:
        return
    began = time.process_time()
    scores = baseline.scores(Asked.of([one.history for one in pending], [one.case.time for one in pending]))
    for one, items in zip(pending, best(scores, np.array([one.open_ for one in pending]), popular), strict=True):
        ran.lists[one.case.id] = items
    ran.list_s += time.process_time() - began
    pending.clear()


def best(scores: Floats, open_: NDArray[np.bool_], popular: Floats, count: int = LISTED) -> Iterator[Ints]:
    """The `count` highest of each row of `scores` (B, I) that are `open_` (B, I) and known, best first; `popular` (I,) orders equal ones.

    >>> scores = np.array([[0.0, 5.0, 0.0, -np.inf, 1.0]], np.float32)
    >>> open_ = np.array([[True, False, True, True, True]])
    >>> [row.tolist() for row in best(scores, open_, np.array([0.1, 0, 0.7, 0, 0], np.float32))]
    [[4, 2, 0]]
    """
    known = open_ & np.isfinite(scores)
    largest = np.max(np.abs(scores), axis=1, initial=0.0, where=known, keepdims=True)
    ordered = np.where(known, scores + TIE * np.maximum(largest, np.float32(TIE)) * popular, -np.inf)
    count = min(count, ordered.shape[1])
    top = np.argpartition(-ordered, count - 1, axis=1)[:, :count]
    values = np.take_along_axis(ordered, top, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    for row, number in zip(np.take_along_axis(top, order, 1), known.sum(1).tolist(), strict=True):
        yield row[:number].astype(np.int64)


def quality(course: Course, ran: Ran) -> float:
    """NDCG@10 for tuning: the mean over what each list would be right with, which in table `session` has less noise than one item drawn."""
    found = []
    for case in course.cases:
        place = {item: rank for rank, item in enumerate(ran.lists[case.id].tolist())}
        relevant = course.relevant[case.id]
        found.append(sum(gain(place.get(item)) for item in relevant) / len(relevant))
    return float(np.mean(found)) if found else 0.0
