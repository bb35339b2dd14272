"""Keeps the model up to date with what is broadcast: items, rules, generations, statistics, vectors, weights. It publishes nothing.

Bad records are passed over here: the agent that owns their partition sends them to `dead-letters` (`streams.authors`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from engine.active import ACTIVE, Active, read_active
from engine.decode import decode_item, decode_rule, key_id
from engine.encoder import Encoder
from engine.errors import ArtefactError, BadRecord, HeadwaterError, StateError
from engine.generation import Generation
from engine.model import Model
from engine.partition import item_key
from engine.ranker import unpack_ranker
from engine.records import Item, Rule
from engine.registry import Registry
from engine.rules import compile_rules
from engine.text import item_text, text_hash
from streams.engine_thread import EngineThread
from streams.itemowner import take_over
from streams.logs import logger
from streams.metrics import Metrics
from streams.topics import Names

log = logger(__name__)


class LiveVector(msgspec.Struct, array_like=True, frozen=True):
    """A vector made after its generation was: (D,) float16 bytes, little endian, of the text with this hash."""

    generation: str
    text_hash: str
    vector: bytes


class Loaded(NamedTuple):
    """A generation that was verified on this machine, with its encoder."""

    generation: Generation
    encoder: Encoder
    hashes: dict[str, str]  # item id -> text hash of its vector


SLICE = 32
"""Broadcast records applied before lists may be made again: some 20 µs each."""


class Shared:
    """The model's changes, in the order in which they were broadcast."""

    def __init__(self, model: Model, engine: EngineThread, registry: Registry, names: Names, metrics: Metrics, *, threads: int) -> None:
        self._model, self._engine, self._registry, self._names, self._metrics = model, engine, registry, names, metrics
        self._threads = threads
        self._rules: dict[str, Rule] = {}
        self._live: dict[str, LiveVector] = {}
        self._wanted: Active | None = None
        self.loaded: Loaded | None = None
        self.refused: dict[str, str] = {}  # generation -> why it is not served here
        self.latest = 0  # ms, the newest event time that any worker has told of
        self.held = True  # until the first read to the end: then the newest `active` counts, not each of the past
        self.swapped = asyncio.Event()

    async def apply(self, messages: Sequence[Any]) -> None:
        """Apply a batch of broadcast records (librdkafka's messages)."""
        for start in range(0, len(messages), SLICE):
            async with self._engine.lock:
                self._apply(messages[start : start + SLICE])
            await asyncio.sleep(0)
        self._tell()
        if not self.held:
            await self.switch()

    async def switch(self) -> None:
        """Serve the generation that is announced as active, if it can be proven here; else stay with the one in use."""
        self.held = False
        wanted = self._wanted
        if wanted is None or wanted.id == self._model.generation or wanted.id in self.refused:
            return
        try:
            loaded = await asyncio.to_thread(self._load, wanted.id)
            async with self._engine.lock:
                await self._engine.call(self._use, loaded)
        except (HeadwaterError, OSError) as error:
            self.refused[wanted.id] = str(error)
            log.error(  # noqa: TRY400 - an expected outcome, whose reason says all
                "generation_refused", generation=wanted.id, serving=self._model.generation, reason=str(error)
            )
            return
        self.loaded = loaded
        self.swapped.set()
        self._metrics.generation.clear()
        self._metrics.generation.labels(wanted.id).set(1)
        log.info("generation_active", generation=wanted.id, items=len(loaded.hashes), provider=loaded.encoder.provider)

    def missing(self, item: Item) -> tuple[str, str] | None:
        """Text and hash of an item that has no vector of the active generation yet, else None."""
        if self.loaded is None:
            return None
        text = item_text(item, self.loaded.generation.template)
        hashed = text_hash(text)
        live = self._live.get(item.item_id)
        if self.loaded.hashes.get(item.item_id) == hashed:
            return None
        if live is not None and live.generation == self.loaded.generation.id and live.text_hash == hashed:
            return None
        return text, hashed

    def items(self) -> list[Item]:
        """All entries of the catalogue, as of now."""
        return [item for item in list(self._model.catalogue.items) if item is not None]

    def _load(self, generation_id: str) -> Loaded:
        generation = Generation.open(self._registry.fetch(generation_id))
        encoder = generation.encoder(threads=self._threads)
        generation.verify_parity(encoder)
        return Loaded(generation, encoder, dict(zip(generation.item_ids, generation.text_hashes, strict=True)))

    def _use(self, loaded: Loaded) -> None:
        self._model.use_generation(loaded.generation)
        for item_id, live in self._live.items():
            self._put_vector(item_id, live)

    def _put_vector(self, item_id: str, live: LiveVector) -> None:
        if live.generation == self._model.generation:
            vector = np.frombuffer(live.vector, "<f2").astype(np.float32)
            if len(vector) == self._model.catalogue.dims and np.isfinite(vector).all():
                self._model.catalogue.put_vector(item_key(item_id), vector)

    def _apply(self, messages: Sequence[Any]) -> None:
        changed_items = changed_rules = False
        for message in messages:
            topic, key, value = message.topic(), message.key(), message.value()
            self._metrics.broadcast.labels(topic).inc()
            if key is None:
                continue
            try:
                if topic == self._names.item_stats:
                    if value is not None:
                        self.latest = max(self.latest, take_over(self._model, key, value))
                elif topic == self._names.items:
                    changed_items = True
                    item = decode_item(value, key)
                    if item is None:
                        self._model.catalogue.remove(key_id(key))
                    else:
                        self._model.catalogue.put(item)
                elif topic == self._names.vectors:
                    if value is not None:
                        live = msgspec.msgpack.decode(value, type=LiveVector)
                        self._live[key.decode()] = live
                        self._put_vector(key.decode(), live)
                elif topic == self._names.weights:
                    if value is not None:
                        self._model.use_ranker(unpack_ranker(value)[0])
                        self._metrics.learned.set(self._model.ranker.version)
                elif topic == self._names.rules:
                    changed_rules = True
                    rule = decode_rule(value, key)
                    if rule is None:
                        self._rules.pop(key_id(key), None)
                    else:
                        self._rules[rule.rule_id] = rule
                elif topic == self._names.generations and key == ACTIVE and value is not None:
                    self._wanted = read_active(value)
            except (BadRecord, StateError, ArtefactError, msgspec.MsgspecError, ValueError) as problem:  # ValueError: damaged arrays
                log.warning(
                    "broadcast_record_passed_over",
                    topic=topic,
                    partition=message.partition(),
                    offset=message.offset(),
                    reason=str(problem)[:300],
                )
        if changed_items:
            self._model.catalogue_changed()
        if changed_rules:
            self._model.use_rules(compile_rules(self._rules.values()))

    def _tell(self) -> None:
        catalogue = self._model.catalogue
        self._metrics.items.set(int(catalogue.listable[: len(catalogue)].sum()))
        self._metrics.vectors.set(int(catalogue.has_vector.sum()))
