"""Learns the ranker's weights from all workers' examples, and publishes them. The agent of `_examples`: one partition, one learner.

The ranker stands in an internal row of the items table beside the positions of the examples it has learned: an example counts once.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np

from engine.errors import StateError
from engine.item import ItemState
from engine.ranker import Example, Ranker, pack_ranker, unpack_ranker
from streams.batch import Batch
from streams.logs import logger
from streams.outbox import Outbox
from streams.table import CheckpointTable, NotOwnedError

ROW = b"ranker"
KEY = b"ranker"
TICK_S = 1.0
SOURCE_PARTITION = 0

log = logger(__name__)


class Learner:
    """The ranker of partition 0, where this worker owns it."""

    def __init__(self, items: CheckpointTable[ItemState], outbox: Outbox, topic: str) -> None:
        self._items, self._outbox, self._topic = items, outbox, topic
        self._decode = msgspec.msgpack.Decoder(Example).decode
        self._rows: Any = None
        self._ranker, self._applied = Ranker(), dict[str, tuple[int, int]]()
        self._changed = False

    async def handle(self, batch: Batch) -> None:
        """Learn the examples of a batch that were not learned yet."""
        if batch.partition == SOURCE_PARTITION:
            rows = self._items.rows(batch.partition)
            if rows is not self._rows:
                self._load(rows)
            for record in batch.records:
                try:
                    example = self._decode(record.value)
                    features = example.matrix()
                except (msgspec.DecodeError, ValueError) as error:  # of a release with other features
                    log.warning("example_passed_over", offset=record.offset, reason=str(error)[:200])
                    continue
                source = f"{example.source}/{example.partition}"
                known = self._applied.get(source)
                if known is None or known[0] != example.epoch or example.offset > known[1]:
                    self._applied[source] = (example.epoch, example.offset)
                    self._ranker.generation = example.generation
                    self._ranker.learn(features, example.situation)
                    self._changed = True
            if self._changed:
                rows.set_meta(ROW, pack_ranker(self._ranker, self._applied))
        batch.done()

    async def run(self) -> None:
        """Publish the weights when they changed, once a second, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.publish()

    def publish(self) -> None:
        """Publish the weights if they changed."""
        if self._changed and self._rows is not None and not self._rows.closed:
            if not np.isfinite(self._ranker.weights()).all():
                log.error("ranker_not_finite", remedy="the last good weights stay in use; look at the examples' features")
                return
            self._outbox.publish(self._topic, KEY, pack_ranker(self._ranker, {}))
            self._changed = False

    def _load(self, rows: Any) -> None:
        self._rows = rows
        try:
            raw = rows.meta(ROW)
        except NotOwnedError:
            return
        self._ranker, self._applied = Ranker(), {}
        if raw is not None:
            try:
                self._ranker, self._applied = unpack_ranker(raw)
            except StateError as error:
                log.warning("ranker_begins_anew", reason=str(error))
