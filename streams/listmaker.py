"""Makes lists for the users that have waited longest, many at a time, off the event loop. It decides nothing about ranking.

A batch of source records is acknowledged when all it led to is published: each job counts down the batches that wait for it. What can't
be made (a request that the model does not bear) is left out with an error in the log; it never stops the others.

What stands in a list is noted beside its user's row in the turn in which it is published. Lists that must be made again although nothing
came of their user (`Again`, see `streams.republisher`) have their turn while nobody else waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp
from time import perf_counter, time
from typing import Any, NamedTuple, TypeVar

import msgspec

from engine.features import Taste, taste_of
from engine.listed import Listed, encode_listed, name_of
from engine.lists import RECOMMENDATION, RESPONSE, encode_list
from engine.model import Ask, Model, Ranked, Ranking
from engine.partition import item_key
from engine.ranker import Example
from engine.rules import RuleSet, rule_time
from engine.user import Position, UserState, user_key
from streams.engine_thread import EngineThread
from streams.jobs import RENEWAL, Again, Answer, Lesson, Owed, Standing
from streams.logs import logger
from streams.metrics import Metrics
from streams.outbox import Outbox
from streams.table import CheckpointTable, NotOwnedError, Rows

HIGH_WATER = 4_000
"""Users waiting for a list from which on no further batch is applied: the rest waits in Kafka, where it is durable."""
AT_ONCE = 16_384
"""Users x items from which on lists are worked out beside the event loop: 0.25 ms of work."""
LESSONS, LESSONS_S = 8, 0.2
"""Examples made at once, at most, and how long the first one waits for others, unless what comes of its event waits for it (`taught`).
Those that wait are lost with a crash: a row that knows its event makes no second one. They are a sample, so nothing counted is lost."""
MOST_LESSONS = 64
"""Examples waiting to be made from which on no further batch is applied: their features are to be as they were when their events came."""
FEW_AGAIN, MOST_AGAIN = 1, 8
"""Lists made again in one turn, and those that are late: some 1 ms, and 5 ms, which is how long an event may wait for them."""
AGAIN_AT_ONCE = 65_536
"""Users x items of such a turn at most: with a catalogue of more than 8,000 items there are fewer lists in it."""
LOAD_S = 2.0
"""Over how long it is looked how busy the maker is."""
DEADLINE_S, LATE_S = 60.0, 20.0
"""When lists that are made again are to be out, and from which age on they go along with others, a quarter of a turn at most."""
PAUSE_S = 0.001
"""Between two such turns at least."""
HEADERS_BYTES = 1_024
"""Room in a record for the key and the headers beside the list."""

K = TypeVar("K")
log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Targets:
    """Topic names, and what lists are like: `k` items, valid for `ttl_ms`, `max_bytes` large at most."""

    recommendations: str
    responses: str
    examples: str
    k: int
    ttl_ms: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Work:
    """One list under way: for whom, what to ask the model, how to write it, the record's key; a standing list's surface and end (ms)."""

    job: Standing | Answer | Again
    ask: Ask
    encode: Callable[[Ranking], bytes]
    key: bytes
    surface: str = ""
    valid_until: int = 0


class Made(NamedTuple):
    """A list as bytes, and the items in it."""

    value: bytes
    items: tuple[Ranked, ...]


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
        latest: Callable[[], int] = lambda: 0,
        known: Callable[[], int] = lambda: 0,
        lessons_s: float = LESSONS_S,
        clock: Callable[[], float] = time,
    ) -> None:
        self._lessons_s = lessons_s
        self._users, self._model, self._engine, self._outbox = users, model, engine, outbox
        self._metrics, self._targets, self._size, self._encode_example = metrics, targets, size, encode_example
        self._standing: dict[tuple[int, str], Standing] = {}
        self._answers: deque[Answer] = deque()
        self._lessons: deque[Lesson] = deque()
        self._lessons_due = False
        self._lessons_asked = self._lessons_made = 0
        self._spent, self._spent_at = 0.0, perf_counter()
        self._latest, self._known, self._clock = latest, known, clock
        self._again: dict[tuple[int, str, str], Again] = {}
        self._forgotten: set[tuple[int, str]] = set()  # since the lists under way were begun
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.now = 0
        """The largest event time that this worker has accepted, ms."""

    def stream_time(self) -> int:
        """Now, ms: the largest accepted event time, here or (`latest`) by any worker; the clock's time before the first event."""
        return max(self.now, self._latest()) or round(self._clock() * 1000)

    def keep_time(self, rules: RuleSet) -> None:
        """Let a rule start and end on time where no event comes that would say how late it is (`rule_time`)."""
        newest = max(self.now, self._latest())
        if newest:
            self.now = max(self.now, rule_time(newest, round(self._clock() * 1000), rules))

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

    def forget(self, partition: int, user_id: str, surfaces: Iterable[str]) -> None:
        """Take a user's standing lists back: those waiting are not made, those under way not published, and tombstones end the others."""
        job = self._standing.pop((partition, user_id), None)
        for owed in job.owed if job is not None else ():
            owed.paid()
        self._forgotten.add((partition, user_id))
        rows = self._users.rows(partition)
        for surface in surfaces:
            rows.set_note(name_of(surface, user_id), None)
            self._again.pop((partition, user_id, surface), None)
            self._outbox.publish(self._targets.recommendations, f"{surface}:{user_id}".encode(), None, partition)

    def again(self, job: Again) -> None:
        """Ask for a standing list to be made again, when nobody else waits for one."""
        if not self._again:
            self._wake.set()
        self._again[(job.partition, job.user_id, job.surface)] = job

    def answer(self, job: Answer) -> None:
        """Ask for the answer to a request; it goes before standing lists."""
        job.owed.jobs += 1
        self._answers.append(job)
        self._notify()

    def learn(self, job: Lesson) -> None:
        """Ask for an example; it may wait for others a little, since each record has its price."""
        job.owed.jobs += 1
        self._lessons_asked += 1
        self._lessons.append(job)
        if len(self._lessons) >= MOST_LESSONS:
            self._room.clear()
        if len(self._lessons) == 1:
            self._lessons_due = False
            asyncio.get_running_loop().call_later(self._lessons_s, self._time_for_lessons)
        elif len(self._lessons) == LESSONS:
            self._time_for_lessons()

    async def taught(self) -> None:
        """Return when the examples asked for so far are made; they wait for no others now."""
        wanted = self._lessons_asked
        if self._lessons:
            self._time_for_lessons()
        while self._lessons_made < wanted:  # noqa: ASYNC110 - a turn or two
            await asyncio.sleep(0.001)

    def _time_for_lessons(self) -> None:
        self._lessons_due = True
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Users whose lists wait to be made."""
        return len(self._standing)

    @property
    def waiting_again(self) -> int:
        """Lists that wait to be made again."""
        return len(self._again)

    def busy(self) -> bool:
        """Whether standing lists wait to be made."""
        return bool(self._standing)

    def load(self) -> float:
        """Share of the time, lately, in which lists were made that somebody waited for."""
        return self._spent * exp((self._spent_at - perf_counter()) / LOAD_S)

    def _worked(self, began: float) -> None:
        now = perf_counter()
        self._spent = self._spent * exp((self._spent_at - now) / LOAD_S) + (now - began) / LOAD_S
        self._spent_at = now

    async def room(self) -> None:
        """Return when few enough users and examples wait."""
        await self._room.wait()

    async def run(self) -> None:
        """Make lists until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (pressing := self._pressing()) or self._again:
                began = perf_counter()
                await self._turn()
                if pressing:
                    self._worked(began)
                if len(self._standing) < HIGH_WATER and len(self._lessons) < MOST_LESSONS:
                    self._room.set()
                if not pressing and not self._pressing():
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), max(PAUSE_S, (perf_counter() - began) * pause_of(self._again_age())))

    def _pressing(self) -> bool:
        """Whether somebody waits for what is to be made."""
        return bool(self._answers or self._standing or (self._lessons and self._lessons_due))

    def _notify(self) -> None:
        self._wake.set()
        if len(self._standing) >= HIGH_WATER:
            self._room.clear()

    async def _turn(self) -> None:
        """One batch of each kind."""
        answers = [self._answers.popleft() for _ in range(min(len(self._answers), self._size))]
        standing = [self._standing.pop(key) for key in _first(self._standing, max(1, self._size - len(answers)))]
        lessons = [self._lessons.popleft() for _ in range(min(len(self._lessons), LESSONS) if self._lessons_due else 0)]
        self._forgotten.clear()
        now = round(self._clock() * 1000)
        work: list[Work] = []
        parts = {}
        jobs: list[Standing | Again] = [*standing, *self._taken_again(len(standing) + len(answers))]
        for waiting in jobs:
            row = self._row(waiting.partition, waiting.user_id)
            if row is None:
                continue
            parts[waiting.partition] = self._users.rows(waiting.partition)
            if isinstance(waiting, Standing):
                work += [self._standing_work(waiting, row, surface, now, now + self._targets.ttl_ms) for surface in waiting.surfaces]
            elif self._stands(waiting, parts[waiting.partition]):
                work.append(self._standing_work(waiting, row, waiting.surface, now, waiting.valid_until))
        work += [self._answer_work(request, now) for request in answers]
        began = perf_counter()
        made, examples = await self._make(work, lessons)
        self._lessons_made += len(lessons)
        self._metrics.scoring.observe(perf_counter() - began)
        self._metrics.batch_users.observe(len(work))
        again: dict[int, Answer] = {}
        lists: dict[int, list[tuple[bytes | None, bytes | None]]] = defaultdict(list)
        known = self._known()
        for one, found in zip(work, made, strict=True):
            job = one.job
            if isinstance(job, Answer):
                if found is None:
                    again[id(job)] = job
                else:
                    self._outbox.publish(self._targets.responses, one.key, found.value, job.partition, [("schema", RESPONSE)])
                    self._metrics.lists.labels("response").inc()
            elif found is not None and self._still(job, parts[job.partition]):
                items = tuple([item_key(item.item_id) for item in found.items])
                if not self._taken_meanwhile(one).isdisjoint(items):
                    continue  # only where lists were made one by one: the event that took it has another one made
                lists[job.partition].append((one.key, found.value))
                listed = encode_listed(Listed(one.valid_until, known, items))
                parts[job.partition].set_note(name_of(one.surface, job.user_id), listed)
                if isinstance(job, Again):
                    self._republished(job)
        for partition, records in lists.items():
            self._outbox.publish_many(self._targets.recommendations, records, partition, [("schema", RECOMMENDATION)])
            self._metrics.lists.labels("standing").inc(len(records))
        for raw in examples:
            self._outbox.publish(self._targets.examples, b"ranker", raw, 0)
        self._finish(standing, [job for job in answers if id(job) not in again], lessons, len(examples))
        for job in again.values():
            job.again(job)  # owes for itself
            job.owed.paid()

    def _taken_again(self, others: int) -> list[Again]:
        """Lists to be made again in a turn with so many others: none beside others, unless they are late."""
        if not self._again:
            return []
        late = self._again_age() > LATE_S
        if not late and (others or self._answers or self._standing):
            return []
        most = min(MOST_AGAIN if late else FEW_AGAIN, AGAIN_AT_ONCE // max(1, len(self._model.catalogue)))
        if others:
            most = min(most, self._size // 4)
        return [self._again.pop(key) for key in _first(self._again, max(1, most))]

    def _again_age(self) -> float:
        """Seconds since what the list waits for that is to be made again first."""
        return self._clock() - next(iter(self._again.values())).since if self._again else 0.0

    def _stands(self, job: Again, rows: Rows[UserState]) -> bool:
        """Whether a list is still the one that was to be made again, and its user does not wait for a newer one."""
        waiting = self._standing.get((job.partition, job.user_id))
        return rows.note(name_of(job.surface, job.user_id)) == job.note and (waiting is None or job.surface not in waiting.surfaces)

    def _republished(self, job: Again) -> None:
        self._metrics.republished.labels(job.reason).inc()
        if job.reason != RENEWAL:
            self._metrics.republish_delay.observe(max(0.0, self._clock() - job.since))

    def _still(self, job: Standing | Again, rows: Rows[UserState]) -> bool:
        """Whether a list just made is to be published: not if the user was erased meanwhile, or is another worker's now."""
        return (job.partition, job.user_id) not in self._forgotten and not rows.closed

    async def _make(self, work: Sequence[Work], lessons: Sequence[Lesson]) -> tuple[list[Made | None], list[bytes]]:
        """Examples first, since their lists were made before; then rank and encode."""
        made: list[Made | None] = [None] * len(work)
        async with self._engine.lock:
            examples = self._examples(lessons) if lessons else []
            now = [at for at, one in enumerate(work) if _of_generation(one.job, self._model.generation)]
            try:
                rankings = await self._rank([work[at].ask for at in now])
                made_now: list[Made | None] = [self._encoded(work[at], ranking) for at, ranking in zip(now, rankings, strict=True)]
            except Exception as error:  # noqa: BLE001 - one of them is more than the model bears: each alone, so that the others are made
                log.warning("lists_one_by_one", lists=len(now), error=repr(error))
                made_now = [await self._alone(work[at]) for at in now]
        for at, value in zip(now, made_now, strict=True):
            made[at] = value
        return made, examples

    async def _rank(self, asks: Sequence[Ask]) -> list[Ranking]:
        """The lists, worked out in the engine's thread; so few that it takes less time than the way there and back are made here."""
        out: list[Ranking] = []
        for draft in self._model.drafts(asks):
            if len(draft.asks) * len(self._model.catalogue) > AT_ONCE:
                await self._engine.call(draft.fill)
            else:
                draft.fill()
            out += self._model.rankings(draft)
        return out

    async def _alone(self, one: Work) -> Made | None:
        """One list; where it can't be made, an empty answer that says so, or none: a standing list stays as it was."""
        try:
            return self._encoded(one, (await self._rank([one.ask]))[0])
        except Exception as error:
            self._metrics.failures.labels("response" if isinstance(one.job, Answer) else "standing").inc()
            log.exception("list_failed", trigger=one.job.trigger.kind, position=str(one.job.trigger.position), error=repr(error))
            if isinstance(one.job, Answer):
                return Made(one.encode(Ranking((), self._model.generation, "this list could not be made: the worker's log says why")), ())
            return None

    def _encoded(self, one: Work, ranking: Ranking) -> Made:
        """The list as bytes; one that is too large for a record goes without its reasons, and if need be cut.

        What the user took while it was made is left out.
        """
        most = self._targets.max_bytes - HEADERS_BYTES
        taken = self._taken_meanwhile(one)
        if taken:
            ranking = replace(ranking, items=tuple(item for item in ranking.items if item_key(item.item_id) not in taken))
        value = one.encode(ranking)
        if len(value) <= most:
            return Made(value, ranking.items)
        items = tuple(Ranked(item.item_id, item.score, ()) for item in ranking.items)
        note = "without reasons: the list would be too large for a record"
        while len(value := one.encode(replace(ranking, items=items, note=note))) > most and items:
            items = items[: min(len(items) - 1, len(items) * most // len(value))]
            note = f"cut to {len(items)} of {len(ranking.items)} items and without reasons: the list would be too large for a record"
        return Made(value, items)

    def _taken_meanwhile(self, one: Work) -> set[int]:
        """What the user has seen by now and had not when the list was begun (hash64); nothing where the candidates were given."""
        if one.ask.candidates is not None:
            return set()
        user_id = one.job.request.user_id if isinstance(one.job, Answer) else one.job.user_id
        row, before = self._row(one.job.partition, user_id), one.ask.taste.seen
        if row is None or (len(row.seen) == len(before) and next(reversed(row.seen), None) == next(reversed(before), None)):
            return set()
        return row.seen.keys() - set(before)

    def _examples(self, lessons: Sequence[Lesson]) -> list[bytes]:
        """The examples of some lessons, made together; where that fails each alone, so that one of them costs no other."""
        try:
            made = self._model.examples_of([(one.taste, [one.item], [one.position]) for one in lessons])
        except Exception as error:
            if len(lessons) > 1:
                return [raw for one in lessons for raw in self._examples([one])]
            self._metrics.failures.labels("example").inc()
            log.exception("example_failed", position=str(lessons[0].position), error=repr(error))
            return []
        weighted = ((one, lesson.weight) for some, lesson in zip(made, lessons, strict=True) for one in some)
        return [self._encode_example(one if weight == 1.0 else msgspec.structs.replace(one, weight=weight)) for one, weight in weighted]

    def _finish(self, standing: list[Standing], answers: list[Answer], lessons: list[Lesson], examples: int) -> None:
        wall = time()
        for job in standing:
            self._metrics.freshness.observe(max(0.0, wall - job.read_at))
            for owed in job.owed:
                owed.paid()
        for one in answers:
            one.owed.paid()
        for lesson in lessons:
            lesson.owed.paid()
        self._metrics.examples.inc(examples)

    def _row(self, partition: int, user_id: str) -> UserState | None:
        try:
            return self._users.rows(partition).get(user_key(user_id.encode()))
        except NotOwnedError:
            return None  # revoked: whoever owns it now reads the records again

    def _standing_work(self, job: Standing | Again, row: UserState, surface: str, now: int, valid_until: int) -> Work:
        ask = Ask(taste_of(row, max(self.stream_time(), row.last_time)), self._targets.k, surface, _attributes(row))
        applied = applied_of(row, job.trigger.position)

        def encode(ranking: Ranking) -> bytes:
            return encode_list(
                ranking,
                user_id=job.user_id,
                surface=surface,
                trigger=job.trigger,
                applied=applied,
                generated_at=now,
                valid_until=valid_until,
            )

        return Work(job, ask, encode, f"{surface}:{job.user_id}".encode(), surface, valid_until)

    def _answer_work(self, job: Answer, now: int) -> Work:
        request = job.request
        row = self._row(job.partition, request.user_id)
        at = max(self.stream_time(), row.last_time if row else 0)
        taste = taste_of(row, at)
        if request.seed_item_id is not None:
            seed = item_key(request.seed_item_id)
            taste = Taste((seed,), (request.seed_item_id,), (*taste.seen, seed), at, taste.last_time, taste.events)
        attributes = _attributes(row) if row else ()
        query, text = None if job.query is None else job.query.vector, request.query or ""
        ask = Ask(
            taste, request.k, request.surface, attributes, request.candidates, request.exclude, request.filters or None, query, text=text
        )
        extra: dict[str, Any] = {"request_id": request.request_id}
        if job.stale:
            extra["stale"] = True
        applied = applied_of(row, job.trigger.position) if row else {}

        def encode(ranking: Ranking) -> bytes:
            ranking = replace(ranking, note="; ".join(filter(None, (ranking.note, job.note))))
            return encode_list(
                ranking,
                user_id=request.user_id,
                surface=request.surface,
                trigger=job.trigger,
                applied=applied,
                generated_at=now,
                valid_until=now + self._targets.ttl_ms,
                extra=extra,
            )

        return Work(job, ask, encode, request.user_id.encode())


def _attributes(row: UserState) -> tuple[tuple[str, object], ...]:
    return tuple(row.attributes.items())


def applied_of(row: UserState, trigger: Position) -> dict[str, tuple[int, int]]:
    """Per source topic the last record that the row covers, as (partition, offset): in the trigger's log, elsewhere in the one seen last.

    >>> row = UserState(applied={"events/3": (7, 90), "events/1": (7, 5), "events@ff/2": (7, 8), "users/3": (9, 2)})
    >>> applied_of(row, Position("events", 7, 3, 90))
    {'events': (3, 90), 'users': (3, 2)}
    >>> applied_of(row, Position("events@ff", 7, 2, 8))
    {'events': (2, 8), 'users': (3, 2)}
    """
    found: dict[str, tuple[int, int]] = {}
    for name, (_, offset) in row.applied.items():
        source, _, partition = name.rpartition("/")
        if "@" not in source:
            found[source] = (int(partition), offset)
    known = row.applied.get(f"{trigger.source}/{trigger.partition}")
    if known is not None:
        found[trigger.source.partition("@")[0]] = (trigger.partition, known[1])
    return found


def pause_of(age_s: float) -> float:
    """How long a pause is between lists made again, in turns' lengths: the rest of the worker has three quarters of the time at first, half
    of it when half of the time has gone by, a fifth in the end.

    >>> pause_of(0), pause_of(30), pause_of(60), pause_of(3600)
    (3.0, 1.0, 0.25, 0.25)
    """
    return min(3.0, max(0.25, 3.0 - 2.0 * age_s / (DEADLINE_S / 2)))


def _of_generation(job: Standing | Answer | Again, generation: str) -> bool:
    return not isinstance(job, Answer) or job.query is None or job.query.generation == generation


def _first(keys: Iterable[K], count: int) -> list[K]:
    return [key for _, key in zip(range(count), keys, strict=False)]
