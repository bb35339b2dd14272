"""The order in which state becomes durable, once for all tables of a worker. Not the place that decides when.

The steps, with the same numbers in `Checkpoint.run`:

1. Publish what is held back (`before`), then take, all at once, the offsets up to which every record is done and the rows that are dirty.
   Rows are copied on write from here. What is held back belongs to rows that say their events are known: lost with a crash, it stays lost.
2. Wait until every output record published so far is acknowledged.
3. Prove that the partitions are still ours: commit an offset that is committed already. The broker refuses a member it has given up, which
   therefore never writes old rows behind the new owner's.
4. Encode the taken rows and send them to the changelogs; prove 3 again if that takes longer than the lease.
5. Wait until the changelogs have acknowledged them. A row that could not be sent within 3 s is given up, and so is the checkpoint: sent
   later, it could come behind a new owner's (a worker may be frozen at any point).
6. Write the rows to RocksDB, the changelog offset with the last ones of each partition.
7. Commit the offsets of step 1.

What a crash leaves behind, by the last step done:

* 1-3: nothing; records since the last commit come again.
* 4, 5: changelog rows ahead of RocksDB and of the committed offset. Recovery reads them; the records come again, are known to the rows'
  positions, and lead to the same output, which was acknowledged in step 2 or is sent again.
* 6: RocksDB rows ahead of its changelog offset, never ahead of the changelog; recovery reads those records again. As above.
* 7: nothing comes again.

So a row that recovery brings back ahead of the committed offset has its derived records acknowledged, if they were published before step 1.

A table whose rows are large may take part in one checkpoint of `every` only. Between them, the topics that lead to its rows (`sources`) are
not committed either, so the steps hold for them as for all others; after a crash more of their records come again.

It runs on the event loop in slices of `slice_s` with pauses of at least `pause_s` between, so that a list waits for one slice at most;
under load a slice may take half as long as the pause before it lasted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from faust.types import TP

from streams.outbox import Outbox, Receipt
from streams.table import CheckpointTable, Record, Rows

log = logging.getLogger(__name__)

SLICE_S = 0.001
PAUSE_S = 0.002
LONGEST_SLICE_S = 0.02
CHUNK = 32
"""Rows between two looks at the clock: 32 rows of 1 kB take 0.2-0.6 ms to encode and send, 0.13 ms to write."""
BYTES_PER_S = 8_000_000
"""Sent to the changelogs at most, and written to RocksDB, unless reading waits for it: 70 MB at once keep a broker busy for longer than a
list may wait, and RocksDB stops its writers, who hold the interpreter, when its buffers are full. No other checkpoint is made meanwhile:
at most `max_dirty` rows later (`BatchApp.admit`) it is no longer paced."""
LEASE_S = 1.0
"""How long a proof of ownership holds: well below any session timeout (6 s at least)."""


class Group(Protocol):
    """What a checkpoint needs of the consumer."""

    def committable(self) -> Mapping[TP, int]:
        """Give the offsets up to which every record is done, where they are beyond the committed ones."""
        ...

    async def confirm(self) -> bool:
        """Prove to the broker that this member still owns what it was assigned."""
        ...

    async def commit_done(self, offsets: Mapping[TP, int]) -> bool:
        """Commit these offsets."""
        ...


@dataclass(frozen=True)
class Stats:
    """What the checkpoints did: totals since the start, and the last one's time. Seconds and bytes."""

    runs: int = 0
    abandoned: int = 0
    rows: int = 0
    changelog_bytes: int = 0
    seconds: float = 0.0
    last_s: float = 0.0
    longest_slice_s: float = 0.0


class _Lost(Exception):  # noqa: N818 - a way out, caught below
    """The partitions went away while the checkpoint was under way."""


class _Pace:
    """Says when a slice is over, and pauses."""

    def __init__(self, slice_s: float, pause_s: Callable[[], float], clock: Callable[[], float]) -> None:
        self._slice_s, self._pause_s, self._clock = slice_s, pause_s, clock
        self.longest_s = 0.0
        self.begin(0.0)

    def begin(self, paused_s: float) -> None:
        self._begun = self._clock()
        self._until = self._begun + min(max(self._slice_s, paused_s / 2), LONGEST_SLICE_S)

    async def step(self) -> None:
        """Pause if the slice is over."""
        now = self._clock()
        if now < self._until:
            return
        self.longest_s = max(self.longest_s, now - self._begun)
        await asyncio.sleep(self._pause_s())
        self.begin(self._clock() - now)


@dataclass
class _Part:
    """One partition of one table under way."""

    rows: Rows[Any]
    topic: str
    receipt: Receipt
    records: list[Record]


class Checkpoint:
    """Makes the state of all tables durable, then commits. One at a time; see the module for the steps."""

    def __init__(
        self,
        tables: Sequence[CheckpointTable[Any]],
        outbox: Outbox,
        *,
        slice_s: float = SLICE_S,
        pause_s: float = PAUSE_S,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._tables = tables
        self._outbox = outbox
        self._slice_s, self._pause_s, self._lease_s, self._clock = slice_s, pause_s, lease_s, clock
        self._lock = asyncio.Lock()
        self._round: dict[str, int] = {}  # table -> checkpoints since it last took part
        self.stats = Stats()
        self.before: list[Callable[[], None]] = []
        """Called at step 1: each publishes what it has held back of what its rows already say."""
        self._hurried = 0

    @property
    def hurry(self) -> bool:
        """Whether somebody waits for the checkpoint: then it makes no pauses."""
        return self._hurried > 0

    @contextmanager
    def hurrying(self) -> Iterator[None]:
        """Wait for the checkpoint inside."""
        self._hurried += 1
        try:
            yield
        finally:
            self._hurried -= 1

    @property
    def running(self) -> bool:
        """Whether one is under way."""
        return self._lock.locked()

    async def run(self, group: Group, *, whole: bool = True) -> bool:
        """Make one checkpoint, after the one under way; whether it was completed (also if there was nothing to do).

        Args:
            group: the consumer.
            whole: all tables take part, not only those whose turn it is.

        Raises:
            DeliveryError: a record could not be delivered: nothing was committed, and nothing may be from now on.
        """
        async with self._lock:
            started = self._clock()
            pace = _Pace(self._slice_s, lambda: 0.0 if self.hurry else self._pause_s, self._clock)
            # 1. what is held back, offsets and dirty rows, in one turn of the event loop
            for publish in self.before:
                publish()
            tables = self._due(whole=whole)
            taking_part = {table.name for table in tables}  # by name: Faust's tables are mappings, and equal when they are empty
            left = {topic for table in self._tables if table.name not in taking_part for topic in table.sources}
            offsets = {tp: offset for tp, offset in group.committable().items() if tp.topic not in left}
            parts = self._take(tables)
            if not offsets and not parts:
                return True
            try:
                await self._persist(group, parts, offsets, pace)
            except _Lost:
                for part in parts:
                    part.rows.restore()
                self._count(pace, parts, started, abandoned=1)
                return False
            except BaseException:
                for part in parts:
                    part.rows.restore()
                raise
            for part in parts:
                part.rows.saved()
            for rows in self._all_rows():
                while rows.evict(CHUNK):
                    await pace.step()
            self._count(pace, parts, started, abandoned=0)
            return True

    async def _persist(self, group: Group, parts: Sequence[_Part], offsets: Mapping[TP, int], pace: _Pace) -> None:
        # 2. lists, pair deltas, examples: all that was published so far
        await self._outbox.barrier()
        # 3. still ours?
        confirmed = await self._confirm(group, parts)
        # 4. encode and send
        await pace.step()
        began, sent = self._clock(), 0
        for part in parts:
            while records := part.rows.encoded(CHUNK):
                await self._no_faster(began, sent, parts)
                if self._clock() - confirmed > self._lease_s:
                    confirmed = await self._confirm(group, parts)
                part.records += records
                sent += _size(records)
                self._outbox.publish_many(part.topic, records, part.rows.partition, receipt=part.receipt)
                await pace.step()
                if self._outbox.pending > CHUNK * 100:
                    await self._outbox.ready()
                _still_open(parts)
        # 5. acknowledged by the changelogs
        await self._outbox.settle([part.receipt for part in parts])
        _still_open(parts)
        if any(part.receipt.late for part in parts):
            log.warning("changelog_late remedy='none: the rows go out with the next checkpoint'")
            raise _Lost
        # 6. RocksDB, each partition's offset with its last rows
        began, sent = self._clock(), 0
        for part in parts:
            last = len(part.records) - 1
            for at in range(0, len(part.records), CHUNK):
                await self._no_faster(began, sent, parts)
                records = part.records[at : at + CHUNK]
                part.rows.store(records, part.receipt.offset if at + CHUNK > last else None)
                sent += _size(records)
                await pace.step()
                _still_open(parts)
        # 7. commit
        if offsets and not await group.commit_done(offsets):
            raise _Lost

    async def _no_faster(self, began: float, sent: int, parts: Sequence[_Part]) -> None:
        """Return when so many bytes may have gone out since `began`, at once if reading waits."""
        while not self.hurry and (ahead := began + sent / BYTES_PER_S - self._clock()) > 0:
            await asyncio.sleep(min(ahead, 0.05))
            _still_open(parts)

    def _due(self, *, whole: bool) -> list[CheckpointTable[Any]]:
        """The tables whose turn it is."""
        found = []
        for table in self._tables:
            self._round[table.name] = self._round.get(table.name, 0) + 1
            if whole or self._round[table.name] >= table.every:
                self._round[table.name] = 0
                found.append(table)
        return found

    def _take(self, tables: Sequence[CheckpointTable[Any]]) -> list[_Part]:
        parts = []
        for table in tables:
            for rows in table.owned:
                if rows.changed:
                    rows.take()
                    parts.append(_Part(rows, table.changelog_topic_name, self._outbox.receipt(), []))
        return parts

    async def _confirm(self, group: Group, parts: Sequence[_Part]) -> float:
        """Prove ownership; give the time before the question was asked, from which the lease counts."""
        asked = self._clock()
        if not await group.confirm():
            raise _Lost
        _still_open(parts)
        return asked

    def _all_rows(self) -> Iterable[Rows[Any]]:
        return [rows for table in self._tables for rows in table.owned]

    def _count(self, pace: _Pace, parts: Sequence[_Part], started: float, abandoned: int) -> None:
        was, took = self.stats, self._clock() - started
        self.stats = Stats(
            runs=was.runs + 1,
            abandoned=was.abandoned + abandoned,
            rows=was.rows + sum(len(part.records) for part in parts),
            changelog_bytes=was.changelog_bytes + sum(len(raw or b"") for part in parts for _, raw in part.records),
            seconds=was.seconds + took,
            last_s=took,
            longest_slice_s=max(was.longest_slice_s, pace.longest_s),
        )


def _size(records: Sequence[Record]) -> int:
    return sum(len(raw or b"") for _, raw in records)


def _still_open(parts: Sequence[_Part]) -> None:
    if any(part.rows.closed for part in parts):
        raise _Lost
