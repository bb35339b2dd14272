"""Years of events into state, pairs and weights, without lists for the past; then the workers go live. Not the worker's parts themselves.

A backfill is a worker (`streams.worker`) that joins the workers' consumer group under their app id: rows, changelogs and committed offsets
are the workers' own, and they go on where it stops.

* **Where it stops** is fixed at the start, per partition of `events`: `--until now` is the end of the log, `--until TIME` the first record
  that was produced (Kafka's record time, not the event's) at that time or later. What follows is neither applied nor committed, not even
  where it came in one fetch: it is the live workers', who make lists for it. A history loaded an hour ago counts as an hour old: use `now`.
* **What it reads**: events up to there; `users`, and what the workers send each other (`_events`, `_pairs`, `_examples`), to their ends. It
  is done when the group has committed all of that, so that everything the events led to is counted, learned and durable, then published:
  counts, neighbours, weights. `requests` wait for the workers.
* **Lists**: none for the past. Who has opted out or was erased loses a list that still stands. In the end `--lists DAYS` makes one for each
  user whose last event is at most so many days older than the newest event; without it a user's list comes with the next event. It bears
  the ids of the user's last event: made twice, it is the same.
* **Weights**: an event becomes an example by its id and its place in the log (`streams.span`), however fast it comes.
* **Alone**: a broker keeps live workers out while it runs, and it out while they do (`streams.group`); both say so. Several backfills may
  share the partitions, each with a state folder of its own. Give them the same TIME: with `now` the later one goes a little further.
  The embedded broker keeps nobody out.
* **Stopped or killed**, it goes on from the committed offsets when it is run again; nothing counts twice. Workers that start instead are
  simply live from there on, with lists.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from faust.types import TP

from engine.catalogue import DAY_MS
from engine.errors import BrokerError, StateError
from engine.lists import Trigger
from engine.user import Position, UserState
from streams.consumer import BatchConsumer, Positions
from streams.group import BACKFILL, Group
from streams.jobs import Owed, Standing
from streams.lane import Batch
from streams.logs import configure, logger
from streams.replay import instant
from streams.settings import Settings
from streams.span import Span, span_of
from streams.table import NotOwnedError, Rows
from streams.worker import Worker

LOOK_S = 0.5
LOG_S = 10.0
CHECKPOINT_S = 15.0
"""Between checkpoints, unless the settings say otherwise: rows change many times meanwhile, and what a crash costs is soon read again."""
PAUSE_EVERY = 100
"""Users looked at in one turn of the event loop."""

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how many are through, and how many there are."""
log = logger(__name__)


class Report(NamedTuple):
    """What a backfill did: events read of `wanted`; `users` and `items` with a row in this process's partitions; all examples learned."""

    events: int
    wanted: int
    seconds: float
    users: int
    items: int
    learned: int
    lists: int
    complete: bool


@dataclass(slots=True)
class _Promise:
    """Stands for a batch: is told when all lists that were asked for on it are published."""

    kept: asyncio.Event

    def done(self) -> None:
        self.kept.set()


class Backfill:
    """One run. `span`: what to read; `days`: lists in the end for users active in so many days, None: none."""

    def __init__(self, worker: Worker, group: Group, span: Span, progress: Progress, days: float | None = None) -> None:
        self._worker, self._group, self._span, self._progress, self._days = worker, group, span, progress, days
        names = worker.names
        self._others = group.parts([names.users, names.routed_events, names.pairs, names.examples])
        start = group.committed(span.until)
        self._start = {tp: max(start[tp], span.first[tp]) for tp in span.until}
        self.wanted = sum(max(0, end - self._start[tp]) for tp, end in span.until.items())
        self._began = time.monotonic()
        self._said = self._began
        self._through = 0
        self._lists = 0
        self.report = Report(0, self.wanted, 0.0, 0, 0, 0, 0, complete=False)

    async def run(self) -> None:
        """Read, publish, make lists if they are wanted, and end the worker."""
        self._began = self._said = time.monotonic()
        await self._consume()
        await self._publish()
        if self._days is not None:
            await self._make_lists(self._days)
        users, items = (sum(map(len, map(_keys, table.owned))) for table in (self._worker.users, self._worker.items))
        self.report = self._reported()._replace(users=users, items=items, complete=True)
        self._worker.ended.set()

    def stopped(self) -> Report:
        """The report, also where it did not come to the end."""
        return self.report if self.report.complete else self._reported()

    def _reported(self) -> Report:
        seconds = time.monotonic() - self._began
        return Report(self._through, self.wanted, seconds, 0, 0, self._worker.model.ranker.version, self._lists, complete=False)

    async def _consume(self) -> None:
        """Return when the group has committed all that there is to read."""
        consumer: BatchConsumer | None = None
        before: Positions | None = None
        while True:
            try:
                # in this order: who had come so far had published what it led to, so the ends, asked for later, include it
                committed = await asyncio.to_thread(self._group.committed, [*self._span.until, *self._others])
                ends = await asyncio.to_thread(self._group.ends, self._others)
            except BrokerError as error:
                if not error.retryable:
                    raise
                log.warning("backfill_waits", reason=str(error))
                await asyncio.sleep(LOOK_S)
                continue
            left = {tp: end for tp, end in (*self._span.until.items(), *ends.items()) if committed[tp] < end}
            self._tell(committed)
            if not left:
                return
            if self._worker.users.owned:
                consumer = cast("BatchConsumer", self._worker.app.consumer)
                if before is not None:
                    await consumer.close_gaps(left, before)
                before = await consumer.positions(left)
                if self._through >= self.wanted:  # nobody's list waits for the checkpoint, and the rest waits for its commit
                    with self._worker.app.checkpoint.hurrying():
                        await consumer.commit()
            await asyncio.sleep(LOOK_S)

    def _tell(self, committed: Mapping[TP, int]) -> None:
        """Say how far it is: what the group has committed, and what is done here beyond that."""
        done = cast("BatchConsumer", self._worker.app.consumer).committable() if self._worker.users.owned else {}
        places = {tp: min(end, max(self._start[tp], committed[tp], done.get(tp, 0))) for tp, end in self._span.until.items()}
        self._through = max(self._through, sum(place - self._start[tp] for tp, place in places.items() if place > self._start[tp]))
        self._progress("events", self._through, self.wanted)
        now = time.monotonic()
        if now - self._said >= LOG_S:
            self._said = now
            rate = self._through / (now - self._began)
            left_s = round((self.wanted - self._through) / rate) if rate else None
            log.info("backfill_progress", events=self._through, of=self.wanted, events_per_s=round(rate), left_s=left_s)

    async def _publish(self) -> None:
        """Publish what all workers need, and wait until it has come round to this one."""
        worker, names = self._worker, self._worker.names
        await worker.owner.publish_all()
        worker.learner.publish()
        await worker.app.outbox.barrier()
        ends = await asyncio.to_thread(self._group.ends, self._group.parts([names.item_stats, names.weights]))
        while any(worker.broadcast.next.get((tp.topic, tp.partition), 0) < end for tp, end in ends.items()):  # noqa: ASYNC110 - a moment
            await asyncio.sleep(0.05)

    async def _make_lists(self, days: float) -> None:
        """A list for each recent user of the partitions that are ours; of those that come later, too, when another backfill leaves."""
        made: set[int] = set()
        while (rows := next((rows for rows in self._worker.users.owned if rows.partition not in made), None)) is not None:
            try:
                await self._make_lists_of(rows, self._worker.maker.stream_time() - round(days * DAY_MS))
            except NotOwnedError:  # they may be ours again in a moment
                await asyncio.sleep(LOOK_S)
                continue
            made.add(rows.partition)
        await self._worker.app.outbox.barrier()

    async def _make_lists_of(self, rows: Rows[UserState], since: int) -> None:
        maker, wanted = self._worker.maker, self._worker.settings.surfaces
        promise = _Promise(asyncio.Event())
        owed = Owed(cast("Batch", promise))
        for n, (key, row) in enumerate(rows.scan()):
            if n % PAUSE_EVERY == 0:
                await asyncio.sleep(0)
                await maker.room()
                self._progress("lists", self._lists - maker.waiting, self._lists)
            if row.events and not row.alias_of and row.last_time >= since:
                user_id = key[1:].decode()
                trigger = Trigger("backfill", user_id, row.last_time, _last_place(row, rows.partition))
                maker.want(Standing(rows.partition, user_id, trigger, wanted, time.time()), owed)
                self._lists += 1
        owed.paid()
        while not promise.kept.is_set():
            self._progress("lists", self._lists - maker.waiting, self._lists)
            await asyncio.sleep(0.1)
        self._progress("lists", self._lists, self._lists)


def _last_place(row: UserState, partition: int) -> Position:
    """The place of the last event that a row covers.

    >>> _last_place(UserState(applied={"users/1": (9, 4), "events/1": (7, 90)}), 1)
    Position(source='events', epoch=7, partition=1, offset=90)
    """
    name = f"events/{partition}"
    if name not in row.applied:
        name = next((one for one in row.applied if "events" in one), next(iter(row.applied)))
    source, _, number = name.rpartition("/")
    epoch, offset = row.applied[name]
    return Position(source, epoch, int(number), offset)


def _keys(rows: Rows[Any]) -> list[bytes]:
    return list(rows.keys())


def alone(group: Group, patience_s: float, say: Callable[[str], None], *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Return when no live worker is in the group; one that was killed counts until its session ends, `patience_s` at most.

    Raises:
        StateError: one is there.
        BrokerError: the broker does not tell.
    """
    until = time.monotonic() + patience_s
    said = False
    while (protocol := group.protocol()) not in ("", BACKFILL):
        if time.monotonic() > until:
            remedy = "stop them (they would make lists for the past), run the backfill, and start them again"
            raise StateError("workers_live", f"members of the group {group.name} that share by {protocol!r}", "no live workers", remedy)
        if not said:
            say(f"workers are in the group {group.name}: waiting up to {patience_s:.0f} s, in case they have just ended")
            said = True
        sleep(1.0)


def main(
    settings: Settings,
    *,
    until: str,
    days: float | None,
    accept_new_logs: bool,
    progress: Progress,
    say: Callable[[str], None],
    quiet: bool = False,
) -> tuple[int, Report]:
    """Backfill in this process; the exit status and the report. `quiet`: below warnings nothing is logged.

    Raises:
        BadSettings: `until` is no time.
        StateError: live workers are in the group.
        TopicError, BrokerError: it cannot start.
    """
    configure("warning" if quiet and settings.log_level == "info" else settings.log_level, settings.log_format)
    ms = None if until == "now" else round(instant(until) * 1000)
    if settings.sources["checkpoint_interval_s"] == "default":
        settings = settings.model_copy(update={"checkpoint_interval_s": CHECKPOINT_S})

    async def run(group: Group) -> tuple[int, Report]:
        worker = Worker(settings, accept_new_logs=accept_new_logs, span=span)
        backfill = Backfill(worker, group, span, progress, days)
        status = await worker.run(backfill.run)
        return status, backfill.stopped()

    with Group(settings) as group:
        alone(group, settings.session_timeout_s + 1.0, say)
        span = span_of(group, f"{settings.prefix}events", ms)
        return asyncio.run(run(group))
