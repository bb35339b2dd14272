"""A batch path through Faust: whole fetched batches to a handler, acknowledged late and in any order. Every override of Faust stands here.

Stock Faust (faust-streaming 0.15.3) makes a message, an event and several futures of each record: 1,500-1,800 records/s with state and
output. Here one Faust message stands for up to `batch_size` records of one partition. What is overridden, and the upstream code it replaces
(tests/test_upstream.py fails when that changes; the overrides of tables stand in `streams.table`):

* `BatchSchema.compile` (serializers/schemas.py): no decoding, the records go to the handler as they were fetched.
* `BatchConsumer.getmany` (transport/consumer.py): one message per chunk of records; nothing fetched before a seek is delivered after it.
* `BatchConsumer.perform_seek` (transport/consumer.py): forget what was delivered; nothing flows until `resume_flow`; partitions without a
  commit are sought too.
* `BatchConsumer.force_commit` (transport/consumer.py): a commit is a checkpoint.
* `BatchConsumer.wait_empty` (transport/consumer.py): before a rebalance and at the end, finish batches, checkpoint, let go of the rows.
* `BatchConsumer.on_buffer_full` (transport/consumer.py): a full queue makes the reader wait, without a pause of 1 s.
* `BatchConsumer.on_task_error` (transport/consumer.py): no commit after an error.
* `FetchThread._create_worker_consumer`, `BatchConsumer._new_consumer_thread` (transport/drivers/aiokafka.py): how long a fetch may wait.
* `BatchTransport`, `BatchApp._new_transport` (transport/drivers/aiokafka.py, app/base.py): plug these in.
* `BackfillAssignor.name` (assignor/partition_assignor.py): the name under which members of the group share partitions.
* `HeadlessBoot.enable_web` (app/base.py `BootStrategy._should_enable_web`): Faust's web server is never made, so its port is not opened.

Topics are declared with `acks=False`: Faust then neither tracks nor commits their messages, and the lanes here do (`Lane`). A batch is lost
on its way to the handler only where Faust empties its queues, which a seek to the committed offset always follows. Should it ever not: the
batches of a lane are numbered, and a handler is never given one whose predecessor did not arrive (`OrderError`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import faust
from aiokafka.errors import IllegalStateError
from aiokafka.structs import TopicPartition
from faust.app.base import BootStrategy
from faust.assignor.partition_assignor import PartitionAssignor
from faust.tables.manager import TableManager
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode import Service

from engine.errors import HeadwaterError
from streams.checkpoint import Checkpoint
from streams.group import BACKFILL
from streams.outbox import Outbox
from streams.table import MAX_ROWS, CheckpointTable

R = TypeVar("R")
Handler = Callable[["Batch"], Awaitable[None]]

BATCH_SIZE = 500
"""Records in one batch at most: at 20 µs a record 10 ms, the longest that another partition's list waits for it."""
QUEUED_BATCHES = 16
"""Batches waiting before a handler: 8,000 records, and what is lost work when a rebalance empties the queue."""
MAX_DIRTY = 20_000
"""Dirty rows at which a checkpoint is made at once; at twice as many reading waits for it. At 1 kB a row 40 MB are encoded at most."""
CALM_S = 0.004
"""How long the next fetch waits at most while there is work."""
HELD_S = 0.05
"""How long a fetch waits while some partitions are held back: they may be read on as soon as others are done."""
FETCH_WAIT_MS = 1500
"""How long a broker may keep a fetch without records, as upstream has it: Apache Kafka answers as soon as there is one."""
MOCK_FETCH_WAIT_MS = 5
"""The same on librdkafka's mock cluster, which keeps such a fetch for the whole time even when a record comes meanwhile."""
DRAIN_S = 5.0
"""How long a rebalance or the end waits for batches that are not done."""
GC_THRESHOLDS = (20_000, 20, 50)
"""Python's collector, less often than (700, 10, 10): a full pass over 200,000 rows stops the loop for 60 ms; rows go by reference count."""
QUIET_LOGGERS = ("faust", "mode", "aiokafka")
"""Loggers set to WARNING: Faust's `-l warn` leaves them at DEBUG, which costs 12 % of the time."""

log = logging.getLogger(__name__)
library_log = logging.getLogger("faust.batch")
"""What the libraries' base classes log in our subclasses' name goes where their other lines go."""


class OrderError(HeadwaterError):
    """A batch came to its handler whose predecessor did not: going on would lose records."""


class HandlerError(HeadwaterError):
    """A handler raised, or did not return in time; its batch was not acknowledged."""


class Lane:
    """The batches of one partition between two seeks, in order; closed by the next seek or when the partition goes."""

    __slots__ = ("accepted", "base", "batches", "closed", "sent")

    def __init__(self) -> None:
        self.batches: deque[Batch] = deque()  # delivered and not yet committed
        self.sent = 0
        self.accepted = 0
        self.closed = False
        self.base: int | None = None  # where reading goes on after a crash now: known to the broker, or equal to it

    def committable(self) -> int | None:
        """Give the offset after the last record up to which all are done; None: the first is not."""
        offset = None
        for batch in self.batches:
            if not batch.is_done:
                break
            offset = batch.last + 1
        return offset

    def commit(self, offset: int) -> None:
        """Forget what the broker now knows to be done."""
        self.base = offset
        while self.batches and self.batches[0].last < offset:
            self.batches.popleft()

    def close(self) -> None:
        self.closed = True
        self.batches.clear()


class Batch:
    """Up to `batch_size` consecutive records of one partition, as aiokafka gave them (`key`, `value`, `offset`, `timestamp`, `headers`).

    The handler changes rows, publishes or hands on, and sees to it that `done` is called, by itself or later by whoever finishes the work:
    from then on the records may be committed. Rows of the partition may be changed until then, not afterwards.
    """

    __slots__ = ("_lane", "_number", "is_done", "last", "partition", "records", "topic")

    def __init__(self, topic: str, partition: int, records: Sequence[Any], lane: Lane) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records
        self.last: int = records[-1].offset
        self.is_done = False
        self._lane = lane
        self._number = lane.sent

    @property
    def accepted(self) -> bool:
        """Whether its handler was given it."""
        return self._number < self._lane.accepted

    @property
    def lost(self) -> bool:
        """Whether the partition went away or was read anew: the records come again, here or elsewhere."""
        return self._lane.closed

    def done(self) -> None:
        """Acknowledge the records; in any order, and again without harm."""
        self.is_done = True

    def accept(self) -> bool:
        """Take the next batch of its lane; False: the lane is closed.

        Raises:
            OrderError: an earlier batch of the lane never arrived.
        """
        lane = self._lane
        if lane.closed:
            return False
        if self._number != lane.accepted:
            raise OrderError(
                "batch_missing",
                f"batch {self._number} of {self.topic}[{self.partition}], up to offset {self.last}",
                f"batch {lane.accepted}",
                "start the worker again: it reads from the committed offset; report this, Faust dropped a batch without a seek",
                retryable=True,
            )
        lane.accepted += 1
        return True


class Precedence(NamedTuple):
    """Topics that are read only while there are no more undone records, in our partitions, of others than `undone` says."""

    later: frozenset[str]
    undone: Mapping[str, int]


class BatchSchema(faust.Schema[bytes, bytes]):
    """Hands on what `BatchConsumer.getmany` made: a `Batch` for a source topic, the records themselves for a changelog."""

    def compile(self, app: Any, **kwargs: Any) -> Any:  # noqa: ARG002 - upstream's signature
        """Replace serializers/schemas.py `Schema.compile`, whose closure decodes key and value."""
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001 - upstream's signature
            return create_event(None, message.value, message.headers, message)

        return decode


class FetchThread(driver.AIOKafkaConsumerThread):
    """Faust's reader with another wait."""

    logger = library_log

    def _create_worker_consumer(self, transport: Any) -> Any:
        # transport/drivers/aiokafka.py has `fetch_max_wait_ms=1500` and no setting for it
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = cast("BatchApp", self.app).fetch_wait_ms  # noqa: SLF001 # read by `AIOKafkaConsumer.start`
        return consumer


class BatchConsumer(driver.Consumer):
    """Delivers batches for the app's batch topics and changelogs, and commits by checkpoints."""

    app: BatchApp
    logger = library_log

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lanes: dict[TP, Lane] = {}
        self._epoch = 0  # counts seeks: records fetched before one must not be delivered after it
        self._handling: set[Batch] = set()
        self._held: set[TP] = set()  # not fetched for now, see Precedence
        self._rounds = 0  # fetches begun; when one begins, all that the one before brought is in the lanes
        self._ended = False

    # -- reading

    def _new_consumer_thread(self) -> Any:
        return FetchThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 - upstream's signature
        """Replace transport/consumer.py `Consumer.getmany`: `for tp, record in records_it: ... yield tp, to_message(tp, record)`.

        Upstream compares the generation with the one read after the fetch, and the flow only then; a fetch that was under way during a
        rebalance can pass both. Here epoch and generation are read before the fetch.
        """
        app = self.app
        self._rounds += 1
        await app.calm()
        if app.precedence is not None and self.flow_active:
            timeout = self._give_precedence(app.precedence, timeout)
        epoch, generation = self._epoch, app.consumer_generation_id
        records, active = await self._wait_next_records(timeout)
        if not records or self.should_stop:
            return
        if self._doubtful(epoch, generation):
            await self._rewind(records)
            return
        for fetched, part in _round_robin(records, app.batch_size):
            if self._doubtful(epoch, generation):
                return  # a seek follows or has happened: the rest comes again
            tp = ensure_TP(fetched)
            if active is not None and tp not in active and tp not in self._buffered_partitions:
                continue  # paused: before a seek, or for good where reading ends
            if (stop := app.until.get(tp)) is not None and part[-1].offset >= stop:
                self.pause_partitions([tp])
                part = [record for record in part if record.offset < stop]  # noqa: PLW2901 - what is left of it
                if not part:
                    continue
            app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            # consumer._drain_messages drops a message below this offset as read; a lane never goes back, but a late write of an old offset
            # (after `callback` was interrupted by a seek) would drop records that must be read again
            self._read_offset[tp] = None
            yield tp, self._batch_message(tp, part, generation)

    def _give_precedence(self, rule: Precedence, timeout: float) -> float:
        """Hold back what is to be read later, or read on; gives how long the fetch may wait.

        Only here, before a fetch: what was fetched of a partition that is paused meanwhile is dropped.
        """
        undone = dict.fromkeys(rule.undone, 0)
        for tp, lane in self._lanes.items():
            if tp.topic in undone and lane.base is not None:
                try:
                    end = self.highwater(tp)
                except (AssertionError, IllegalStateError):  # taken away in this moment
                    continue
                undone[tp.topic] += max(0, (end or 0) - (lane.committable() or lane.base))
        if any(count > rule.undone[topic] for topic, count in undone.items()):
            self._held = {tp for tp in self.assignment() if tp.topic in rule.later}
            self.pause_partitions(self._held)
            return min(timeout, HELD_S)
        ours = self.assignment()
        self.resume_partitions({tp for tp in self._held if tp in ours and self._reads_on(tp)})
        self._held.clear()
        return timeout

    def _reads_on(self, tp: TP) -> bool:
        """Whether reading of a partition has not come to its end."""
        stop, lane = self.app.until.get(tp), self._lanes.get(tp)
        return stop is None or lane is None or not lane.batches or lane.batches[-1].last + 1 < stop

    def _doubtful(self, epoch: int, generation: int) -> bool:
        """Whether what was fetched in this epoch and generation may not be delivered any more."""
        return not self.flow_active or epoch != self._epoch or generation != self.app.consumer_generation_id

    def _batch_message(self, tp: TP, records: Sequence[Any], generation: int) -> ConsumerMessage:
        last = records[-1]
        value: Any = records
        if tp.topic in self.app.batch_topics:
            lane = self._lanes.get(tp)
            if lane is None:
                lane = self._lanes[tp] = Lane()
                lane.base = records[0].offset
            value = Batch(tp.topic, tp.partition, records, lane)
            lane.sent += 1
            lane.batches.append(value)
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            None,
            None,
            value,
            None,
            0,
            0,
            tp,
            generation_id=generation,
        )

    def on_buffer_full(self, tp: TP) -> None:
        """Replace transport/consumer.py `active_partitions.discard(tp)`: without active partitions upstream sleeps for 1 s.

        A queue of batches is short; `put` on a full one makes the reader wait for exactly as long as it is full.
        """

    async def perform_seek(self) -> None:
        """Seek all partitions to their committed offsets, forgetting what was delivered since.

        Recovery calls this, then `flow_control.resume()`, which empties the agents' queues, then `resume_flow()`. A batch delivered between
        the seek and the emptying would be lost, so nothing is delivered until `resume_flow()`.
        """
        self.stop_flow()
        await self._seek_committed()

    async def _rewind(self, records: Iterable[Any]) -> None:
        """Undo a fetch from these partitions, whose records can't be delivered any more.

        Source partitions go back to what is committed, changelogs to what recovery has seen: a fetch under way when recovery sought
        its offsets may have taken records after the seek. Without this recovery would miss them, or wait for them for ever.
        """
        try:
            await self._seek_committed()
            recovery = cast("TableManager", self.app.tables).recovery
            again = {}
            for tp in filter(self._is_changelog_tp, map(ensure_TP, records)):
                seen = recovery.active_offsets.get(tp, recovery.standby_offsets.get(tp))
                if seen is not None:  # else recovery has not sought yet
                    again[tp] = max(0, seen)
            if again:
                await self.seek_wait(again)
        except (AssertionError, IllegalStateError):  # the assignment has gone meanwhile: the next one begins with a seek
            log.info("rewind_without_assignment")

    async def _seek_committed(self) -> None:
        self._epoch += 1
        self._close_lanes()
        await super().perform_seek()
        # aiokafka's seek_to_committed leaves a partition without a commit (or with 0) where the fetches have brought it
        unset = [tp for tp in self.assignment() if tp.topic in self.app.batch_topics and not self._committed_offset[tp]]
        if unset:
            await self._thread.seek_to_beginning(*(TopicPartition(tp.topic, tp.partition) for tp in unset))
        self._epoch += 1  # a fetch begun while the seek was under way is as doubtful as one begun before

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Look whether a partition stands still; not while aiokafka looks its position up: it would assert, and Faust would stop."""
        try:
            super().verify_event_path(now, tp)
        except (AssertionError, IllegalStateError):
            log.debug("no_position_yet topic=%s partition=%d", tp.topic, tp.partition)

    def _close_lanes(self) -> None:
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            lane.close()

    # -- handling

    async def handle(self, batch: Batch, handler: Handler) -> None:
        """Give a batch to its handler, unless it comes again anyway.

        Raises:
            OrderError: its predecessor was never handed over.
        """
        await self.app.admit()
        if self.app.failure is not None or not batch.accept():
            return
        self._handling.add(batch)
        try:
            await handler(batch)
        finally:
            self._handling.discard(batch)

    def _undone(self) -> bool:
        return any(batch.accepted and not batch.is_done for lane in self._lanes.values() for batch in lane.batches)

    # -- committing

    async def on_task_error(self, exc: BaseException) -> None:
        """Replace transport/consumer.py `await self.commit()`: after an error nothing is committed."""

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002 - upstream's signature
        """Replace transport/consumer.py `Consumer.force_commit`: a commit is a checkpoint."""
        if self._ended or self.app.failure is not None:
            return False
        try:
            return await self.app.checkpoint.run(self, whole=self.app.checkpoint.hurry or self.app.dirty >= self.app.max_dirty)
        except Exception as exc:  # noqa: BLE001 - whatever it is, rows and offsets can't be trusted to go together any more
            await self.app.fail(exc)
            return False

    def committable(self) -> Mapping[TP, int]:
        """Give the offsets up to which every record is done (see `checkpoint.Group`)."""
        found = ((tp, lane.committable()) for tp, lane in self._lanes.items())
        return {tp: offset for tp, offset in found if offset is not None}

    async def confirm(self) -> bool:
        """Commit one offset that the broker knows already: it refuses a member that it has given up."""
        known = {tp: lane.base for tp, lane in self._lanes.items()} or {
            tp: self._committed_offset[tp] for tp in self.assignment() if tp.topic in self.app.batch_topics
        }
        for tp, offset in known.items():
            if offset is not None:
                return await self._commit({tp: offset})
        return bool(self.assignment())  # nothing was ever read: nobody can have gone on from it

    async def commit_done(self, offsets: Mapping[TP, int]) -> bool:
        """Commit, if the lanes that were done are still open."""
        lanes = {tp: lane for tp in offsets if (lane := self._lanes.get(tp)) is not None}
        if len(lanes) != len(offsets) or not await self._commit(offsets):
            return False
        for tp, lane in lanes.items():
            lane.commit(offsets[tp])
        self._committed_offset.update(offsets)
        self.app.monitor.on_tp_commit(dict(offsets))
        return True

    async def positions(self, parts: Iterable[TP]) -> Positions:
        """Give how far the fetches have come in those of these partitions that are ours."""
        epoch, found = self._epoch, {}
        for tp in set(parts) & set(self.assignment()):
            try:
                offset = await self.position(tp)
            except (AssertionError, IllegalStateError):  # taken away in this moment, or not looked up yet
                continue
            if offset is not None:
                found[tp] = offset
        return Positions(epoch, self._rounds, found)  # the fetch that is under way now may have brought the last of it

    async def close_gaps(self, wanted: Mapping[TP, int], before: Positions) -> None:
        """Commit these offsets where nothing stands between them and what is committed: where the fetches had come as far `before`, and
        everything they brought is done and committed since.

        A transaction's marker and a compacted tombstone have an offset, but are never delivered: else a log whose end is one would never be
        read to its end.
        """
        if before.epoch != self._epoch or before.rounds >= self._rounds:  # sought since; or what was fetched then may be on its way
            return
        for tp, offset in wanted.items():
            lane = self._lanes.get(tp)
            if before.offsets.get(tp, -1) >= offset and (lane is None or not lane.batches) and await self._commit({tp: offset}):
                if lane is not None:
                    lane.base = offset
                self._committed_offset[tp] = offset

    async def wait_empty(self) -> None:
        """Finish: called with the flow stopped, before partitions are given back and before the tables close.

        Replaces transport/consumer.py `while not self.should_stop and self._unacked_messages`.
        """
        until = monotonic() + self.app.drain_s
        while self.app.failure is None and self._undone() and monotonic() < until:  # noqa: ASYNC110 - seldom; done() stays cheap
            await asyncio.sleep(0.002)
        if self._handling and self.app.failure is None:
            stuck = next(iter(self._handling))
            await self.app.fail(
                HandlerError(
                    "handler_stuck",
                    f"a batch of {stuck.topic}[{stuck.partition}] in its handler for more than {self.app.drain_s:g} s",
                    "handlers that return within that time",
                    "look at what the handler waits for",
                    retryable=True,
                )
            )
        try:
            if self.app.failure is None and not self._ended:
                with self.app.checkpoint.hurrying():
                    await asyncio.wait_for(self.force_commit(), self.app.drain_s)
        except TimeoutError:
            log.warning("checkpoint_unfinished remedy='records since the last one come again' timeout_s=%g", self.app.drain_s)
        finally:
            self._epoch += 1
            self._close_lanes()
            for table in self.app.checkpoint_tables:
                table.release()

    async def on_stop(self) -> None:
        """Stop; the final checkpoint was made before the tables closed (`App._stop_consumer`)."""
        self._ended = True
        await super().on_stop()


class Positions(NamedTuple):
    """How far fetches had come, and at which fetch of which epoch that was."""

    epoch: int
    rounds: int
    offsets: Mapping[TP, int]


class BackfillAssignor(PartitionAssignor):
    """Faust's assignor under another name: the broker keeps members that use it and others apart (`streams.group`)."""

    @property
    def name(self) -> str:
        return BACKFILL


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with `BatchConsumer`."""

    Consumer: ClassVar[type[Any]] = BatchConsumer


class HeadlessBoot(BootStrategy):
    """Starts what Faust starts, but its web server: the worker serves its own."""

    enable_web = False


class BatchApp(faust.App):
    """A Faust app whose agents get batches and whose commits are checkpoints.

    Args:
        name: the consumer group.
        bootstrap: the brokers, `host:port,host:port`.
        outbox: where everything that the worker publishes goes, changelogs too.
        datadir: where RocksDB keeps its files.
        partitions: partitions of the batch topics and tables, unless given there.
        prefix: the installation's topic prefix.
        commit_interval_s: seconds between checkpoints.
        session_timeout_s: after this long without a sign of life the group gives our partitions to others.
        batch_size: records in a batch at most.
        max_dirty: dirty rows at which a checkpoint is made at once.
        drain_s: how long a rebalance or the end waits for batches under way.
        fetch_wait_ms: how long a broker may keep a fetch without records.
        precedence: what is read later than other things.
        until: offsets at which reading ends, of some partitions: records from there on are neither delivered nor committed.
        credentials: Faust's `broker_credentials` (TLS, SASL).
        settings: further settings of Faust; they win.
    """

    BootStrategy = HeadlessBoot
    logger = library_log
    checkpoint_tables: Sequence[CheckpointTable[Any]]

    def __init__(
        self,
        name: str,
        *,
        bootstrap: str,
        outbox: Outbox,
        datadir: str | Path,
        partitions: int,
        prefix: str = "",
        commit_interval_s: float = 3.0,
        session_timeout_s: float = 10.0,
        batch_size: int = BATCH_SIZE,
        max_dirty: int = MAX_DIRTY,
        drain_s: float = DRAIN_S,
        fetch_wait_ms: int = FETCH_WAIT_MS,
        precedence: Precedence | None = None,
        until: Mapping[TP, int] | None = None,
        credentials: Any = None,
        **settings: Any,
    ) -> None:
        self.outbox = outbox
        self.prefix = prefix
        self.partitions = partitions
        self.batch_size = batch_size
        self.max_dirty = max_dirty
        self.drain_s = drain_s
        self.fetch_wait_ms = fetch_wait_ms
        self.precedence = precedence
        self.until = until or {}
        self.failure: BaseException | None = None
        self.batch_topics: set[str] = set()
        self._checkpoint_tables: list[CheckpointTable[Any]] = []
        self.checkpoint_tables = self._checkpoint_tables
        self.checkpoint = Checkpoint(self._checkpoint_tables, outbox)
        self.busy: Callable[[], bool] = lambda: False
        """Whether what was read is still being worked on."""
        for logger in QUIET_LOGGERS:
            logging.getLogger(logger).setLevel(logging.WARNING)
        logging.getLogger("mode.timers").setLevel(logging.ERROR)  # a checkpoint may take longer than the interval
        super().__init__(
            name,
            **{
                "autodiscover": False,
                "broker": [f"kafka://{address.strip()}" for address in bootstrap.split(",")],
                "broker_commit_interval": commit_interval_s,
                "broker_credentials": credentials,
                "broker_heartbeat_interval": session_timeout_s / 3,
                "broker_max_poll_records": 4 * batch_size,
                "broker_session_timeout": session_timeout_s,
                "consumer_auto_offset_reset": "earliest",  # perform_seek relies on it
                "datadir": Path(datadir),
                "key_serializer": "raw",
                "store": "rocksdb://",
                "stream_buffer_maxsize": QUEUED_BATCHES,  # counts batches
                # Faust's default is one hot copy of each partition: twice the rows and the changelog traffic, and a second way to recover.
                # Recovery from the changelog is what the fault tests prove.
                "table_standby_replicas": 0,
                "stream_wait_empty": True,  # calls BatchConsumer.wait_empty
                "topic_allow_declare": False,  # topics are made by `headwater topics create`
                "topic_disable_leader": True,
                "topic_partitions": partitions,
                "value_serializer": "raw",
                "web_enabled": False,
                "worker_redirect_stdouts": False,
                **settings,
            },
        )

    # -- declaring

    def checkpoint_table(
        self,
        name: str,
        *,
        new: Callable[[], R],
        encode: Callable[[R], bytes],
        decode: Callable[[bytes], R],
        partitions: int | None = None,
        max_rows: int = MAX_ROWS,
        **options: Any,
    ) -> CheckpointTable[R]:
        """Declare a table; see `CheckpointTable` for the arguments."""
        table: CheckpointTable[R] = CheckpointTable(
            self,
            name=name,
            partitions=partitions or self.partitions,
            new=new,
            encode=encode,
            decode=decode,
            max_rows=max_rows,
            prefix=self.prefix,
            schema=BatchSchema(),
            **options,
        )
        self.tables.add(table)
        self._checkpoint_tables.append(table)
        return table

    def batch_agent(self, topic: str, handler: Handler, *, partitions: int | None = None) -> None:
        """Declare that the records of a topic (full name) go to a handler, in order within a partition.

        An exception in the handler stops the worker with that error; the batch is not acknowledged. Handlers of different topics take turns
        wherever they await.
        """
        self.batch_topics.add(topic)
        channel = self.topic(topic, schema=BatchSchema(), partitions=partitions or self.partitions, acks=False)

        async def run(stream: Any) -> None:
            consumer = cast("BatchConsumer", self.consumer)
            async for batch in stream:
                try:
                    await consumer.handle(batch, handler)
                except Exception as exc:  # noqa: BLE001 - whatever it is, going on would lose it
                    await self.fail(exc)
                    await asyncio.Event().wait()  # until the worker's end cancels this agent

        self.agent(channel, name=f"batch.{topic}")(run)

    # -- running

    async def calm(self) -> None:
        """Return when the next fetch may begin: at once, or a little later while there is work enough (`busy`).

        What has come meanwhile comes in one go: a fetch and a batch have their price, however few records they bring.
        """
        until = monotonic() + CALM_S
        while self.busy() and monotonic() < until:  # noqa: ASYNC110 - a millisecond or four
            await asyncio.sleep(0.001)

    @property
    def dirty(self) -> int:
        """Rows changed since the last checkpoint, in all tables."""
        return sum(table.dirty for table in self.checkpoint_tables)

    async def admit(self) -> None:
        """Return when another batch may begin: few enough records under way, and few enough dirty rows.

        Raises:
            DeliveryError: a record could not be delivered.
        """
        await self.outbox.ready()
        if self.dirty < self.max_dirty:
            return
        if not self.checkpoint.running:
            self.add_future(self.consumer.commit())
        if self.dirty < 2 * self.max_dirty:
            return
        with self.checkpoint.hurrying():
            while self.dirty >= 2 * self.max_dirty and self.checkpoint.running and self.failure is None:  # noqa: ASYNC110 - seldom
                await asyncio.sleep(0.005)

    async def fail(self, exc: BaseException) -> None:
        """Stop the worker: nothing is committed from now on. The first failure is the one that is reported."""
        if self.failure is None:
            self.failure = exc
            log.critical("worker_failed error=%r", exc, exc_info=exc)
        await self.crash(self.failure)

    @Service.task
    async def _watch_outbox(self) -> None:
        """Take acknowledgements also while nothing is published, and stop the worker when a record was refused."""
        while not self.should_stop:
            try:
                self.outbox.poll()
                await self.outbox.ready()
            except HeadwaterError as exc:
                await self.fail(exc)
                return
            await asyncio.sleep(0.02)

    def _new_transport(self) -> Any:
        # replaces app/base.py `return transport.by_url(self.conf.broker_consumer[0])(self.conf.broker_consumer, self)`
        return BatchTransport(self.conf.broker_consumer, self)


def run_app(app: BatchApp) -> int:
    """Run a worker until SIGTERM or SIGINT, or until it fails; give its exit status (0 or 1). Logging is left as it is.

    Replaces `faust.Worker`, which takes over logging, signals and standard output, and sleeps for 1 s at the end.
    """
    return asyncio.run(serve_app(app))


async def serve_app(app: BatchApp, signalled: asyncio.Event | None = None) -> int:
    """Run a worker in this event loop; see `run_app`. It also ends when `signalled` is set."""
    loop = asyncio.get_running_loop()
    signalled = signalled or asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    app.in_worker = True
    gc.set_threshold(*GC_THRESHOLDS)
    tasks = [asyncio.ensure_future(work) for work in (app.start(), signalled.wait(), app.wait_until_stopped())]
    starting, *ends = tasks
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and starting.exception() is None:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        elif starting.done():
            await app.fail(cast("BaseException", starting.exception()))
        await app.stop()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        app.outbox.close()
    reason = app.failure or app.crash_reason
    if reason is not None:
        log.critical("worker_stopped error=%r", reason)
    return 0 if reason is None else 1


def _round_robin(records: Mapping[Any, Sequence[Any]], size: int) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Cut each partition's records into chunks and take turns between partitions, so that none waits for another's whole backlog."""
    left = deque((tp, part, 0) for tp, part in records.items())
    while left:
        tp, part, at = left.popleft()
        yield tp, part[at : at + size]
        if at + size < len(part):
            left.append((tp, part, at + size))
