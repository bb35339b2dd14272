"""Takes in requests for a list now: plain, rerank, more like this, search. The agent of `requests`; the list maker answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from engine.decode import decode_request
from engine.errors import BadRecord
from engine.lists import Trigger
from engine.partition import hash64, partition_of
from engine.user import Position, UserState, user_key
from streams.deadletters import DeadLetters
from streams.epochs import Epochs
from streams.jobs import Answer, Owed, Query
from streams.lane import Batch
from streams.listmaker import ListMaker
from streams.logs import logger
from streams.metrics import Metrics
from streams.outbox import Outbox
from streams.table import CheckpointTable, NotOwnedError

SOURCE = "requests"
NO_QUERY = "the search is by words only: no generation is active"
BAD_QUERY = "the search is by words only: it could not be encoded"
PATIENCE_S = 0.05
"""How long a request waits for the event it names (contract)."""
LOOK_S = 0.002

log = logger(__name__)


class Asking:
    """The handler of `requests`. `encode_query`: text -> its vector with the generation it is of, or None without an encoder."""

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
        max_bytes: int,
        topic: str,
        encode_query: Callable[[str], Awaitable[Query | None]],
    ) -> None:
        self._users, self._maker, self._outbox, self._dead, self._epochs = users, maker, outbox, dead, epochs
        self._n, self._max_bytes, self._topic, self._encode_query = partitions, max_bytes, topic, encode_query
        self._rerouted = metrics.rerouted.labels(SOURCE)
        self._waiting: set[asyncio.Task[None]] = set()

    async def handle(self, batch: Batch) -> None:
        """Queue the requests of a batch."""
        epoch = self._epochs.check(self._users.rows(batch.partition), SOURCE)
        owed = Owed(batch)
        for record in batch.records:
            position = Position(SOURCE, epoch, batch.partition, record.offset)
            try:
                request = decode_request(record.value, record.key, now_ms=record.timestamp, max_bytes=self._max_bytes)
            except BadRecord as problem:
                self._dead.send(problem, record)
                continue
            right = partition_of(record.key, self._n)
            if right != batch.partition:
                self._outbox.publish(self._topic, record.key, record.value, right)
                self._rerouted.inc()
                continue
            trigger = Trigger("request", request.request_id, request.timestamp, position)
            job = Answer(batch.partition, request, trigger, owed, self._prepare)
            if request.after_event_id is None and not request.query:
                self._maker.answer(job)
            else:
                self._prepare(job)
        owed.paid()

    def _prepare(self, job: Answer) -> None:
        """Have a request answered once it has what it needs, also one whose query must be encoded again; it is owed until then."""
        job.owed.jobs += 1
        task = asyncio.create_task(self._prepared(job))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _prepared(self, job: Answer) -> None:
        """Wait for the event, encode the query, then queue."""
        request = job.request
        if request.after_event_id is not None and job.query is None:
            wanted, until = hash64(request.after_event_id), monotonic() + PATIENCE_S
            while not (there := self._has(job.partition, request.user_id, wanted)) and monotonic() < until:  # noqa: ASYNC110 - seldom, 25 looks
                await asyncio.sleep(LOOK_S)
            job.stale = not there
        if request.query:
            try:
                job.query = await self._encode_query(request.query)
                job.note = NO_QUERY if job.query is None else ""
            except Exception as error:
                log.exception("query_not_encoded", position=str(job.trigger.position), error=repr(error))
                job.query, job.note = None, BAD_QUERY
        self._maker.answer(job)
        job.owed.paid()

    def _has(self, partition: int, user_id: str, event_id: int) -> bool:
        try:
            row = self._users.rows(partition).get(user_key(user_id.encode()))
        except NotOwnedError:
            return True  # answered by the next owner
        return row is not None and event_id in row.event_ids
