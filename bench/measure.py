"""What is measured, one function each: freshness at fixed rates, the highest sustained rate, encoding, sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from bench.load import FETCH_WAIT_MS, MOCK_FETCH_WAIT_MS, Load, Reader, Run
from bench.subject import Subject
from engine.dataset import Dataset
from engine.encoder import CPU
from engine.generation import Generation
from engine.text import item_text
from streams import replay, security

RATES = (100, 300, 1_000)
WARM_S, WARM_RATE = 20.0, 500
"""Before anything is measured: a new broker compiles its own code in the first ten seconds, and answers in 100 ms meanwhile."""
PROBE_S = 10.0
SUSTAIN_S = 60.0
WORST_S = 1.0
LISTS_PER_EVENT = 0.8
LAG_GROWTH = 0.02
"""Events not in state at the end, as a share of those sent in the run, from which on the lag is said to grow."""

LINGER_MS = 5
"""How long the generator's client gathers records where rates are measured: the default of librdkafka. For freshness it sends at once."""

Say = Callable[[str], None]


def prepare(subject: Subject, data: Dataset) -> None:
    """Load the catalogue."""
    producer = replay.producer_of(subject.settings)
    try:
        replay.replay_items(data, producer, topic=subject.names.items)
    finally:
        producer.close(timeout=20)


def freshness(subject: Subject, items: Sequence[str], seconds: float, say: Say) -> dict[str, dict[str, float]]:
    """p50, p95, p99 in ms at each of `RATES`, after a warm-up."""
    config = security.librdkafka(subject.settings)
    reader = Reader(config, subject.names.recommendations, MOCK_FETCH_WAIT_MS if subject.is_mock else FETCH_WAIT_MS)
    load = Load(config, subject.names.events, items)
    load.run(WARM_RATE, WARM_S, reader)
    out = {}
    for rate in RATES:
        run = load.run(rate, seconds, reader)
        out[str(rate)] = {name: round(run.quantile_ms(q), 2) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
        say(
            f"  {rate:>5}/s  "
            + "  ".join(f"{k} {v:.1f} ms" for k, v in out[str(rate)].items())
            + f"  generator late by {run.late_s * 1000:.0f} ms at most"
        )
    reader.close()
    return out


def sustained(subject: Subject, items: Sequence[str], rates: Sequence[int], say: Say, *, lists: bool, seconds: float) -> dict[str, float]:
    """The highest of `rates` that holds: probed for 10 s each upwards, then proven for `seconds`, going down until one holds."""
    config = security.librdkafka(subject.settings)
    wait_ms = MOCK_FETCH_WAIT_MS if subject.is_mock else FETCH_WAIT_MS
    reader = Reader(config, subject.names.recommendations, wait_ms) if lists else None
    load = Load(config, subject.names.events, items, seed=1, linger_ms=LINGER_MS)
    good = []
    for rate in rates:
        if not _holds(*_timed(subject, load, rate, PROBE_S, reader, lists, say)):
            break
        good.append(rate)
    for rate in reversed(good):
        figures, held = _timed(subject, load, rate, seconds, reader, lists, say)
        if held:
            if reader is not None:
                reader.close()
            return figures
    if reader is not None:
        reader.close()
    return {"events_per_s": 0.0, "lists_per_s": 0.0, "cpu_s_per_1000": 0.0, "rss_mb": 0.0}


def _holds(_: dict[str, float], held: bool) -> bool:
    return held


def _timed(
    subject: Subject, load: Load, rate: int, seconds: float, reader: Reader | None, lists: bool, say: Say
) -> tuple[dict[str, float], bool]:
    _settle(subject)
    before, cpu = subject.applied(), subject.cpu_s()
    began = time.perf_counter()
    run: Run = load.run(rate, seconds, reader)
    took = time.perf_counter() - began
    behind = run.sent - (subject.applied() - before)
    until = time.monotonic() + 30
    while (missing := run.sent - (subject.applied() - before)) > 0 and time.monotonic() < until:
        time.sleep(0.2)
    used = subject.cpu_s() - cpu
    p99_s = run.quantile_ms(0.99) / 1000.0 if lists else 0.0
    on_time = run.late_s < 1.0
    listed = not lists or (p99_s <= WORST_S and run.lists >= LISTS_PER_EVENT * run.sent)
    held = on_time and missing == 0 and behind <= LAG_GROWTH * run.sent and listed
    figures = {
        "events_per_s": float(rate),
        "lists_per_s": round(run.lists / seconds, 1),
        "cpu_s_per_1000": round(used / run.sent * 1000, 4),
        "rss_mb": round(subject.counter("headwater_memory_bytes") / 2**20, 1),
    }
    say(
        f"  {rate:>6}/s for {seconds:g} s: {'holds' if held else 'does not hold'}; p99 {p99_s * 1000:.0f} ms, "
        f"{run.lists / run.sent:.2f} lists an event, {behind} events behind at the end, {missing} never in state, "
        f"generator late by {run.late_s * 1000:.0f} ms, {figures['cpu_s_per_1000']:.3f} CPU s per 1,000, "
        f"{figures['rss_mb']:.0f} MB, {took:.0f} s in all"
    )
    return figures, held


def _settle(subject: Subject, seconds: float = 60.0) -> None:
    """Wait until nothing of an earlier run is left to be applied."""
    until, known = time.monotonic() + seconds, -1
    while (now := subject.applied()) != known and time.monotonic() < until:
        known = now
        time.sleep(1.0)


def encoding(generation: Generation, data: Dataset, say: Say, texts: int = 400) -> dict[str, float]:
    """Texts a second on one thread, or on CUDA where it is there, for each variant that the generation keeps."""
    sample = [item_text(item, generation.template) for item in data.items[:: max(1, len(data.items) // texts)]][:texts]
    out = {}
    for name, variant in generation.manifest.variants.items():
        if variant.file:
            encoder = generation.encoder(threads=1, variant=name)
            encoder.encode(sample[:16])
            began = time.perf_counter()
            encoder.encode(sample)
            out[name] = round(len(sample) / (time.perf_counter() - began), 1)
            say(f"  {name:24} {out[name]:8.1f} texts/s on {'one thread' if encoder.provider == CPU else encoder.provider}")
    return out


def sizes(subject: Subject, dims: int) -> dict[str, float]:
    """Mean bytes of a user's row, and of an item's row with its fp16 vector, read from the changelogs."""
    users = _mean(subject, subject.names.users_changelog)
    items = _mean(subject, subject.names.items_changelog)
    return {"user": round(users, 1), "item": round(items + 2 * dims, 1)}


def _mean(subject: Subject, topic: str) -> float:
    config = security.librdkafka(subject.settings)
    consumer = Consumer({**config, "group.id": "bench-sizes", "enable.auto.commit": False, "auto.offset.reset": "earliest"})
    partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
    ends: Any = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=20)[1] for p in partitions}
    consumer.assign([TopicPartition(topic, p, 0) for p, end in ends.items() if end])
    left, last = {p for p, end in ends.items() if end}, dict[bytes, int]()
    until = time.monotonic() + 60
    while left and time.monotonic() < until:
        for message in consumer.consume(5_000, 0.5):
            if message.error() is None:
                key, value = message.key(), message.value()
                if value is not None and not key.startswith(b"\0"):
                    last[key] = len(value)
                if message.offset() + 1 >= ends[message.partition()]:
                    left.discard(message.partition())
    consumer.close()
    return sum(last.values()) / len(last) if last else 0.0
