"""Test-then-train over a data set through the functions that serve live: a list before each target is revealed, then learning.

It decides no order (`engine.protocol`) and computes no figures (`engine.figures`). Nothing looks ahead: everything here depends on the rows
so far only, also sampling and the times at which neighbours are published, so the lists of a stream cut short are those of the whole one.
In the table `session` what others learn of a session waits until half an hour after its last row: before that nobody can know it has ended.
With `Delays` what others learn waits that much longer, as it does between live workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np

from engine.dataset import Dataset, Row, value_of
from engine.features import Taste, taste_of
from engine.figures import Figures, coverage, summary
from engine.item import ItemState, apply_deltas
from engine.learning import FIRST, Delay, Delays, learns_from
from engine.model import Ask as Wish
from engine.model import Model, Ranking
from engine.neighbours import Neighbours
from engine.objective import Objective
from engine.pairs import Decay, Delta, packed, rank_weights, written
from engine.partition import hash64, item_key
from engine.protocol import GAP_S, WANTED, Ask, Case, Table, operations, stream
from engine.ranker import Example
from engine.records import Event
from engine.space import Floats
from engine.stats import counts_of
from engine.user import Change, Limits, Position, UserState

LISTED = 100
"""Length of a list that is written down."""
SESSION_EXAMPLES = 4
"""Most items of one session that the ranker learns from: they share their features, so more of them say little new."""
CHANNELS: Mapping[str, str] = {"text": "text", "popularity": "popular", "trending": "trending", "together": "together", "new": "new"}
"""Channel -> the feature that alone orders its list."""
RANDOM = "random"
LATEST_MS = 1 << 53
CHANCE_DIGITS = 7  # of a probability that is written down
Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    del done, total


@dataclass(frozen=True, slots=True)
class Answer:
    """What was listed for a case before its target was revealed; `ranks`: channel -> rank of the target, None where it was not open;
    `unused`: nobody had used the target. `scores`: per item the probability that the user takes it next, as far as the ranker gives one;
    empty where it gives none.
    """

    case: Case
    items: tuple[str, ...]
    ranks: Mapping[str, int | None]
    unused: bool
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _Session:
    """A session that was learned by its user and waits to be learned by the others. `targets`: rows the ranker may learn from, with their
    numbers in the stream.
    """

    ends: float  # s
    taste: Taste
    targets: tuple[tuple[int, Row], ...]
    changes: tuple[tuple[Row, Change], ...]


class _Lesson(NamedTuple):
    """What an event or a session teaches all, until they know it: `events` had come by then, at `time` (s)."""

    events: int
    time: float
    examples: Sequence[Example]
    changes: Sequence[tuple[Row, Change]]


@dataclass
class Evaluation:
    """State of one run over one table: users' and items' rows, and the model that all workers would share.

    `vectors` (I, D) float32: centred unit rows, zeros for an item without one.
    """

    dataset: Dataset
    vectors: Floats
    limits: Limits = field(default_factory=Limits)
    decay: Decay = field(default_factory=Decay)
    repeats: bool = False
    """Items that a user had before are candidates, cases and examples too."""
    delays: Delays = field(default_factory=Delays)
    """How late lists know what others learned."""
    first: int = FIRST
    """Events that all become examples, see `learns_from`."""
    as_live: bool = False
    """A list's now is the time of the newest event, as in a worker (`ListMaker.stream_time`), not that of the case."""
    objective: Objective = field(default_factory=Objective)
    calibrated: bool = True
    """Answers have calibrated probabilities; else shares of the softmax as they are."""

    def __post_init__(self) -> None:
        self.model = Model(self.vectors.shape[1], self.decay)
        self.keys = [item_key(item.item_id) for item in self.dataset.items]
        for item in self.dataset.items:
            self.model.catalogue.put(item)
        with_vector = np.flatnonzero(self.vectors.any(1)).tolist()
        self.model.catalogue.space.put_many(
            self.model.catalogue.places_of(np.array(self.keys, np.uint64))[with_vector], self.vectors[with_vector]
        )
        self.users: dict[str, UserState] = {}
        self.rows = [ItemState() for _ in self.keys]
        self.counted = 0
        self.steps = rank_weights(self.decay, self.limits.pair_window)
        self.waiting: deque[_Session] = deque()
        self.unlearned: deque[_Lesson] = deque()
        self.uncounted: deque[_Lesson] = deque()
        self.used: set[int] = set()
        self.events = 0
        self.newest = 0.0  # s
        self.learned = 0

    def answers(self, table: Table, wanted: int = WANTED, progress: Progress = _silent, start: float | None = None) -> Iterator[Answer]:
        """Run the protocol over the stream; gives each list as it is made. `start`: time (s) of the first case, if not the protocol's."""
        rows = stream(self.dataset)
        for step in operations(rows, table, wanted, start, repeats=self.repeats):
            if isinstance(step, Ask):
                self._learn_until(step.case.time)
                yield self.answer(step.case)
                continue
            if table == "next":
                self.learn(step.events[0])
            else:
                self._learn_until(step.events[-1].time)
                self._hold(step.events)
            self.used.update(row.item for row in step.events)
            progress(self.events, len(rows))

    def answer(self, case: Case) -> Answer:
        """List for a case, and each channel's rank of its target; changes nothing."""
        taste = self._taste(self.users.get(case.user), self.newest if self.as_live else case.time)
        with self.peek(taste):
            ranking = self.model.rank([Wish(taste, k=LISTED, reasons=False)])[0]
            features = self.model.features(taste)
            scores = self._probabilities(taste, ranking)
        open_ = self.model.open_for(taste)
        draw = np.random.default_rng(hash64(case.id)).random(len(open_))
        ranks: dict[str, int | None] = {}
        for name in (*CHANNELS, RANDOM):
            score = draw if name == RANDOM else features.named(CHANNELS[name])
            ranks[name] = _rank(score, open_, case.target, draw)
        return Answer(case, tuple(one.item_id for one in ranking.items), ranks, case.target not in self.used, scores)

    def _probabilities(self, taste: Taste, ranking: Ranking) -> tuple[float, ...]:
        """Per listed item how probable it is that the user takes it next."""
        listed = [self.dataset.index[one.item_id] for one in ranking.items]
        items, logs = self.model.shares(taste, listed)
        found = self.model.ranker.calibration.probabilities(logs) if self.calibrated else np.exp(logs)
        of = dict(zip(items.tolist(), found.tolist(), strict=True))
        return tuple(round(of[at], CHANCE_DIGITS) for at in listed)

    def learn(self, row: Row) -> None:
        """Learn one event as a worker does: first the ranker with everything as it was before, then the user's row, then the items'."""
        self._learn_until(row.time)
        self.events += 1
        state = self.users.get(row.user)
        examples: Sequence[Example] = ()
        if state is not None and state.events and self._is_target(row, state.seen) and self._chosen(self.events):
            examples = self._examples(self._taste(state, row.time), [(self.events, row)])
        self._teach(_Lesson(self.events, row.time, examples, [(row, self._apply(row, self.events))]), row.time)

    def _hold(self, session: Sequence[Row]) -> None:
        """Learn a session into its user's row, and keep the rest for later."""
        state = self.users.get(session[0].user)
        taste = self._taste(state, session[0].time)
        known = set() if state is None else set(state.seen)
        fresh: dict[int, tuple[int, Row]] = {}
        changes = []
        for row in session:
            self.events += 1
            if state is not None and self._is_target(row, known) and self._chosen(self.events):
                fresh.setdefault(row.item, (self.events, row))
            changes.append((row, self._apply(row, self.events)))
        targets = sorted(fresh.values(), key=lambda one: (one[1].tie, one[0]))[:SESSION_EXAMPLES]
        self.waiting.append(_Session(session[-1].time, taste, tuple(targets), tuple(changes)))

    def _learn_until(self, time: float) -> None:
        """Learn the sessions that surely ended before `time` (s), and whatever was to wait until then."""
        self._tell(time)
        while self.waiting and self.waiting[0].ends + GAP_S <= time:
            session = self.waiting.popleft()
            examples = self._examples(session.taste, session.targets) if session.targets else ()
            self._teach(_Lesson(self.events, session.ends + GAP_S, examples, session.changes), time)

    def _teach(self, lesson: _Lesson, time: float) -> None:
        """Let everybody know of a lesson, once it has waited long enough."""
        self.unlearned.append(lesson)
        self.uncounted.append(lesson)
        self._tell(time)

    def _tell(self, time: float) -> None:
        """Let everybody know what has waited long enough by `time` (s)."""
        for lesson in self._due(self.unlearned, self.delays.weights, time):
            for example in lesson.examples:
                self.model.ranker.learn(example)
                self.learned += 1
        for lesson in self._due(self.uncounted, self.delays.counts, time):
            for row, change in lesson.changes:
                self._count(row, change)

    def _due(self, waiting: deque[_Lesson], delay: Delay, time: float) -> Iterator[_Lesson]:
        while waiting and delay.over(self.events - waiting[0].events, time - waiting[0].time):
            yield waiting.popleft()

    def _taste(self, state: UserState | None, time: float) -> Taste:
        taste = taste_of(state, round(time * 1000))
        return replace(taste, seen=()) if self.repeats else taste

    def _is_target(self, row: Row, seen: Container[int]) -> bool:
        """Whether the ranker may learn that the user took this: with `repeats` anything, else what is new to the user."""
        return self.objective.weight(row.type, value_of(row)) > 0 and (self.repeats or self.keys[row.item] not in seen)

    def _chosen(self, number: int) -> bool:
        return learns_from(hash64(str(number)), number, self.first)

    def _examples(self, taste: Taste, targets: Sequence[tuple[int, Row]]) -> Sequence[Example]:
        self._publish(taste)
        positions = [Position("events", 1, 0, number) for number, _ in targets]
        weights = {number: self.objective.weight(row.type, value_of(row)) for number, row in targets}
        made = self.model.examples(taste, [self.keys[row.item] for _, row in targets], positions)
        return [msgspec.structs.replace(example, weight=weights[example.offset]) for example in made]

    def _apply(self, row: Row, number: int) -> Change:
        """The user's own row."""
        self.newest = max(self.newest, row.time)
        state = self.users.get(row.user)
        if state is None:
            state = self.users[row.user] = UserState()
        event = Event(
            event_id=str(number),
            type=row.type,
            user_id=row.user,
            timestamp=round(row.time * 1000),
            item_id=row.item_id,
            session_id=row.session or None,
            value=row.rating,
        )
        return state.apply(event, Position("events", 1, 0, number), self.limits, LATEST_MS)

    def _count(self, row: Row, change: Change) -> None:
        """The items' rows, and the counts that all workers read."""
        if change.weight <= 0:
            return
        key, others = self.keys[row.item], tuple(item_key(other.item_id) for other in change.others)
        delta = Delta(self.counted, round(row.time * 1000), key, others, change.together)
        self.counted += 1
        apply_deltas(written("events", 1, 0, packed([delta])), self._row_of, self.steps, self.decay, owner=0, owners=1)
        self.model.stats.put(counts_of(key, self.rows[row.item]))

    def _row_of(self, key: int) -> ItemState:
        return self.rows[self.model.catalogue.index[key]]

    def _stale(self, taste: Taste) -> Iterator[tuple[int, ItemState]]:
        for at in self.model.catalogue.known(taste.recent).tolist():
            if self.rows[at].worth_publishing():
                yield at, self.rows[at]

    def _publish(self, taste: Taste) -> None:
        """Publish the neighbours that an example is about to read, where a worker would have done so by now."""
        for at, row in self._stale(taste):
            self.model.stats.neighbours.put(at, self.model.stats.choose(row.pairs, row.last_time))
            row.published_mass = row.pairs.mass

    @contextmanager
    def peek(self, taste: Taste) -> Iterator[None]:
        """The same for a list, and back afterwards: which lists are asked for must not change what is learned."""
        stats = self.model.stats
        before: dict[int, Neighbours] = {}
        for at, row in self._stale(taste):
            before[at] = stats.neighbours.of(at)
            stats.neighbours.put(at, stats.choose(row.pairs, row.last_time))
        yield
        for at, found in before.items():
            stats.neighbours.put(at, found)


def _rank(score: Any, open_: Any, target: int, draw: Any) -> int | None:
    """Rank of `target` among what is open, from 0, equal scores by chance."""
    if not open_[target]:
        return None
    own = score[target]
    before = (score > own) | ((score == own) & (draw > draw[target]))
    return int((before & open_).sum())


@dataclass(frozen=True, slots=True)
class TableFigures:
    """Figures of one table, as `protocol.py score` prints them for the list; channels have no lists of their own, so no coverage."""

    list: Figures
    channels: Mapping[str, Figures]
    random: Figures


def figures_of(dataset: Dataset, answers: Sequence[Answer]) -> TableFigures:
    """Sum up the answers of one table."""
    cases = [a.case for a in answers]
    unused = {a.case.id for a in answers if a.unused}
    names = [dataset.items[a.case.target].item_id for a in answers]
    listed = {a.case.id: a.items.index(name) if name in a.items else None for a, name in zip(answers, names, strict=True)}
    shown = coverage((a.items for a in answers), len(dataset.items))
    channels = {name: summary(cases, {a.case.id: a.ranks[name] for a in answers}, unused) for name in (*CHANNELS, RANDOM)}
    by_chance = channels.pop(RANDOM)
    return TableFigures({**summary(cases, listed, unused), "missing": 0, "coverage": shown}, channels, by_chance)
