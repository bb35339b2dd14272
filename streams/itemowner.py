"""Counts what happens to items and publishes it for all workers. The agent of `_pairs`; each item belongs to one partition.

Deltas carry the position of the event they come from, and a row drops those that are not newer: an event counts once however often it is
delivered. Neighbours are published when an item's counts have grown by some percent, counts whenever they changed, so many at a time that
the engine's thread is never busy with them for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from time import monotonic
from typing import Any

import msgspec

from engine.errors import StateError
from engine.hashtable import PairTable
from engine.item import Changes, ItemState
from engine.model import Model
from engine.pairs import REPORT, Decay, PairBatch, rank_weights, read
from engine.stats import Counts, NeighbourList, counts_of
from streams.engine_thread import EngineThread
from streams.epochs import Epochs
from streams.lane import Batch
from streams.logs import logger
from streams.metrics import Metrics
from streams.outbox import Outbox
from streams.table import CheckpointTable, NotOwnedError

COUNTS, NEIGHBOURS = b"c", b"n"
"""Last byte of a key of `_item_stats`; before it the key of the item's row."""
TICK_S = 0.25
PER_TICK = 40
"""Neighbour lists chosen in one tick: at 150 µs each 6 ms, in pieces of 4. A new installation's 4,000 items take turns in 25 s."""
PIECE = 4
TOGETHER, TOGETHER_BYTES = 16, 65_536
"""Records applied at once, at most: what they change in one row is added in one go. Sorting 64 kB by row takes some 3 ms."""
ROWS = 64
"""Rows changed before others have their turn: 0.3 ms."""
LAST_S = 2.0
"""How long deltas are still applied once reading has stopped: 500 records of 500 deltas may take longer than a rebalance waits, 5 s."""

log = logger(__name__)


def row_key(item: int) -> bytes:
    """The key of an item's row; the letter keeps it apart from the table's internal rows."""
    return b"i" + item.to_bytes(8, "little")


class ItemOwner:
    """Rows of the items of the partitions this worker owns, and what of them still has to be published."""

    def __init__(
        self,
        items: CheckpointTable[ItemState],
        model: Model,
        engine: EngineThread,
        outbox: Outbox,
        metrics: Metrics,
        epochs: Epochs,
        *,
        partitions: int,
        window: int,
        decay: Decay,
        topic: str,
        per_tick: int = PER_TICK,
        reading: Callable[[], bool] = lambda: True,
    ) -> None:
        self._per_tick = per_tick
        self._items, self._model, self._engine, self._outbox = items, model, engine, outbox
        self._epochs, self._n, self._decay, self._topic = epochs, partitions, decay, topic
        self._steps = rank_weights(decay, window)
        self._decode = msgspec.msgpack.Decoder(PairBatch).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._reading = reading
        self._stopped_at: float | None = None
        self._counts: dict[tuple[int, int], float] = {}  # (partition, item) whose counts changed, longest ago first, and since when
        self._grown: dict[tuple[int, int], float] = {}  # ... whose neighbours may have
        self._known: dict[int, Any] = {}  # partition -> the rows object that was swept
        self._published = {COUNTS: metrics.published.labels("counts"), NEIGHBOURS: metrics.published.labels("neighbours")}
        self._waited = {COUNTS: metrics.stats_wait.labels("counts"), NEIGHBOURS: metrics.stats_wait.labels("neighbours")}

    async def handle(self, batch: Batch) -> None:
        """Apply the deltas of a batch to the rows of this partition."""
        if self._given_up(batch):  # a batch before it was left half done: what comes after it must not count first
            return
        partition, rows = batch.partition, self._items.rows(batch.partition)
        self._epochs.check(rows, "_pairs")
        for values in groups([record.value or b"" for record in batch.records]):
            found = [one for value in values if (one := self._read(value, partition)) is not None]
            changes = Changes(found, self._steps, self._decay, owner=partition, owners=self._n)
            now = monotonic()
            for n, item in enumerate(changes.items):
                used, paired = changes.apply(item, rows.edit(row_key(item)))
                if used:
                    self._counts.setdefault((partition, item), now)
                if paired:
                    self._grown.setdefault((partition, item), now)
                if n % ROWS == ROWS - 1:
                    await asyncio.sleep(0)
                    if self._given_up(batch):
                        return
            await asyncio.sleep(0)
            if self._given_up(batch):
                return
        batch.done()

    def _read(self, value: bytes, partition: int) -> PairBatch | None:
        """The deltas of a record; one that no worker wrote is passed over, or none would ever come further."""
        try:
            found = self._decode(value)
            read(found)
        except (msgspec.DecodeError, UnicodeDecodeError, StateError) as error:
            log.error("pairs_passed_over", partition=partition, reason=str(error)[:200], remedy=REPORT)  # noqa: TRY400 - the reason says all
            return None
        return found

    def _given_up(self, batch: Batch) -> bool:
        """Whether the batch comes again: it is lost, or reading has stopped, for a rebalance or the end, and it takes too long."""
        if batch.lost:
            return True
        if self._reading():
            self._stopped_at = None
            return False
        now = monotonic()
        self._stopped_at = self._stopped_at or now
        return now - self._stopped_at > LAST_S

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            for rows in self._items.owned:
                if self._known.get(rows.partition) is not rows:
                    await self._sweep(rows)
            await self._publish(self._per_tick)

    async def publish_all(self) -> None:
        """Publish everything that waits for its turn."""
        while self._counts or self._grown:
            await self._publish(self._per_tick)

    async def _publish(self, most: int) -> None:
        self._publish_counts(_take(self._counts, 15 * most))
        grown = list(_take(self._grown, most).items())
        for start in range(0, len(grown), PIECE):
            await self._publish_neighbours(dict(grown[start : start + PIECE]))
            await asyncio.sleep(0.001)

    async def _sweep(self, rows: Any) -> None:
        """After a partition came to this worker: what the owner before did not publish any more is published now."""
        self._known[rows.partition] = rows
        now = monotonic()
        try:
            for n, (key, row) in enumerate(rows.scan()):
                place = (rows.partition, int.from_bytes(key[1:], "little"))
                self._counts.setdefault(place, now)
                if row.pairs.mass:
                    self._grown.setdefault(place, now)
                if n % 200 == 0:
                    await asyncio.sleep(0)
        except NotOwnedError:
            return

    def _publish_counts(self, places: Mapping[tuple[int, int], float]) -> None:
        records, now = [], monotonic()
        for (partition, item), since in places.items():
            row = self._row(partition, item)
            if row is not None and row.count:
                records.append((row_key(item) + COUNTS, self._encode(counts_of(item, row))))
                self._waited[COUNTS].observe(now - since)
        self._outbox.publish_many(self._topic, records)
        self._published[COUNTS].inc(len(records))

    async def _publish_neighbours(self, places: Mapping[tuple[int, int], float]) -> None:
        work, marks = [], []
        now = monotonic()
        for (partition, item), since in places.items():
            row = self._row(partition, item)
            if row is not None and row.worth_publishing():
                self._waited[NEIGHBOURS].observe(now - since)
                work.append((item, row.pairs, row.last_time))
                marks.append((self._items.rows(partition), item, row.pairs.mass))
        if not work:
            return
        async with self._engine.lock:
            records = self._choose(work)
        self._outbox.publish_many(self._topic, records)
        for rows, item, mass in marks:  # after the publishing: a checkpoint between the two would say what is not so
            if not rows.closed:
                rows.edit(row_key(item)).published_mass = mass
        self._published[NEIGHBOURS].inc(len(records))

    def _choose(self, work: list[tuple[int, PairTable, int]]) -> list[tuple[bytes | None, bytes | None]]:
        stats = self._model.stats
        return [
            (row_key(item) + NEIGHBOURS, self._encode(stats.publishable(item, stats.choose(pairs, time)))) for item, pairs, time in work
        ]

    def _row(self, partition: int, item: int) -> ItemState | None:
        try:
            return self._items.rows(partition).get(row_key(item))
        except NotOwnedError:
            return None


def groups(values: Sequence[bytes], most: int = TOGETHER, most_bytes: int = TOGETHER_BYTES) -> Iterator[list[bytes]]:
    """Cut records into groups of `most` and `most_bytes` at most, one record at least.

    >>> list(groups([b"aa", b"bb", b"c", b"d", b"e"], 3, 4))
    [[b'aa', b'bb'], [b'c', b'd', b'e']]
    """
    group, size = list[bytes](), 0
    for value in values:
        if group and (len(group) == most or size + len(value) > most_bytes):
            yield group
            group, size = [], 0
        group.append(value)
        size += len(value)
    if group:
        yield group


_counts = msgspec.msgpack.Decoder(Counts)
_neighbours = msgspec.msgpack.Decoder(NeighbourList)


def take_over(model: Model, key: bytes, value: bytes) -> int:
    """Apply one record of `_item_stats` to the model; gives the time of the item's newest event where the record tells it, else 0."""
    if key.endswith(COUNTS):
        counts = _counts.decode(value)
        model.stats.put(counts)
        return counts.popularity_time
    model.stats.put_neighbours(_neighbours.decode(value))
    return 0


def _take(queue: dict[tuple[int, int], float], count: int) -> dict[tuple[int, int], float]:
    return {place: queue.pop(place) for place in list(islice(queue, count))}
