"""A batch path through Faust: whole fetched batches to a handler, acknowledged late and in any order.

Stock Faust (faust-streaming 0.15.3) makes a message, an event and several futures of each record: 1,500-1,800 records/s with state and
output. Here one Faust message stands for up to `batch_size` records of one partition. Every override of Faust stands in this module, in
`streams.consumer` and in `streams.table`. Here, with the upstream code it replaces (tests/test_upstream.py fails when that changes):

* `BatchSchema.compile` (serializers/schemas.py): no decoding, the records go to the handler as they were fetched.
* `BatchTransport`, `BatchApp._new_transport` (transport/drivers/aiokafka.py, app/base.py): plug `BatchConsumer` in.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar, cast

import faust
from faust.app.base import BootStrategy
from faust.types import TP
from mode import Service

from engine.errors import HeadwaterError
from streams.checkpoint import Checkpoint
from streams.consumer import BatchConsumer, BatchTransport, Precedence, library_log
from streams.lane import Handler
from streams.outbox import Outbox
from streams.table import MAX_ROWS, CheckpointTable

R = TypeVar("R")

BATCH_SIZE = 500
"""Records in one batch at most: at 20 µs a record 10 ms, the longest that another partition's list waits for it."""
QUEUED_BATCHES = 16
"""Batches waiting before a handler: 8,000 records, and what is lost work when a rebalance empties the queue."""
MAX_DIRTY = 20_000
"""Dirty rows at which a checkpoint is made at once; at twice as many reading waits for it. At 1 kB a row 40 MB are encoded at most."""
CALM_S = 0.004
"""How long the next fetch waits at most while there is work."""
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


class BatchSchema(faust.Schema[bytes, bytes]):
    """Hands on what `BatchConsumer.getmany` made: a `Batch` for a source topic, the records themselves for a changelog."""

    def compile(self, app: Any, **kwargs: Any) -> Any:  # noqa: ARG002 - upstream's signature
        """Replace serializers/schemas.py `Schema.compile`, whose closure decodes key and value."""
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001 - upstream's signature
            return create_event(None, message.value, message.headers, message)

        return decode


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
