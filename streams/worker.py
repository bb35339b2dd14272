"""The worker: puts the parts together and runs them. What each part does stands in its own module.

Order of the start: 1 topics, rights and log epochs are checked; 2 the web listens (not ready); 3 the broadcast topics are read to the end,
and the active generation is loaded and proven; 4 Faust joins the group, recovers its tables, and the agents begin; 5 ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import msgspec
from aiokafka.errors import IllegalStateError
from faust.assignor.partition_assignor import PartitionAssignor

from engine.document import MAX_RECORD_BYTES
from engine.errors import StateError
from engine.fatigue import KEPT
from engine.item import ItemState, decode_item, encode_item
from engine.item import warm_up as warm_up_counting
from engine.model import Model, warm_up
from engine.pairs import Decay
from engine.policy import Variety
from engine.registry import Registry
from engine.user import Limits, UserState, decode_user, encode_user
from streams import rights, security, topics
from streams.asking import Asking
from streams.authors import Authors
from streams.batch import BATCH_SIZE, FETCH_WAIT_MS, MOCK_FETCH_WAIT_MS, BatchApp, serve_app
from streams.broadcast import Broadcast
from streams.consumer import BackfillAssignor, BatchConsumer, Precedence
from streams.deadletters import DeadLetters
from streams.engine_thread import EngineThread
from streams.epochs import Epochs
from streams.group import BACKFILL, Group
from streams.intake import Intake, IntakeRules
from streams.itemowner import PER_TICK, ItemOwner
from streams.learner import Learner
from streams.listmaker import ListMaker, Targets
from streams.logs import configure, logger
from streams.metrics import Metrics
from streams.outbox import Outbox
from streams.people import People
from streams.republisher import Republisher
from streams.settings import Settings
from streams.shared import Shared
from streams.span import Span
from streams.web import serve
from streams.withdrawals import ITEMS, RULES, Withdrawals

SOURCES = {"events": "events", "_events": "routed_events", "users": "users", "requests": "requests", "_pairs": "pairs"}
"""Sources whose offsets stand in state, by the name of `Names`."""
MIB = 1024 * 1024
WATCH_S = 1.0
ITEMS_EVERY = 4
"""Checkpoints of which one writes the items' rows: up to 15 kB each, and a few hundred events change them all."""
HOLD_S = 0.2
"""How long pair deltas wait for more. A record costs some 300 µs on its way through Faust, so one per event and partition would cost more
than the event's list; neighbours are published every 0.25 s at best, so nobody waits longer."""

BACKFILL_BATCH = 2 * BATCH_SIZE
"""Records in one batch of a backfill: nobody's list waits for it."""
BACKFILL_PAIRS, BACKFILL_EXAMPLES = 16, 400
"""Records of pairs, some 500 events each, and examples that may wait to be counted and learned while further events are read: an example is
made of what was known then, but for some thousand events."""
BACKFILL_PER_TICK = 3 * PER_TICK
"""Neighbour lists chosen in one tick of a backfill, 18 ms: examples are made of a past that goes by faster, and are to know of it."""

log = logger(__name__)


class Worker:
    """All parts of one worker process. Must be made inside the event loop that runs it.

    `span`: it backfills (`streams.backfill`): it reads events so far only, makes no lists, and leaves requests to others.
    """

    def __init__(self, settings: Settings, *, accept_new_logs: bool = False, lists: bool = True, span: Span | None = None) -> None:
        self.settings = settings
        lists = lists and span is None
        self.ended = asyncio.Event()
        """Set it to end the worker in good order."""
        self.metrics = metrics = Metrics()
        client = topics.admin(settings)
        wanted = topics.topics(settings)
        is_mock = topics.look(client).is_mock
        if is_mock:
            topics.create(client, wanted)  # the embedded broker makes topics when asked about them
        n = topics.count(client, settings)
        self.names = names = topics.Names.under(settings.prefix)
        if not is_mock:
            rights.check(client, rights.of_worker(names), settings.app_id)
        self._shared_partitions = topics.look(client).partitions
        logs = {**SOURCES, ITEMS: ITEMS, RULES: RULES}
        ids = topics.epochs(client, [getattr(names, field) for field in logs.values()])
        self.epochs = Epochs({source: ids[getattr(names, field)] for source, field in logs.items()}, accept=accept_new_logs)
        largest = (
            max(settings.max_record_bytes, MAX_RECORD_BYTES) + topics.BATCH_OVERHEAD
        )  # a row or a dead letter may be larger than an event
        self.outbox = Outbox({**security.librdkafka(settings), "message.max.bytes": largest})
        credentials = security.faust(settings).get("broker_credentials")
        ahead = {names.pairs: BACKFILL_PAIRS, names.examples: BACKFILL_EXAMPLES}
        self.app = BatchApp(
            settings.app_id,
            bootstrap=",".join(settings.addresses),
            outbox=self.outbox,
            datadir=settings.state_dir,
            partitions=n,
            prefix=settings.prefix,
            commit_interval_s=settings.checkpoint_interval_s,
            session_timeout_s=settings.session_timeout_s,
            fetch_wait_ms=MOCK_FETCH_WAIT_MS if is_mock else FETCH_WAIT_MS,
            batch_size=BATCH_SIZE if span is None else BACKFILL_BATCH,
            precedence=None if span is None else Precedence(frozenset([names.events]), ahead),
            until={} if span is None else span.until,
            credentials=credentials,
            PartitionAssignor=PartitionAssignor if span is None else BackfillAssignor,
        )
        budget = {
            "block_cache_bytes": max(1, settings.block_cache_mb // (2 * n)) * MIB,
            "write_buffer_bytes": settings.write_buffer_mb * MIB,
            "max_rows": settings.rows_in_memory,
        }
        self.users = self.app.checkpoint_table("users", new=UserState, encode=encode_user, decode=decode_user, **budget)
        self.items = self.app.checkpoint_table(
            "items",
            new=ItemState,
            encode=encode_item,
            decode=decode_item,
            every=ITEMS_EVERY,
            sources=(names.pairs, names.examples),
            **budget,
        )
        self.engine = EngineThread()
        decay = Decay()
        self.model = Model(decay=decay, neighbours=settings.neighbour_cap)
        self.model.fatigue = settings.fatigue
        self.model.variety = Variety(settings.diversity, settings.most_per_creator, settings.most_per_category)
        registry = Registry(settings.registry, settings.registry_cache)
        withdrawals = Withdrawals(self.model.catalogue, {source: self.epochs.of(source) for source in (ITEMS, RULES)})
        self.shared = Shared(self.model, self.engine, registry, names, metrics, withdrawals, threads=settings.encoder_threads)
        dead = DeadLetters(self.outbox, names.dead_letters, metrics)
        targets = Targets(
            names.recommendations,
            names.responses,
            names.examples,
            settings.list_size,
            round(settings.list_ttl_s * 1000),
            settings.max_record_bytes,
        )
        self.maker = ListMaker(
            self.users,
            self.model,
            self.engine,
            self.outbox,
            metrics,
            targets,
            size=settings.scoring_batch,
            encode_example=msgspec.msgpack.Encoder().encode,
            latest=lambda: self.shared.latest,
            known=lambda: self.shared.known_uses,
        )
        republisher = Republisher(
            self.users,
            self.maker,
            self.model,
            withdrawals,
            metrics,
            rules=lambda: self.shared.rules,
            known=lambda: self.shared.known_uses,
            renew_per_s=settings.renew_lists_per_s,
        )
        self._more = [republisher.run] if lists else []
        self.app.busy = self.maker.busy
        limits = Limits(
            history=settings.history_size,
            seen=settings.seen_cap,
            event_ids=settings.dedupe_events,
            event_id_age_ms=round(settings.dedupe_days * 86_400_000),
            pair_window=settings.pair_window,
            weights=settings.event_weights,
            shown=KEPT if settings.fatigue else 0,
        )
        rules = IntakeRules(
            n,
            settings.surfaces,
            limits,
            settings.event_weights,
            settings.max_record_bytes,
            round(settings.future_tolerance_s * 1000),
            settings.examples_per_s if lists else 0.0,
            lists,
            HOLD_S,
            None if span is None else span.chosen,
            settings.objective,
        )
        self.intakes: list[Intake] = []
        for source in ("events", "_events"):
            intake = Intake(
                source,
                self.users,
                self.maker,
                self.outbox,
                dead,
                metrics,
                self.epochs,
                rules,
                routed_topic=names.routed_events,
                pairs_topic=names.pairs,
                generation=lambda: self.model.generation,
            )
            self.intakes.append(intake)
            self.app.checkpoint.before.append(intake.flush)
            self.app.batch_agent(getattr(names, SOURCES[source]), intake.handle)
        self.owner = ItemOwner(
            self.items,
            self.model,
            self.engine,
            self.outbox,
            metrics,
            self.epochs,
            partitions=n,
            window=settings.pair_window,
            decay=decay,
            topic=names.item_stats,
            per_tick=PER_TICK if span is None else BACKFILL_PER_TICK,
            reading=lambda: bool(cast("BatchConsumer", self.app.consumer).flow_active),
        )
        self.learner = Learner(self.items, self.outbox, names.weights, self.shared.first_weights, lambda: self.model.ranker)
        self.authors = Authors(self.shared, self.outbox, dead, metrics, vectors_topic=names.vectors, owned=self._owned_items)
        people = People(
            self.users,
            self.maker,
            self.outbox,
            dead,
            metrics,
            self.epochs,
            partitions=n,
            surfaces=settings.surfaces,
            tolerance_ms=round(settings.future_tolerance_s * 1000),
            topic=names.users,
            routed_topic=names.routed_events,
            lists=lists,
        )
        asking = Asking(
            self.users,
            self.maker,
            self.outbox,
            dead,
            metrics,
            self.epochs,
            partitions=n,
            max_bytes=settings.max_record_bytes,
            topic=names.requests,
            encode_query=self.authors.query,
        )
        self.app.batch_agent(names.users, people.handle)
        if span is None:
            self.app.batch_agent(names.requests, asking.handle)
        self.app.batch_agent(names.pairs, self.owner.handle)
        self.app.batch_agent(names.examples, self.learner.handle)
        for topic, handler in (
            (names.items, self.authors.items),
            (names.rules, self.authors.rules),
            (names.generations, self.authors.generations),
        ):
            self.app.batch_agent(topic, handler, partitions=self._shared_partitions[topic])
        shared_topics = [names.items, names.rules, names.generations, names.item_stats, names.vectors, names.weights]
        self.broadcast = Broadcast(security.librdkafka(settings), shared_topics, self.shared.apply)

    def waiting_for(self) -> str:
        """What keeps this worker from making lists; "" when nothing does."""
        if self.app.failure is not None:
            return "stopping after a failure"
        if not self.broadcast.caught_up.is_set():
            return "reading what all workers need"
        if not self.users.owned:
            return "partitions and their state"
        return ""

    async def run(self, *more: Callable[[], Coroutine[Any, Any, None]]) -> int:
        """Run until SIGTERM, SIGINT, `ended` or a failure; the exit status. `more`: further parts."""
        settings = self.settings
        web = await serve(settings.web_host, settings.web_port, self.metrics.registry, self.waiting_for)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self.engine.call(warm_up)
            await self.engine.call(warm_up_counting)
            self.broadcast.start()
            await self.broadcast.caught_up.wait()
            if self.broadcast.failure is not None:
                raise self.broadcast.failure
            await self.shared.switch()
            log.info(
                "worker_starting",
                broker=settings.broker,
                generation=self.model.generation,
                items=len(self.model.catalogue),
                web=f"http://{settings.web_host}:{settings.web_port}",
            )
            intakes = (intake.run() for intake in self.intakes)
            parts = (self.maker.run(), self.owner.run(), self.learner.run(), self.authors.run(), self.shared.run(), self._watch(), *intakes)
            parts = (*parts, *(part() for part in (*self._more, *more)))
            tasks += [asyncio.create_task(self._guard(part)) for part in parts]
            return await serve_app(self.app, self.ended)
        finally:
            await self.broadcast.stop()  # first: a cancelled list lets go of the model while its loops may still read it
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.engine.close()
            await web.cleanup()

    async def _guard(self, part: Coroutine[Any, Any, None]) -> None:
        """A part that fails stops the worker: nothing goes on half."""
        try:
            await part
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, what waits for this part would wait for ever
            await self.app.fail(error)

    async def _watch(self) -> None:
        """Keep the gauges up to date, and stop when the broadcast reader fails."""
        announced = False
        while True:
            await asyncio.sleep(WATCH_S)
            if self.broadcast.failure is not None:
                raise self.broadcast.failure
            if not announced and not self.waiting_for():
                announced = True
                log.info("worker_ready", partitions=[rows.partition for rows in self.users.owned])
            for name, table in (("users", self.users), ("items", self.items)):
                self.metrics.rows.labels(name).set(sum(len(rows) for rows in table.owned))
            self.metrics.pending.set(self.maker.waiting)
            self.metrics.republish_pending.set(self.maker.waiting_again)
            stats = self.app.checkpoint.stats
            self.metrics.checkpoint.set(stats.last_s)
            self.metrics.checkpoints.set(stats.runs)
            self._lag()

    def _lag(self) -> None:
        """Records of `events` between the committed offset and the end that the last fetch told of."""
        consumer, lag = self.app.consumer, self.metrics.lag
        lag.clear()  # partitions that went elsewhere are not ours to report
        for tp in consumer.assignment() if self.users.owned else ():
            if tp.topic == self.names.events:
                try:
                    end = consumer.highwater(tp)
                except (AssertionError, IllegalStateError):  # taken away in this moment: Kafka's reader is a thread of its own
                    continue
                committed = self.app.monitor.tp_committed_offsets.get(tp)
                if committed is not None and end is not None:  # None: nothing was fetched yet
                    lag.labels(tp.topic, tp.partition).set(max(0, end - committed))

    def _owned_items(self) -> tuple[set[int], int]:
        """Partitions of `items` that this worker owns, and how many there are."""
        assigned = self.app.consumer.assignment() if self.users.owned else ()
        owned = {tp.partition for tp in assigned if tp.topic == self.names.items}
        return owned, self._shared_partitions[self.names.items]


def main(settings: Settings, *, accept_new_logs: bool = False, lists: bool = True) -> int:
    """Run a worker in this process until it is told to stop; the exit status.

    Raises:
        TopicError, BrokerError, BadSettings: it cannot start.
        StateError: a backfill is under way.
    """
    configure(settings.log_level, settings.log_format)

    async def run() -> int:
        worker = Worker(settings, accept_new_logs=accept_new_logs, lists=lists)  # which looks at topics and rights first
        with Group(settings) as group:
            if group.protocol() == BACKFILL:
                remedy = "start workers when it is done; if it was killed, run it again, or wait for its session to end"
                raise StateError("backfill_under_way", f"a backfill in the group {group.name}", "workers only", remedy, retryable=True)
        return await worker.run()

    return asyncio.run(run())
