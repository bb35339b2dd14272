"""The agents of what people and trainers write: items, rules, generations. They check what all workers read, and encode new items.

An item is encoded once per cluster: by the worker that owns its partition of `items`, which broadcasts the vector.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from engine.active import ACTIVE, read_active
from engine.decode import decode_item, decode_rule
from engine.errors import ArtefactError, BadRecord, Problem
from engine.manifest import decode_manifest
from engine.partition import partition_of
from engine.records import Item
from streams.deadletters import DeadLetters
from streams.jobs import Query
from streams.lane import Batch
from streams.logs import logger
from streams.metrics import Metrics
from streams.outbox import Outbox
from streams.shared import LiveVector, Shared

AT_ONCE = 16
"""Texts encoded between two looks at the queue: some 50 ms in a thread of their own."""

PAUSE_EVERY = 50
"""Items looked at in one turn of the event loop: at 20 µs for text and hash 1 ms."""

log = logger(__name__)


class Authors:
    """Handlers of `items`, `rules` and `generations`, and the queue of texts to encode."""

    def __init__(
        self,
        shared: Shared,
        outbox: Outbox,
        dead: DeadLetters,
        metrics: Metrics,
        *,
        vectors_topic: str,
        owned: Callable[[], tuple[set[int], int]],
    ) -> None:
        self._shared, self._outbox, self._dead, self._metrics = shared, outbox, dead, metrics
        self._topic, self._owned = vectors_topic, owned
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._queue: dict[str, Item] = {}
        self._wake = asyncio.Event()

    async def items(self, batch: Batch) -> None:
        """Check items, and queue those whose text has no vector yet."""
        for record in batch.records:
            try:
                item = decode_item(record.value, record.key)
            except BadRecord as problem:
                self._dead.send(problem, record)
                continue
            if item is not None and self._shared.missing(item) is not None:
                self._queue[item.item_id] = item
        if self._queue:
            self._wake.set()
        batch.done()  # a crash before the vector is out is mended by `_catch_up`

    async def rules(self, batch: Batch) -> None:
        """Check rules."""
        for record in batch.records:
            try:
                decode_rule(record.value, record.key)
            except BadRecord as problem:
                self._dead.send(problem, record)
        batch.done()

    async def generations(self, batch: Batch) -> None:
        """Check what is said about generations."""
        for record in batch.records:
            try:
                if record.key is None:
                    problem = Problem("key", "missing", "null", "active, or a generation's id", "send the record with its key")
                    self._dead.send(BadRecord([problem]), record)
                elif record.value is not None and record.key == ACTIVE:
                    read_active(record.value)
                elif record.value is not None:
                    decode_manifest(record.value, f"{record.topic}[{record.partition}]@{record.offset}")
            except (BadRecord, ArtefactError) as error:
                self._dead.send(error, record)
        batch.done()

    async def query(self, text: str) -> Query | None:
        """A search as the active generation encodes it; None without a generation."""
        loaded = self._shared.loaded
        if loaded is None:
            return None
        found = await asyncio.get_running_loop().run_in_executor(self._pool, loaded.encoder.encode, [text])
        return Query(loaded.generation.id, found[0])

    async def run(self) -> None:
        """Encode what is queued, and after a swap or a start what has no vector, until cancelled."""
        known: set[int] = set()
        while True:
            partitions, _ = self._owned()
            if partitions and (self._shared.swapped.is_set() or partitions != known):
                self._shared.swapped.clear()
                known = partitions
                await self._catch_up()
            try:
                await asyncio.wait_for(self._wake.wait(), 0.5)
            except TimeoutError:
                continue
            self._wake.clear()
            while self._queue and not self._shared.swapped.is_set():  # a swap makes other vectors of all of them
                await self._encode([self._queue.pop(i) for i in list(self._queue)[:AT_ONCE]])

    async def _catch_up(self) -> None:
        """Queue the items of the owned partitions that have no vector of the active generation."""
        partitions, n = self._owned()
        for at, item in enumerate(self._shared.items()):
            if at % PAUSE_EVERY == 0:
                await asyncio.sleep(0)
            if n and partition_of(item.item_id.encode(), n) in partitions and self._shared.missing(item) is not None:
                self._queue[item.item_id] = item
        if self._queue:
            self._wake.set()

    async def _encode(self, items: list[Item]) -> None:
        loaded = self._shared.loaded
        found = [(item, missing) for item in items if (missing := self._shared.missing(item)) is not None]
        if loaded is None or not found:
            return
        vectors = await asyncio.get_running_loop().run_in_executor(self._pool, loaded.encoder.encode, [text for _, (text, _) in found])
        for (item, (_, hashed)), vector in zip(found, vectors, strict=True):
            live = LiveVector(loaded.generation.id, hashed, np.asarray(vector, "<f2").tobytes())
            self._outbox.publish(self._topic, item.item_id.encode(), msgspec.msgpack.encode(live))
        self._metrics.encoded.inc(len(found))
