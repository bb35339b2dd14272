"""Takes events in: checks, re-routes, applies to the user's row, and sends on what they lead to. The agent of `events` and `_events`.

Per record: decode → right partition? → known already? → row → pair deltas, example, list. Pair deltas of a batch go out in one record per
partition that owns one of their items; the batch is acknowledged when its lists are published (`streams.listmaker`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import time
from typing import Any

import msgspec

from engine.decode import decode_event
from engine.errors import BadRecord
from engine.features import taste_of
from engine.item import PairBatch, PairDelta
from engine.lists import Trigger
from engine.partition import hash64, item_key, partition_of
from engine.records import Event
from engine.user import Change, Limits, Position, UserState, Verdict, user_key
from streams.batch import Batch
from streams.deadletters import DeadLetters
from streams.epochs import Epochs
from streams.listmaker import Lesson, ListMaker, Owed, Standing
from streams.metrics import Metrics
from streams.outbox import Outbox
from streams.table import CheckpointTable

QUIET = frozenset({"impression", "search"})
"""Event types that change nothing the user should see."""
ORIGIN, ALIAS = "origin", "as"
"""Headers of a re-routed record: "topic/epoch/partition/offset" where it stood first; the user id it was sent under, if another."""


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """What intake decides by. `examples_per_s`: examples at most; `tolerance_ms`: how far an event may be in the future."""

    partitions: int
    surfaces: tuple[str, ...]
    limits: Limits
    types: Mapping[str, float]
    max_bytes: int
    tolerance_ms: int
    examples_per_s: float
    lists: bool = True


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
        self._allowance, self._allowed_at = 0.0, clock()
        self._counts = {outcome: metrics.events.labels(outcome) for outcome in (*(v.value for v in Verdict), "rerouted", "dead")}

    async def handle(self, batch: Batch) -> None:
        """Apply a batch."""
        await self._maker.room()
        if batch.lost:
            return
        rows = self._users.rows(batch.partition)
        epoch = self._epochs.check(rows, self._source)
        owed = Owed(batch)
        deltas: dict[int, list[PairDelta]] = defaultdict(list)
        wall = self._clock()
        latest = round(wall * 1000) + self._rules.tolerance_ms
        self._allowance = min(8.0, self._allowance + (wall - self._allowed_at) * self._rules.examples_per_s)
        self._allowed_at = wall
        generation = self._generation()
        for record in batch.records:
            position = Position(self._source, epoch, batch.partition, record.offset)
            headers = dict(record.headers) if record.headers else {}
            try:
                event = decode_event(record.value, headers.get(ALIAS, record.key), types=self._rules.types, max_bytes=self._rules.max_bytes)
            except BadRecord as problem:
                self._dead.send(problem, record)
                self._counts["dead"].inc()
                continue
            right = partition_of(record.key, self._rules.partitions)
            if right != batch.partition:
                self._route(record, record.key, right, position, headers)
                continue
            place = _origin(headers) or position
            self._apply(rows, record, event, place, position, owed, deltas, latest, generation)
        self._send_pairs(batch.partition, epoch, deltas)
        owed.paid()

    def _apply(
        self,
        rows: Any,
        record: Any,
        event: Event,
        place: Position,
        position: Position,
        owed: Owed,
        deltas: dict[int, list[PairDelta]],
        latest: int,
        generation: str,
    ) -> None:
        row: UserState = rows.edit(user_key(record.key))
        if row.alias_of:
            target = row.alias_of.encode()
            headers = {ALIAS: event.user_id.encode()}
            own = place._replace(
                source=f"{place.source}@{hash64(event.user_id):x}"
            )  # a log of its own: the target has other offsets of this one
            self._route(record, target, partition_of(target, self._rules.partitions), own, headers)
            return
        user_id = record.key.decode()
        time_ms = min(event.timestamp, latest)
        key = item_key(event.item_id) if event.item_id is not None else 0
        lesson = None
        if (
            self._allowance >= 1.0
            and row.events
            and key
            and key not in row.seen
            and row.personalise
            and self._rules.limits.weight(event) > 0
        ):
            lesson = taste_of(row, max(time_ms, row.last_time))
        change: Change = row.apply(event, place, self._rules.limits, latest)
        verdict = change.verdict
        self._counts[verdict.value].inc()
        if verdict is Verdict.APPLIED:
            row.generation = generation
            self._maker.now = max(self._maker.now, time_ms)
            if change.weight > 0 and row.personalise:
                self._pair(position.offset, time_ms, change, key, deltas)
                if lesson is not None:
                    self._allowance -= 1.0
                    self._maker.learn(Lesson(lesson, key, position, owed))
        elif verdict is not Verdict.REDELIVERED:
            return
        if event.type not in QUIET and self._rules.lists:
            surfaces = self._rules.surfaces if event.surface in self._rules.surfaces else (*self._rules.surfaces, event.surface)
            trigger = Trigger("event", event.event_id, event.timestamp, place)
            self._maker.want(Standing(position.partition, user_id, trigger, surfaces, record.timestamp / 1000.0), owed)

    def _pair(self, offset: int, time_ms: int, change: Change, key: int, deltas: dict[int, list[PairDelta]]) -> None:
        others = tuple(item_key(other.item_id) for other in change.others)
        delta = PairDelta(offset, time_ms, change.weight, key, others, change.first)
        n = self._rules.partitions
        for part in {key % n, *(other % n for other in others)}:
            deltas[part].append(delta)

    def _send_pairs(self, partition: int, epoch: int, deltas: dict[int, list[PairDelta]]) -> None:
        for target, found in deltas.items():
            self._outbox.publish(self._pairs_topic, None, self._encode(PairBatch(self._source, epoch, partition, tuple(found))), target)

    def _route(self, record: Any, key: bytes, partition: int, place: Position, headers: Mapping[str, bytes]) -> None:
        """Pass a record on to where it belongs, with the place where it stood first."""
        origin = headers.get(ORIGIN) or f"{place.source}/{place.epoch}/{place.partition}/{place.offset}".encode()
        kept = {**headers, ORIGIN: origin}
        self._outbox.publish(self._routed_topic, key, record.value, partition, list(kept.items()))
        self._counts["rerouted"].inc()


def _origin(headers: Mapping[str, bytes]) -> Position | None:
    """The place where a re-routed record stood first."""
    raw = headers.get(ORIGIN)
    if raw is None:
        return None
    source, epoch, partition, offset = raw.decode().rsplit("/", 3)
    return Position(source, int(epoch), int(partition), int(offset))
