"""Fetching batches through Faust, and committing what is done of them by checkpoints. The overrides of Faust's consumer and its driver.

What is overridden, and the upstream code it replaces (faust-streaming 0.15.3; tests/test_upstream.py fails when that changes):

* `BatchConsumer.getmany` (transport/consumer.py): one message per chunk of records; nothing fetched before a seek is delivered after it.
* `BatchConsumer.perform_seek` (transport/consumer.py): forget what was delivered; nothing flows until `resume_flow`; partitions without a
  commit are sought too.
* `BatchConsumer.force_commit` (transport/consumer.py): a commit is a checkpoint.
* `BatchConsumer.wait_empty` (transport/consumer.py): before a rebalance and at the end, finish batches, checkpoint, let go of the rows.
* `BatchConsumer.on_buffer_full` (transport/consumer.py): a full queue makes the reader wait, without a pause of 1 s.
* `BatchConsumer.on_task_error` (transport/consumer.py): no commit after an error.
* `FetchThread._create_worker_consumer`, `BatchConsumer._new_consumer_thread` (transport/drivers/aiokafka.py): how long a fetch may wait.
* `BackfillAssignor.name` (assignor/partition_assignor.py): the name under which members of the group share partitions.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from aiokafka.errors import IllegalStateError
from aiokafka.structs import TopicPartition
from faust.assignor.partition_assignor import PartitionAssignor
from faust.tables.manager import TableManager
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from engine.errors import HeadwaterError
from streams.group import BACKFILL
from streams.lane import Batch, Handler, Lane

if TYPE_CHECKING:
    from streams.batch import BatchApp

HELD_S = 0.05
"""How long a fetch waits while some partitions are held back: they may be read on as soon as others are done."""

log = logging.getLogger(__name__)
library_log = logging.getLogger("faust.batch")
"""What the libraries' base classes log in our subclasses' name goes where their other lines go."""


class HandlerError(HeadwaterError):
    """A handler raised, or did not return in time; its batch was not acknowledged."""


class Precedence(NamedTuple):
    """Topics that are read only while there are no more undone records, in our partitions, of others than `undone` says."""

    later: frozenset[str]
    undone: Mapping[str, int]


class Positions(NamedTuple):
    """How far fetches had come, and at which fetch of which epoch that was."""

    epoch: int
    rounds: int
    offsets: Mapping[TP, int]


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
        self.add_future(self._tell_expired())

    async def _tell_expired(self) -> None:
        """Say what the brokers deleted before it was read. Reading goes on with the first record that is still there."""
        try:
            sources = [tp for tp in self.assignment() if tp.topic in self.app.batch_topics]
            offsets = {tp: offset for tp in sources if (offset := self._committed_offset[tp])}
            firsts = await self.earliest_offsets(*offsets)
        except Exception as error:  # noqa: BLE001 - a broker is away, or the consumer stops: no worker ends for want of a line in its log
            log.info("expired_unknown reason=%r", error)
            return
        remedy = "they were deleted before a worker read them: let no worker be away for longer than the topic's retention"
        for tp, offset in offsets.items():
            first = firsts.get(TopicPartition(tp.topic, tp.partition))
            if first is not None and first > offset:
                log.error("records_expired topic=%s partition=%d from=%d to=%d remedy=%r", *tp, offset, first - 1, remedy)

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
        for tp, offset in wanted.items():
            # looked at again before each commit: a rebalance that begins during one stops the flow, cuts fetches short and closes the lanes
            if not self.flow_active or before.epoch != self._epoch:
                return
            if before.rounds >= self._rounds:  # what was fetched then may be on its way
                return
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
            self._held.clear()  # Faust has paused all, and resumes all when the tables are recovered: not a part of them before
            for table in self.app.checkpoint_tables:
                table.release()

    async def on_stop(self) -> None:
        """Stop; the final checkpoint was made before the tables closed (`App._stop_consumer`)."""
        self._ended = True
        await super().on_stop()


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with `BatchConsumer`."""

    Consumer: ClassVar[type[Any]] = BatchConsumer


class BackfillAssignor(PartitionAssignor):
    """Faust's assignor under another name: the broker keeps members that use it and others apart (`streams.group`)."""

    @property
    def name(self) -> str:
        return BACKFILL


def _round_robin(records: Mapping[Any, Sequence[Any]], size: int) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Cut each partition's records into chunks and take turns between partitions, so that none waits for another's whole backlog."""
    left = deque((tp, part, 0) for tp, part in records.items())
    while left:
        tp, part, at = left.popleft()
        yield tp, part[at : at + size]
        if at + size < len(part):
            left.append((tp, part, at + size))
