"""Takes in what is said about users: attributes, consent, an alias, erasure. The agent of `users`."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Any

import msgspec

from engine.decode import decode_user, key_id
from engine.errors import BadRecord, Problem
from engine.lists import Trigger
from engine.partition import hash64, partition_of
from engine.records import TIME_MIN_MS, User
from engine.timestamps import ms_rfc3339
from engine.user import Interaction, Position, UserState, user_key
from streams import surfaces
from streams.deadletters import DeadLetters
from streams.epochs import Epochs
from streams.jobs import Owed, Standing
from streams.lane import Batch
from streams.listmaker import ListMaker
from streams.metrics import Metrics
from streams.origins import AT, MERGED, ORIGIN, headers_of, origin_of, read_origin, through
from streams.outbox import Outbox
from streams.table import CheckpointTable

SOURCE = "users"
MOST_BYTES = 65_536
"""Largest record of a user: its attributes stand in the user's row, which has to fit into one record with all else that is kept."""
MERGES = 1 << 14
"""Events of a history at most (10,000 by the settings): the n-th of the record at offset o has the place o x MERGES + n in its log."""


class People:
    """The handler of `users`. `tolerance_ms`: how far ahead of the clock an erasure's time may be; `lists`: whether lists are made."""

    def __init__(
        self,
        users: CheckpointTable[UserState],
        maker: ListMaker,
        outbox: Outbox,
        dead: DeadLetters,
        metrics: Metrics,
        epochs: Epochs,
        *,
        partitions: int,
        surfaces: tuple[str, ...],
        tolerance_ms: int,
        topic: str,
        routed_topic: str,
        lists: bool = True,
        clock: Callable[[], float] = time,
    ) -> None:
        self._lists = lists
        self._users, self._maker, self._outbox, self._dead, self._epochs = users, maker, outbox, dead, epochs
        self._n, self._surfaces, self._tolerance_ms, self._topic, self._routed = partitions, surfaces, tolerance_ms, topic, routed_topic
        self._clock = clock
        self._rerouted = metrics.rerouted.labels(SOURCE)

    async def handle(self, batch: Batch) -> None:
        """Apply a batch."""
        rows = self._users.rows(batch.partition)
        epoch = self._epochs.check(rows, SOURCE)
        owed = Owed(batch)
        for record in batch.records:
            headers = headers_of(record.headers)
            try:
                user = decode_user(record.value, record.key, max_bytes=MOST_BYTES)
                user_id = key_id(record.key)
                place = read_origin(headers) or Position(SOURCE, epoch, batch.partition, record.offset)
                said_at = _time(headers) or record.timestamp
            except BadRecord as problem:
                self._dead.send(problem, record)
                continue
            right = partition_of(record.key, self._n)
            if right != batch.partition:
                passed = [(ORIGIN, origin_of(place)), (AT, b"%d" % said_at)]
                self._outbox.publish(self._topic, record.key, record.value, right, passed)
                self._rerouted.inc()
                continue
            row: UserState = rows.edit(user_key(record.key))
            if not row.covers(place):
                row.advance(place)
                self._apply(rows, row, user, user_id, place, said_at)
            if row.alias_of or user is None or user.erase:
                continue
            if not self._lists:
                if not row.personalise:  # what stands was made with what may not be used any more
                    self._forget_lists(rows, user_id)
            else:  # also when it comes again: its list may not have been made
                trigger = Trigger("user", user_id, said_at, place)
                wanted = self._surfaces if row.personalise else tuple(dict.fromkeys((*self._surfaces, *surfaces.noted(rows))))
                self._maker.want(Standing(batch.partition, user_id, trigger, wanted, record.timestamp / 1000.0), owed)
        owed.paid()

    def _apply(self, rows: Any, row: UserState, user: User | None, user_id: str, place: Position, said_at: int) -> None:
        if user is None:
            row.attributes = {}
        elif user.erase:
            self._erase(rows, row, user, user_id, said_at)
        else:
            row.attributes = dict(user.attributes)
            row.personalise = user.personalise
            if user.alias_of is not None and not row.alias_of:
                self._merge(rows, row, user_id, user.alias_of, place)

    def _erase(self, rows: Any, row: UserState, user: User, user_id: str, said_at: int) -> None:
        """Forget the user here, and whoever the user had become."""
        latest = round(self._clock() * 1000) + self._tolerance_ms
        at = min(user.timestamp or said_at, latest)
        target = row.alias_of
        row.erase(at)
        self._forget_lists(rows, user_id)
        if target:
            record = msgspec.json.encode({"user_id": target, "erase": True, "timestamp": _timestamp(at)})
            self._outbox.publish(self._topic, target.encode(), record, partition_of(target.encode(), self._n))

    def _merge(self, rows: Any, row: UserState, user_id: str, target: str, place: Position) -> None:
        """Send the history to the user it now belongs to, once, each event with a place of its own; later events follow (`Intake`).

        What stays are positions and event ids, by which a repeat of an earlier event is known, and the alias.
        """
        key, log = target.encode(), through(place, hash64(user_id))
        partition = partition_of(key, self._n)
        for n, one in enumerate(row.history):
            event = msgspec.json.encode(_event(n, one, user_id, target))
            headers = [(ORIGIN, origin_of(log._replace(offset=place.offset * MERGES + n))), (MERGED, b"1")]
            self._outbox.publish(self._routed, key, event, partition, headers)
        row.alias_of = target
        row.history, row.seen, row.events, row.first_time, row.last_time = [], {}, 0, 0, 0
        self._forget_lists(rows, user_id)

    def _forget_lists(self, rows: Any, user_id: str) -> None:
        self._maker.forget(rows.partition, user_id, dict.fromkeys((*self._surfaces, *surfaces.noted(rows))))


def _event(n: int, one: Interaction, user_id: str, target: str) -> dict[str, Any]:
    event: dict[str, Any] = {
        "event_id": f"alias:{n}:{one.time}:{user_id}"[:128],
        "type": one.type or "click",
        "user_id": target,
        "item_id": one.item_id,
        "timestamp": _timestamp(one.time),
    }
    if one.type == "rating" and one.weight < 0:
        event["value"] = 0.0  # the rating itself is not kept, only that it was a low one
    return event


def _timestamp(ms: int) -> int | str:
    """A time as a record has it: an integer before March 1973 would be taken for seconds."""
    return ms if ms >= TIME_MIN_MS else ms_rfc3339(ms)


def _time(headers: dict[str, bytes]) -> int:
    """The record time where it stood first; 0 where the headers do not tell.

    Raises:
        BadRecord: they tell none that can be read.
    """
    raw = headers.get(AT, b"0")
    if not raw.isdigit() or len(raw) > 15:  # noqa: PLR2004 - 10^15 ms is the year 33658
        raise BadRecord(
            [Problem("headers", "bad_time", repr(raw[:40]), "milliseconds", f"leave out the header {AT}: it is the workers' own")]
        )
    return int(raw)
