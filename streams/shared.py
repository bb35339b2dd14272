"""Keeps the model up to date with what is broadcast: items, rules, generations, statistics, vectors, weights. It publishes nothing.

Bad records are passed over here: the agent that owns their partition sends them to `dead-letters` (`streams.authors`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.active import ACTIVE, Active, read_active
from engine.decode import decode_item, decode_rule, key_id
from engine.encoder import Encoder
from engine.errors import ArtefactError, BadRecord, HeadwaterError, StateError
from engine.generation import Generation
from engine.model import Model, prepare
from engine.partition import item_key
from engine.ranker import Ranker, unpack_ranker
from engine.records import Item, Rule
from engine.registry import Registry, fingerprint
from engine.rules import RuleSet, compile_rules
from engine.space import Floats
from engine.text import item_text, text_hash
from streams.engine_thread import EngineThread
from streams.itemowner import take_over
from streams.logs import logger
from streams.metrics import Metrics
from streams.topics import Names
from streams.withdrawals import Withdrawals, place_of

SLICE = 32
"""Broadcast records applied before lists may be made again: some 20 µs each, 150 µs for an item, whose words are indexed."""
RETRY_S = 5.0
"""Between two tries to fetch a generation from a registry that does not answer."""
AWAY = frozenset({"no_generation", "registry_failed"})
"""Also what a folder says that is not mounted: it looks like one in which nothing was published."""
MANY_PLACES = 20_000
"""Items that get their places in the catalogue in one go: at 1 µs for one that is new 20 ms at most, once in the life of a worker."""

log = logger(__name__)


class LiveVector(msgspec.Struct, array_like=True, frozen=True):
    """A vector made after its generation was: (D,) float16 bytes, little endian, of the text with this hash."""

    generation: str
    text_hash: str
    vector: bytes

    def read(self, dims: int) -> Floats | None:
        """(D,) float32; None for one that is damaged."""
        vector = np.frombuffer(self.vector, "<f2").astype(np.float32)
        return vector if len(vector) == dims and np.isfinite(vector).all() else None


class Loaded(NamedTuple):
    """A generation that was verified on this machine, with its encoder."""

    generation: Generation
    encoder: Encoder
    hashes: dict[str, str]  # item id -> text hash of its stored vector


class Shared:
    """The model's feeder. `apply` is what `streams.broadcast` calls with each batch.

    A swap, as `run` makes it:

    1. The generation is fetched, its sums are checked, its encoder is opened and encodes known items again: in a thread.
    2. Its items get their places in the catalogue.
    3. Its vectors are laid out and their cosines worked out, beside those in use: in a thread.
    4. Between two batches of lists the model's space, weights and generation are replaced, all at once.

    Whatever fails before 4 leaves the generation in use as it is.
    """

    def __init__(
        self,
        model: Model,
        engine: EngineThread,
        registry: Registry,
        names: Names,
        metrics: Metrics,
        withdrawals: Withdrawals,
        *,
        threads: int,
    ) -> None:
        self._model, self._engine, self._registry, self._names, self._metrics = model, engine, registry, names, metrics
        self._withdrawals, self._threads = withdrawals, threads
        self.rules: RuleSet = compile_rules(())
        self._uses, self._uses_version = 0, -1
        self._rules: dict[str, Rule] = {}
        self._live: dict[str, LiveVector] = {}
        self._rankers: dict[str, Ranker] = {}  # generation -> its weights as published last
        self._wanted: Active | None = None
        self._turn = asyncio.Event()
        self.loaded: Loaded | None = None
        self.refused: dict[str, str] = {}  # generation -> why it is not served here
        self.latest = 0  # ms, the newest event time that any worker has told of
        self.swapped = asyncio.Event()

    async def apply(self, messages: Sequence[Any]) -> None:
        """Apply a batch of broadcast records (librdkafka's messages)."""
        for start in range(0, len(messages), SLICE):
            async with self._engine.lock:
                self._apply(messages[start : start + SLICE])
            await asyncio.sleep(0)
        self._tell()

    async def run(self) -> None:
        """Follow what is announced as active, until cancelled. To be begun after the first read to the end and a first `switch`: the newest
        announcement counts, not each of the past.
        """
        while True:
            await self._turn.wait()
            self._turn.clear()
            await self.switch()

    async def switch(self) -> None:
        """Serve the generation that is announced as active, if it can be proven here; else stay with the one in use.

        If the registry does not answer, `run` tries again after a while.
        """
        wanted = self._wanted
        if wanted is None or self._serves(wanted) or wanted.id in self.refused:
            return
        began = perf_counter()
        log.info("generation_announced", generation=wanted.id, serving=self._model.generation, by=wanted.by, reason=wanted.reason)
        try:
            loaded, keys = await asyncio.to_thread(self._load, wanted)  # 1
            log.info("generation_proven", generation=wanted.id)
            await self._swap(loaded, keys)
        except (HeadwaterError, OSError) as error:
            again = error.retryable or error.code in AWAY if isinstance(error, HeadwaterError) else True
            if again:
                log.warning("generation_not_fetched", generation=wanted.id, serving=self._model.generation, reason=str(error))
                asyncio.get_running_loop().call_later(RETRY_S, self._turn.set)
                return
            self.refused[wanted.id] = str(error)
            self._metrics.refused.inc()
            log.error(  # noqa: TRY400 - an expected outcome, whose reason says all
                "generation_refused", generation=wanted.id, serving=self._model.generation, reason=str(error)
            )
            return
        self.loaded = loaded
        self.swapped.set()
        self._metrics.generation.clear()
        self._metrics.generation.labels(wanted.id).set(1)
        self._metrics.swap.set(perf_counter() - began)
        log.info("generation_active", generation=wanted.id, items=len(loaded.hashes), provider=loaded.encoder.provider)

    def _serves(self, wanted: Active) -> bool:
        if self.loaded is None or wanted.id != self._model.generation:
            return False
        return wanted.files in ("", fingerprint(self.loaded.generation.manifest))

    async def _swap(self, loaded: Loaded, keys: NDArray[np.uint64]) -> None:
        generation, catalogue = loaded.generation, self._model.catalogue
        places = np.empty(len(keys), np.int64)
        for start in range(0, len(keys), MANY_PLACES):  # 2
            async with self._engine.lock:
                places[start : start + MANY_PLACES] = catalogue.places_of(keys[start : start + MANY_PLACES])
            await asyncio.sleep(0)
        shipped, dims = generation.ranker(), generation.manifest.dims
        live = {item_id: one for item_id, one in self._live.items() if one.generation == generation.id}
        async with self._engine.lock:
            read = ((item_key(item_id), one.read(dims)) for item_id, one in live.items())
            known = {catalogue.place(key): vector for key, vector in read if vector is not None}
        prepared = await asyncio.to_thread(prepare, generation, places, catalogue, known, shipped)  # 3
        log.info("generation_prepared", generation=generation.id)
        async with self._engine.lock:  # 4
            self._rankers.setdefault(self._model.generation, self._model.ranker)  # a rollback goes on with them
            learned = self._rankers.get(generation.id)
            if learned is not None and learned.version >= (0 if shipped is None else shipped.version):
                prepared = replace(prepared, ranker=learned)
            self._model.use(prepared)
            for item_id, one in self._live.items():
                if live.get(item_id) is not one:
                    self._put_vector(item_id, one)

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

    def first_weights(self, generation_id: str) -> Ranker | None:
        """The weights that lists of the generation in use began with, None where it brought none; only of that one.

        Raises:
            KeyError: it is not in use here.
        """
        if generation_id != self._model.generation:
            raise KeyError(generation_id)
        return None if self.loaded is None else self.loaded.generation.ranker()

    def _load(self, wanted: Active) -> tuple[Loaded, NDArray[np.uint64]]:
        generation = Generation.open(self._registry.fetch(wanted.id))
        wanted.check(fingerprint(generation.manifest), self._registry.url)
        gate = generation.manifest.gate
        if gate is not None and not gate.passed and not wanted.forced:
            found = f"{wanted.id} was refused: {'; '.join(gate.reasons)}"
            raise ArtefactError(
                "gate_not_passed", found, "a generation that its gate has let through", "train again, or activate it with --force"
            )
        encoder = generation.encoder(threads=self._threads)
        generation.verify_parity(encoder)
        keys = np.fromiter((item_key(item_id) for item_id in generation.item_ids), np.uint64, len(generation.item_ids))
        return Loaded(generation, encoder, dict(zip(generation.item_ids, generation.text_hashes, strict=True))), keys

    def _put_vector(self, item_id: str, live: LiveVector) -> None:
        if live.generation == self._model.generation:
            vector = live.read(self._model.catalogue.space.dims)
            if vector is not None:
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
                    self._put_item(decode_item(value, key), key_id(key), message)
                elif topic == self._names.vectors:
                    if value is not None:
                        live = msgspec.msgpack.decode(value, type=LiveVector)
                        self._live[key.decode()] = live
                        self._put_vector(key.decode(), live)
                elif topic == self._names.weights:
                    if value is not None:
                        ranker = unpack_ranker(value)[0]
                        self._rankers[ranker.generation] = ranker
                        self._model.use_ranker(ranker)
                        self._metrics.learned.set(self._model.ranker.version)
                    else:
                        self._rankers.pop(key.decode(), None)
                elif topic == self._names.rules:
                    changed_rules = True
                    rule, rule_id = decode_rule(value, key), key_id(key)
                    if rule is None:
                        self._rules.pop(rule_id, None)
                    else:
                        self._rules[rule_id] = rule
                    self._withdrawals.ruled(rule_id, rule, place_of(message))
                elif topic == self._names.generations and key == ACTIVE and value is not None:
                    self._wanted = read_active(value)
                    self.refused.pop(self._wanted.id, None)  # said anew: it may have been mended
                    self._turn.set()
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
            self.rules = compile_rules(self._rules.values())
            self._model.use_rules(self.rules)

    def _put_item(self, item: Item | None, item_id: str, message: Any) -> None:
        catalogue, key = self._model.catalogue, item_key(item_id)
        if item is None:
            self._withdrawals.removed(key, item_id, place_of(message))
            catalogue.remove(item_id)
            return
        known = catalogue.index.get(key)
        before = None if known is None else catalogue.items[known]
        self._withdrawals.put(key, before, catalogue.put(item), item, place_of(message), self.rules)

    @property
    def known_uses(self) -> int:
        """Uses of items that are counted in what lists are made from now."""
        stats = self._model.stats
        if self._uses_version != stats.version:
            self._uses_version, self._uses = stats.version, int(stats.count.sum(dtype=np.float64))
        return self._uses

    def _tell(self) -> None:
        catalogue = self._model.catalogue
        self._metrics.items.set(int(catalogue.listable[: len(catalogue)].sum()))
        self._metrics.vectors.set(int(catalogue.space.has_vector.sum()))
        self._metrics.known_uses.set(self.known_uses)
