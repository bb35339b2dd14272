"""Learns the ranker's weights from all workers' examples, and publishes them. The agent of `_examples`: one partition, one learner.

Weights belong to a generation: features of one say nothing under the weights of another. Those of the last generations are kept, so that a
rollback goes on where it left off. They stand in an internal row of the items table beside the positions of the examples they have learned:
an example counts once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import msgspec

from engine.errors import StateError
from engine.ranker import Example, Ranker, pack_ranker, unpack_ranker
from streams.lane import Batch
from streams.logs import logger
from streams.outbox import Outbox
from streams.table import CheckpointTable, NotOwnedError

ROW = b"ranker"
TICK_S = 1.0
SOURCE_PARTITION = 0
KEPT = 3
"""Generations whose weights are kept: the active one, the one before, and one that was tried between."""

log = logger(__name__)


class Learned(msgspec.Struct, array_like=True):
    """The internal row: rankers, the one that learned last at the end, as `pack_ranker` makes them; the last one has the positions."""

    rankers: list[bytes]


class Learner:
    """The rankers of partition 0, where this worker owns it.

    Args:
        items: the table whose internal row keeps them.
        outbox: where weights go out.
        topic: of the weights.
        first: the weights that a generation in use here brings, None where it brings none; KeyError for one not in use here.
        current: the weights in use here, with which a generation goes on that brings none.
    """

    def __init__(
        self,
        items: CheckpointTable[Any],
        outbox: Outbox,
        topic: str,
        first: Callable[[str], Ranker | None],
        current: Callable[[], Ranker],
    ) -> None:
        self._items, self._outbox, self._topic, self._first, self._current = items, outbox, topic, first, current
        self._decode = msgspec.msgpack.Decoder(Example).decode
        self._rows: Any = None
        self._rankers: dict[str, Ranker] = {}
        self._applied: dict[str, tuple[int, int]] = {}
        self._changed: set[str] = set()
        self._dropped: set[str] = set()

    async def handle(self, batch: Batch) -> None:
        """Learn the examples of a batch that were not learned yet."""
        if batch.partition == SOURCE_PARTITION:
            rows = self._items.rows(batch.partition)
            if rows is not self._rows:
                self._load(rows)
            learned = sum(self._learn(record) for record in batch.records)
            if learned:
                packed = [pack_ranker(ranker, {}) for ranker in self._rankers.values()]
                packed[-1] = pack_ranker([*self._rankers.values()][-1], self._applied)
                rows.set_meta(ROW, msgspec.msgpack.encode(Learned(packed)))
        batch.done()

    async def run(self) -> None:
        """Publish the weights when they changed, once a second, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.publish()

    def publish(self) -> None:
        """Publish the weights that changed."""
        if self._rows is None or self._rows.closed:
            return
        for generation in sorted(self._changed):
            ranker = self._rankers[generation]
            if ranker.finite():
                self._outbox.publish(self._topic, generation.encode(), pack_ranker(ranker, {}))
            else:
                log.error("ranker_not_finite", remedy="the last good weights stay in use; look at the examples' features")
        for generation in sorted(self._dropped):
            self._outbox.publish(self._topic, generation.encode(), None)
        self._changed.clear()
        self._dropped.clear()

    def _learn(self, record: Any) -> bool:
        """Learn one example; whether anything changed."""
        try:
            example = self._decode(record.value or b"")
            example.matrix()
        except (msgspec.DecodeError, ValueError) as error:  # of a release with other features, or none of ours
            log.warning("example_passed_over", offset=record.offset, reason=str(error)[:200])
            return False
        source = f"{example.source}/{example.partition}"
        known = self._applied.get(source)
        if known is not None and known[0] == example.epoch and example.offset <= known[1]:
            return False
        ranker = self._ranker_of(example.generation)
        if ranker is None:  # this worker has not switched yet, or never will: others' examples are a sample and may be passed over
            log.debug("example_of_another_generation", generation=example.generation)
            return False
        self._applied[source] = (example.epoch, example.offset)
        ranker.learn(example)
        self._changed.add(example.generation)
        return True

    def _ranker_of(self, generation: str) -> Ranker | None:
        """The weights of a generation, moved to the end; None where nobody here knows what they begin with."""
        ranker = self._rankers.pop(generation, None)
        if ranker is None:
            try:
                ranker = self._first(generation)
            except KeyError:
                return None
            ranker = deepcopy(self._current()) if ranker is None else ranker
            ranker.generation = generation
            while len(self._rankers) >= KEPT:
                oldest = next(iter(self._rankers))
                del self._rankers[oldest]
                self._changed.discard(oldest)
                self._dropped.add(oldest)
            self._dropped.discard(generation)
        self._rankers[generation] = ranker
        return ranker

    def _load(self, rows: Any) -> None:
        self._rows = rows
        try:
            raw = rows.meta(ROW)
        except NotOwnedError:
            return
        self._rankers, self._applied = {}, {}
        self._changed.clear()
        if raw is None:
            return
        try:
            for packed in _packed(raw):
                ranker, self._applied = unpack_ranker(packed)
                self._rankers[ranker.generation] = ranker
        except (StateError, msgspec.DecodeError) as error:
            log.warning("ranker_begins_anew", reason=str(error))


def _packed(raw: bytes) -> list[bytes]:
    """The rankers of a row; rows of before generations had their own are one ranker."""
    try:
        return msgspec.msgpack.decode(raw, type=Learned).rankers
    except msgspec.ValidationError:
        return [raw]
