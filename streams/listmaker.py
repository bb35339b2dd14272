"""Makes lists for the users that have waited longest, many at a time, off the event loop. It decides nothing about ranking.

A batch of source records is acknowledged when all it led to is published: each job counts down the batches that wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import Any

from engine.features import Taste, taste_of
from engine.lists import RECOMMENDATION, RESPONSE, Trigger, encode_list
from engine.model import Ask, Model
from engine.partition import item_key
from engine.ranker import Example
from engine.records import Request
from engine.user import Position, UserState, user_key
from streams.batch import Batch
from streams.engine_thread import EngineThread
from streams.metrics import Metrics
from streams.outbox import Outbox
from streams.table import CheckpointTable, NotOwnedError

HIGH_WATER = 4_000
"""Users waiting for a list from which on no further batch is applied: the rest waits in Kafka, where it is durable."""


@dataclass(slots=True)
class Owed:
    """A batch that is acknowledged once nothing is owed for it any more."""

    batch: Batch
    jobs: int = 1  # one for the handler itself, which is at work on it

    def paid(self) -> None:
        """One job less."""
        self.jobs -= 1
        if not self.jobs:
            self.batch.done()


@dataclass(slots=True)
class Standing:
    """A user whose standing lists are to be made. `read_at`: record time of the oldest event waiting, seconds."""

    partition: int
    user_id: str
    trigger: Trigger
    surfaces: tuple[str, ...]
    read_at: float
    owed: list[Owed] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """A request to be answered; `stale`: the event it wanted to be included did not come in time."""

    partition: int
    request: Request
    trigger: Trigger
    owed: Owed
    stale: bool = False
    query: Any = None


@dataclass(slots=True)
class Lesson:
    """An example to be made: this taste, and the item taken."""

    taste: Taste
    item: int
    position: Position
    owed: Owed


@dataclass(frozen=True, slots=True)
class Targets:
    """Topic names, and what lists are like: `k` items, valid for `ttl_ms`."""

    recommendations: str
    responses: str
    examples: str
    k: int
    ttl_ms: int
    lists: bool = True  # False: state only, for benchmarks and backfills


class ListMaker:
    """The queue of what is to be made, and the loop that makes it."""

    def __init__(
        self,
        users: CheckpointTable[UserState],
        model: Model,
        engine: EngineThread,
        outbox: Outbox,
        metrics: Metrics,
        targets: Targets,
        *,
        size: int,
        encode_example: Callable[[Example], bytes],
    ) -> None:
        self._users, self._model, self._engine, self._outbox = users, model, engine, outbox
        self._metrics, self._targets, self._size, self._encode_example = metrics, targets, size, encode_example
        self._standing: dict[tuple[int, str], Standing] = {}
        self._answers: deque[Answer] = deque()
        self._lessons: deque[Lesson] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.now = 0
        """Stream time, ms: the largest accepted event time."""

    def want(self, job: Standing, owed: Owed | None) -> None:
        """Ask for a user's standing lists; a user who waits already keeps the place and gets the newer trigger."""
        known = self._standing.get((job.partition, job.user_id))
        if known is None:
            self._standing[(job.partition, job.user_id)] = known = job
        else:
            known.trigger = job.trigger
            known.surfaces = tuple(dict.fromkeys(known.surfaces + job.surfaces))
        if owed is not None and (not known.owed or known.owed[-1] is not owed):
            owed.jobs += 1
            known.owed.append(owed)
        self._notify()

    def answer(self, job: Answer) -> None:
        """Ask for the answer to a request; it goes before standing lists."""
        job.owed.jobs += 1
        self._answers.append(job)
        self._notify()

    def learn(self, job: Lesson) -> None:
        """Ask for an example."""
        job.owed.jobs += 1
        self._lessons.append(job)
        self._notify()

    async def room(self) -> None:
        """Return when few enough users wait."""
        await self._room.wait()

    async def run(self) -> None:
        """Make lists until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._answers or self._standing or self._lessons:
                await self._turn()
                self._metrics.pending.set(len(self._standing))
                if len(self._standing) < HIGH_WATER:
                    self._room.set()

    def _notify(self) -> None:
        self._wake.set()
        waiting = len(self._standing)
        self._metrics.pending.set(waiting)
        if waiting >= HIGH_WATER:
            self._room.clear()

    async def _turn(self) -> None:
        """One batch of each kind."""
        answers = [self._answers.popleft() for _ in range(min(len(self._answers), self._size))]
        standing = [self._standing.pop(key) for key in _first(self._standing, max(1, self._size - len(answers)))]
        lessons = [self._lessons.popleft() for _ in range(min(len(self._lessons), 8))]
        now = round(time() * 1000)
        work: list[tuple[Standing | Answer, Ask, Callable[[Any], bytes], bytes, int]] = []
        for waiting in standing:
            row = self._row(waiting.partition, waiting.user_id)
            if row is not None:
                work += [self._standing_work(waiting, row, surface, now) for surface in waiting.surfaces]
        work += [self._answer_work(request, now) for request in answers]
        began = perf_counter()
        made, examples = await self._engine.call(self._make, [(ask, encode) for _, ask, encode, _, _ in work], lessons)
        self._metrics.scoring.observe(perf_counter() - began)
        self._metrics.batch_users.observe(len(work))
        for (job, _, _, key, partition), value in zip(work, made, strict=True):
            if isinstance(job, Answer):
                self._outbox.publish(self._targets.responses, key, value, partition, [("schema", RESPONSE)])
            else:
                self._outbox.publish(self._targets.recommendations, key, value, partition, [("schema", RECOMMENDATION)])
        for raw in examples:
            self._outbox.publish(self._targets.examples, b"ranker", raw, 0)
        self._finish(standing, answers, lessons, len(examples))

    def _make(self, work: list[tuple[Ask, Callable[[Any], bytes]]], lessons: list[Lesson]) -> tuple[list[bytes], list[bytes]]:
        """In the engine's thread: examples first, since their lists were made before; then rank and encode."""
        found = [self._model.example(job.taste, job.item, job.position) for job in lessons]
        rankings = self._model.rank([ask for ask, _ in work])
        return [encode(ranking) for (_, encode), ranking in zip(work, rankings, strict=True)], [
            self._encode_example(e) for e in found if e is not None
        ]

    def _finish(self, standing: list[Standing], answers: list[Answer], lessons: list[Lesson], examples: int) -> None:
        wall = time()
        for job in standing:
            self._metrics.freshness.observe(max(0.0, wall - job.read_at))
            self._metrics.lists.labels("standing").inc(len(job.surfaces))
            for owed in job.owed:
                owed.paid()
        for one in answers:
            self._metrics.lists.labels("response").inc()
            one.owed.paid()
        for lesson in lessons:
            lesson.owed.paid()
        self._metrics.examples.inc(examples)

    def _row(self, partition: int, user_id: str) -> UserState | None:
        try:
            return self._users.rows(partition).get(user_key(user_id.encode()))
        except NotOwnedError:
            return None  # revoked: whoever owns it now reads the records again

    def _standing_work(self, job: Standing, row: UserState, surface: str, now: int) -> tuple[Any, Ask, Callable[[Any], bytes], bytes, int]:
        ask = Ask(taste_of(row, max(self.now, row.last_time)), self._targets.k, surface, _attributes(row))
        applied = _applied(row)

        def encode(ranking: Any) -> bytes:
            return encode_list(
                ranking,
                user_id=job.user_id,
                surface=surface,
                trigger=job.trigger,
                applied=applied,
                generated_at=now,
                valid_until=now + self._targets.ttl_ms,
            )

        return job, ask, encode, f"{surface}:{job.user_id}".encode(), job.partition

    def _answer_work(self, job: Answer, now: int) -> tuple[Any, Ask, Callable[[Any], bytes], bytes, int]:
        request = job.request
        row = self._row(job.partition, request.user_id)
        at = max(self.now, row.last_time if row else 0)
        taste = taste_of(row, at)
        if request.seed_item_id is not None:
            seed = item_key(request.seed_item_id)
            taste = Taste((seed,), (request.seed_item_id,), (*taste.seen, seed), at, taste.last_time, taste.events)
        attributes = _attributes(row) if row else ()
        ask = Ask(taste, request.k, request.surface, attributes, request.candidates, request.exclude, request.filters or None, job.query)
        extra: dict[str, Any] = {"request_id": request.request_id}
        if job.stale:
            extra["stale"] = True

        def encode(ranking: Any) -> bytes:
            return encode_list(
                ranking,
                user_id=request.user_id,
                surface=request.surface,
                trigger=job.trigger,
                applied=_applied(row) if row else {},
                generated_at=now,
                valid_until=now + self._targets.ttl_ms,
                extra=extra,
            )

        return job, ask, encode, request.user_id.encode(), job.partition


def _attributes(row: UserState) -> tuple[tuple[str, object], ...]:
    return tuple(row.attributes.items())


def _applied(row: UserState) -> dict[str, tuple[int, int]]:
    """Per source topic the last record that the row covers, as (partition, offset)."""
    found: dict[str, tuple[int, int]] = {}
    for name, (_, offset) in row.applied.items():
        source, _, partition = name.rpartition("/")
        if source not in found or source != "events":
            found[source] = (int(partition), offset)
    return found


def _first(keys: Iterable[tuple[int, str]], count: int) -> list[tuple[int, str]]:
    return [key for _, key in zip(range(count), keys, strict=False)]
