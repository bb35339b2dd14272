"""A recorded data set taken in by `headwater backfill`, and by a live worker; how fast each is, and whether their state is the same."""

from __future__ import annotations

import time
from typing import Any

from bench.measure import Say, prepare
from bench.state import differences, state_of, trimmed
from bench.subject import Subject
from engine.dataset import Dataset
from streams import replay, security
from streams.group import Group

LOOK_S = 0.2
SHOWN = 5


def backfill(bootstrap: str, registry: str, generation: str, data: Dataset, activate: Any, say: Say) -> dict[str, Any]:
    """Both runs on topics of their own, events loaded before; the live one with lists, coalesced."""
    found: dict[str, Any] = {}
    states = []
    for kind in ("backfill", "live"):
        subject = Subject(bootstrap, registry)
        prepare(subject, data)
        activate(subject.settings, generation, by="bench", reason="measuring", at_ms=0)
        producer = replay.producer_of(subject.settings)
        replay.replay_events(data, producer, topic=subject.names.events)
        producer.close(timeout=20)
        if kind == "backfill":
            run = subject.backfill()
            say(f"  {run.printed}")
            found |= {"seconds": round(run.seconds, 1), "cpu_s": round(run.cpu_s, 1), "rss_mb": round(run.rss_mb), "printed": run.printed}
            say(f"  {run.seconds:.1f} s with start and end, {run.cpu_s:.1f} CPU s, {run.rss_mb:.0f} MB at most")
        else:
            began = time.perf_counter()
            with subject:
                seconds = _until_consumed(subject, began)
                memory = subject.counter("headwater_memory_bytes")
                subject.end()
            found["live_seconds"], found["live_lists"] = round(seconds, 1), subject.lists
            rate = len(data.rows) / seconds
            lists = f"lists (coalesced: {subject.lists:,.0f})"
            say(f"  live, with {lists}: {rate:,.0f} events/s, {seconds:.1f} s with its start, {memory / 2**20:.0f} MB in the end")
        config = security.librdkafka(subject.settings)
        states.append(state_of(config, subject.names.users_changelog, subject.names.items_changelog))
    unlike = differences(*states)
    found["differences"] = len(unlike)
    rows = f"{len(states[0].users):,} users' and {len(states[0].items):,} items' rows compared ({trimmed(states[0]):,} with trimmed pairs)"
    say(f"  {rows}: {', '.join(unlike[:SHOWN]) or 'the same'}")
    return found


def _until_consumed(subject: Subject, began: float) -> float:
    """Seconds until the group has committed all events and what they led to."""
    names = subject.names
    with Group(subject.settings) as group:
        parts = group.parts([names.events, names.pairs, names.examples])
        while True:
            committed = group.committed(parts)
            if all(committed[tp] >= end for tp, end in group.ends(parts).items()):
                return time.perf_counter() - began
            time.sleep(LOOK_S)
