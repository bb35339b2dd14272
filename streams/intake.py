"""Takes events in: checks, re-routes, applies to the user's row, and sends on what they lead to. The agent of `events` and `_events`.

Per record: decode → right partition? → known already? → row → pair deltas, example, list. Pair deltas of some batches share one record per
partition that owns one of their items; the batch is acknowledged when its lists are published (`streams.listmaker`). They go out once the
examples of their events are made: an example that knew its own event would teach the ranker what no list can know.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any

import msgspec

from engine.decode import decode_event
from engine.errors import BadRecord, Problem
from engine.features import taste_of
from engine.lists import Trigger
from engine.objective import Objective
from engine.pairs import Delta, packed, shares, written
from engine.partition import hash64, item_key, partition_of
from engine.records import Event
from engine.user import Change, Limits, Position, UserState, Verdict, user_key
from streams import surfaces
from streams.deadletters import DeadLetters
from streams.epochs import Epochs
from streams.jobs import Lesson, Owed, Standing
from streams.lane import Batch
from streams.listmaker import ListMaker
from streams.metrics import Metrics
from streams.origins import ALIAS, MERGED, MOST_BYTES, ORIGIN, Headers, headers_of, origin_of, read_origin, through, went_through
from streams.outbox import Outbox
from streams.table import CheckpointTable, Rows

MOST_HELD = 2_000
"""Deltas held back at most."""
MOST_ITEMS = 8_000
"""Items named in one record of `_pairs` at most, at 8 bytes each: well below what a broker takes, and 3 ms of work for the owner."""
QUIET = frozenset({"impression", "search"})
"""Event types that change nothing the user should see."""
ROUTED = "_events"
"""The source whose records only workers write."""
MOST_ALIAS_LOGS = 64
"""Logs of aliases whose positions a row keeps; of those before, the event ids tell repeats."""
NO_HEADERS: Headers = {}


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """What intake decides by. `examples_per_s`: examples at most; `tolerance_ms`: how far an event may be in the
    future; `hold_s`: how long pair deltas wait for more, so that many events share a record; `chosen`: whether the event with this id, at
    this partition and offset, becomes an example, instead of so many a second; `objective`: how much examples count.
    """

    partitions: int
    surfaces: tuple[str, ...]
    limits: Limits
    types: Mapping[str, float]
    max_bytes: int
    tolerance_ms: int
    examples_per_s: float
    lists: bool = True
    hold_s: float = 0.0
    chosen: Callable[[str, int, int], bool] | None = None
    objective: Objective = field(default_factory=Objective)


class Intake:
    """The handler of one events topic; `source` is its name without prefix."""

    def __init__(
        self,
        source: str,
        users: CheckpointTable[UserState],
        maker: ListMaker,
        outbox: Outbox,
        dead: DeadLetters,
        metrics: Metrics,
        epochs: Epochs,
        rules: IntakeRules,
        *,
        routed_topic: str,
        pairs_topic: str,
        generation: Callable[[], str],
        clock: Callable[[], float] = time,
    ) -> None:
        self._source, self._users, self._maker, self._outbox, self._dead = source, users, maker, outbox, dead
        self._metrics, self._epochs, self._rules = metrics, epochs, rules
        self._routed_topic, self._pairs_topic, self._generation, self._clock = routed_topic, pairs_topic, generation, clock
        self._encode = msgspec.msgpack.Encoder().encode
        self._held: list[tuple[Owed, Rows[UserState], int, list[Delta]]] = []
        self._held_deltas = self._flushed = 0
        self._allowance, self._allowed_at = 0.0, clock()
        self._tally: dict[str, int] = defaultdict(int)  # of the batch at hand
        self._counts = {outcome: metrics.events.labels(outcome) for outcome in (*(v.value for v in Verdict), "rerouted", "dead")}

    async def handle(self, batch: Batch) -> None:
        """Apply a batch."""
        await self._maker.room()
        if batch.lost:
            return
        rows = self._users.rows(batch.partition)
        epoch = self._epochs.check(rows, self._source)
        owed = Owed(batch)
        deltas: list[Delta] = []
        wall = self._clock()
        latest = round(wall * 1000) + self._rules.tolerance_ms
        self._allowance = min(8.0, self._allowance + (wall - self._allowed_at) * self._rules.examples_per_s)
        self._allowed_at = wall
        generation = self._generation()
        for record in batch.records:
            position = Position(self._source, epoch, batch.partition, record.offset)
            headers = headers_of(record.headers) if self._source == ROUTED and record.headers else NO_HEADERS
            key = record.key if record.key is None else headers.get(ALIAS, record.key)
            try:
                event = decode_event(record.value, key, types=self._rules.types, max_bytes=self._rules.max_bytes)
                place = read_origin(headers) or position
                right = partition_of(record.key, self._rules.partitions)
                if right != batch.partition:
                    self._route(record, record.key, right, place, headers)
                else:
                    self._apply(rows, record, event, place, position, owed, deltas, latest, generation, headers)
            except BadRecord as problem:
                self._dead.send(problem, record)
                self._tally["dead"] += 1
        for outcome, count in self._tally.items():
            self._counts[outcome].inc(count)
        self._tally.clear()
        self._hold_pairs(owed, rows, epoch, deltas)
        owed.paid()
        if self._held_deltas >= MOST_HELD:
            await self._flush_taught()

    def _apply(
        self,
        rows: Any,
        record: Any,
        event: Event,
        place: Position,
        position: Position,
        owed: Owed,
        deltas: list[Delta],
        latest: int,
        generation: str,
        headers: Headers,
    ) -> None:
        row: UserState = rows.edit(user_key(record.key))
        user_id = record.key.decode()
        if row.alias_of and not went_through(place, hash64(user_id)):
            self._pass_on(row, user_id, record, event, place, headers)
            return
        time_ms = min(event.timestamp, latest)
        if "@" in place.source and not row.covers(place) and _has(row, event, time_ms):
            row.advance(place)
            self._tally[Verdict.DUPLICATE.value] += 1
            return
        key = item_key(event.item_id) if event.item_id is not None else 0
        lesson = None
        chosen = self._rules.chosen
        if (
            (self._allowance >= 1.0 or chosen is not None)
            and MERGED not in headers
            and row.events
            and key
            and key not in row.seen
            and row.personalise
            and self._rules.limits.weight(event) > 0
            and self._rules.objective.weight(event.type, event.value) > 0
            and (chosen is None or chosen(event.event_id, position.partition, position.offset))
        ):
            lesson = taste_of(row, max(time_ms, row.last_time))
        change: Change = row.apply(event, place, self._rules.limits, latest)
        verdict = change.verdict
        self._tally[verdict.value] += 1
        if verdict is Verdict.APPLIED:
            row.generation = generation
            self._maker.now = max(self._maker.now, time_ms)
            if "@" in place.source:
                _bound(row)
            if change.weight > 0 and row.personalise and MERGED not in headers:
                others = tuple([item_key(other.item_id) for other in change.others])
                deltas.append(Delta(position.offset, time_ms, key, others, change.together))
                if lesson is not None:
                    self._allowance -= 1.0
                    weight = self._rules.objective.weight(event.type, event.value)
                    self._maker.learn(Lesson(lesson, key, position, owed, weight))
        elif verdict is not Verdict.REDELIVERED or time_ms <= row.erased_at:
            return
        if event.type not in QUIET and self._rules.lists:
            wanted = self._rules.surfaces
            if event.surface not in wanted and surfaces.note(rows, event.surface):
                wanted = (*wanted, event.surface)
            trigger = Trigger("event", event.event_id, event.timestamp, place)
            self._maker.want(Standing(position.partition, user_id, trigger, wanted, record.timestamp / 1000.0), owed)

    def _pass_on(self, row: UserState, user_id: str, record: Any, event: Event, place: Position, headers: Headers) -> None:
        """Send an event of an alias to the user it belongs to, unless it came before the alias did and went there with the history."""
        if row.covers(place):
            self._tally[Verdict.REDELIVERED.value] += 1
        elif hash64(event.event_id) in row.event_ids:
            self._tally[Verdict.DUPLICATE.value] += 1
        else:
            target = row.alias_of.encode()
            kept = {ALIAS: event.user_id.encode(), **({MERGED: headers[MERGED]} if MERGED in headers else {})}
            self._route(record, target, partition_of(target, self._rules.partitions), through(place, hash64(user_id)), kept)

    def _hold_pairs(self, owed: Owed, rows: Rows[UserState], epoch: int, deltas: list[Delta]) -> None:
        """Keep a batch's deltas for the next `flush`; the batch is not acknowledged before."""
        if deltas:
            owed.jobs += 1
            self._held.append((owed, rows, epoch, deltas))
            self._held_deltas += len(deltas)
            if not self._rules.hold_s:
                self.flush()

    def flush(self, until: int | None = None) -> None:
        """Send the deltas that are held, of all batches or of the first `until` ever held, one record per source partition and target.

        Not where the rows have been let go: then the events come again, wherever that is. A batch that is merely read again finds rows that
        know its events, and would not lead to these deltas a second time.
        """
        count = len(self._held) if until is None else max(0, until - self._flushed)
        held, self._held = self._held[:count], self._held[count:]
        self._flushed += len(held)
        self._held_deltas -= sum(len(deltas) for *_, deltas in held)
        together: dict[tuple[int, int], list[Delta]] = defaultdict(list)
        for owed, rows, epoch, deltas in held:
            if not rows.closed:
                together[owed.batch.partition, epoch] += deltas
        for (partition, epoch), found in together.items():
            for piece in pieces(found):
                for target, share in shares(packed(piece), self._rules.partitions):
                    value = self._encode(written(self._source, epoch, partition, share))
                    self._outbox.publish(self._pairs_topic, None, value, target)
        for owed, *_ in held:
            owed.paid()

    async def run(self) -> None:
        """Flush every `hold_s` until cancelled."""
        while True:
            await asyncio.sleep(self._rules.hold_s)
            await self._flush_taught()

    async def _flush_taught(self) -> None:
        """Flush what is held now, once the examples of these events are made. It stays held meanwhile: a checkpoint sends it itself."""
        until = self._flushed + len(self._held)
        await self._maker.taught()
        self.flush(until)

    def _route(self, record: Any, key: bytes, partition: int, place: Position, headers: Headers) -> None:
        """Pass a record on to where it belongs, with the place where it stood first.

        Raises:
            BadRecord: with its headers it is too large.
        """
        kept = {**headers, ORIGIN: origin_of(place)}
        size = len(record.value) + len(key) + len(headers.get(ALIAS, b"")) + MOST_BYTES
        if size > self._rules.max_bytes:
            expected, remedy = f"{self._rules.max_bytes} bytes at most, headers included", "send it to the right partition, or send less"
            raise BadRecord([Problem("record", "too_large", f"{size} bytes to be passed on", expected, remedy)])
        self._outbox.publish(self._routed_topic, key, record.value, partition, list(kept.items()))
        self._tally["rerouted"] += 1


def pieces(deltas: Sequence[Delta], most: int = MOST_ITEMS) -> Iterator[list[Delta]]:
    """Cut deltas into lists that name some `most` items at most, one delta at least.

    >>> [len(piece) for piece in pieces([Delta(n, 0, 1, (2, 3)) for n in range(5)], most=8)]
    [2, 2, 1]
    """
    piece, items = list[Delta](), 0
    for delta in deltas:
        if piece and items + 2 + len(delta.others) > most:
            yield piece
            piece, items = [], 0
        piece.append(delta)
        items += 2 + len(delta.others)
    if piece:
        yield piece


def _has(row: UserState, event: Event, time_ms: int) -> bool:
    """Whether the history has this very event, come by the other of an alias's two ways: with the history, or passed on by itself.

    Which way an event takes depends on whether the alias was known first. That order is not kept over a crash: `events` and `users` are two
    logs. By its id it is not known, since a history keeps none.
    """
    return any(one.time == time_ms and one.item_id == event.item_id and one.type == event.type for one in row.history)


def _bound(row: UserState) -> None:
    """Drop the oldest positions in logs of aliases: each new anonymous id of a user brings one."""
    logs = [name for name in row.applied if "@" in name]
    for name in logs[: max(0, len(logs) - MOST_ALIAS_LOGS)]:
        del row.applied[name]
