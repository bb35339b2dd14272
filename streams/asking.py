"""Takes in requests for a list now: plain, rerank, more like this, search. The agent of `requests`; the list maker answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from engine.decode import decode_request
from engine.errors import BadRecord
from engine.lists import Trigger
from engine.partition import hash64, partition_of
from engine.records import Request
from engine.user import Position, UserState, user_key
from streams.batch import Batch
from streams.deadletters import DeadLetters
from streams.epochs import Epochs
from streams.listmaker import Answer, ListMaker, Owed
from streams.outbox import Outbox
from streams.table import CheckpointTable, NotOwnedError

SOURCE = "requests"
PATIENCE_S = 0.05
"""How long a request waits for the event it names (contract)."""
LOOK_S = 0.002


class Asking:
    """The handler of `requests`. `encode_query`: text -> centred unit vector (D,), or None without an encoder."""

    def __init__(
        self,
        users: CheckpointTable[UserState],
        maker: ListMaker,
        outbox: Outbox,
        dead: DeadLetters,
        epochs: Epochs,
        *,
        partitions: int,
        topic: str,
        encode_query: Callable[[str], Awaitable[Any]],
    ) -> None:
        self._users, self._maker, self._outbox, self._dead, self._epochs = users, maker, outbox, dead, epochs
        self._n, self._topic, self._encode_query = partitions, topic, encode_query
        self._waiting: set[asyncio.Task[None]] = set()

    async def handle(self, batch: Batch) -> None:
        """Queue the requests of a batch."""
        epoch = self._epochs.check(self._users.rows(batch.partition), SOURCE)
        owed = Owed(batch)
        for record in batch.records:
            position = Position(SOURCE, epoch, batch.partition, record.offset)
            try:
                request = decode_request(record.value, record.key, now_ms=record.timestamp)
            except BadRecord as problem:
                self._dead.send(problem, record)
                continue
            right = partition_of(record.key, self._n)
            if right != batch.partition:
                self._outbox.publish(self._topic, record.key, record.value, right)
                continue
            trigger = Trigger("request", request.request_id, request.timestamp, position)
            job = Answer(batch.partition, request, trigger, owed)
            if request.after_event_id is None and request.query is None:
                self._maker.answer(job)
            else:
                owed.jobs += 1
                task = asyncio.create_task(self._prepare(job, request, owed))
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)
        owed.paid()

    async def _prepare(self, job: Answer, request: Request, owed: Owed) -> None:
        """Wait for the event, encode the query, then queue."""
        if request.after_event_id is not None:
            wanted, until = hash64(request.after_event_id), monotonic() + PATIENCE_S
            # a request waits for 50 ms at most: looking 25 times is simpler than an event per user
            while not (there := self._has(job.partition, request.user_id, wanted)) and monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
            job.stale = not there
        if request.query:
            job.query = await self._encode_query(request.query)
        self._maker.answer(job)
        owed.paid()

    def _has(self, partition: int, user_id: str, event_id: int) -> bool:
        try:
            row = self._users.rows(partition).get(user_key(user_id.encode()))
        except NotOwnedError:
            return True  # answered by the next owner
        return row is not None and event_id in row.event_ids
